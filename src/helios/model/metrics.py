"""The values that a model logs, kept on their own device until they are read."""

import numbers
from typing import Any

import torch


class MetricBuffer:
    """The running means of named values.

    Adding a value causes no host synchronisation, because tensors are summed on their own device.
    Only :meth:`read` transfers values to the host, all at once.
    """

    def __init__(self) -> None:
        self._totals: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: torch.Tensor | float) -> None:
        """Add a value to the mean of its name.

        Args:
            name: the name of the quantity.
            value: a number, or a tensor with one element.
        """
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"log({name!r}) got a tensor of shape {tuple(value.shape)}: log one number,"
                    " for example value.mean()."
                )
            # Copied because the model may change the tensor later. In float64 because the sum of
            # many values overflows smaller types.
            value = value.detach().reshape(()).to(torch.float64, copy=True)
        elif isinstance(value, numbers.Real):
            value = float(value)
        else:
            raise TypeError(
                f"log({name!r}) got a {type(value).__name__}: log a number, or a tensor with one"
                " element."
            )
        if name in self._totals:
            self._totals[name] = self._totals[name] + value
            self._counts[name] += 1
        else:
            self._totals[name] = value
            self._counts[name] = 1

    def read(self) -> dict[str, float]:
        """Return the means by name, in the order of first use, and remove all values."""
        means: dict[str, float] = {}
        by_device: dict[torch.device, dict[str, torch.Tensor]] = {}
        for name, total in self._totals.items():
            means[name] = 0.0
            if isinstance(total, torch.Tensor):
                by_device.setdefault(total.device, {})[name] = total
            else:
                means[name] = total / self._counts[name]
        for totals in by_device.values():
            values = torch.stack(list(totals.values())).tolist()
            for name, value in zip(totals, values, strict=True):
                means[name] = value / self._counts[name]
        self.clear()
        return means

    def clear(self) -> None:
        """Remove all values."""
        self._totals = {}
        self._counts = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and counts, as plain containers and tensors."""
        return {"totals": dict(self._totals), "counts": dict(self._counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._totals = dict(state_dict["totals"])
        self._counts = dict(state_dict["counts"])
