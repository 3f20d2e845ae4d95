"""A plug-in that shows the networks of a model and their sizes when training starts."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from helios.core import rules
from helios.plugins.plugin import Plugin

_UNITS = ("B", "KB", "MB", "GB", "TB")


class SummaryPlugin(Plugin):
    """Shows the parameters of each network below the header of a training run.

    The table has the number of parameters, the number of those that are trained, and the memory of
    parameters and buffers, for each network and in total. Networks may share parameters; the total
    counts each of them once. A lazy layer has no parameters before its first batch.

    Args:
        depth: the levels of layers to show below each network.

    Example:
        .. code-block:: python

            Trainer(..., plugins=["summary"])
    """

    autoload = False
    summary = "shows the networks and their sizes"

    def __init__(self, depth: int = 1) -> None:
        super().__init__("summary")
        rules.check({"depth": depth}, {"depth": _DEPTH}, "summary")
        self.depth = depth

    def setup(self) -> None:
        """Do nothing."""

    def on_training_start(self) -> None:
        """Show the table."""
        self.trainer.announce(self.as_text(self.trainer.model))

    def as_text(self, model: Any) -> str:
        """Return the table for a model that is set up, as it is now.

        Args:
            model: the model.
        """
        networks = dict(model.networks())
        rows = [row for name, network in networks.items() for row in self._rows(name, network)]
        total = _Count.of(networks.values())
        lines = [("network", "class", "parameters", "trained", "memory")]
        lines += [(name, kind, *count.cells()) for name, kind, count in rows]
        lines.append(("total", "", *total.cells()))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [f"{type(model).__name__} {model.save_name!r}"]
        for name, kind, *cells in lines:
            aligned = [cell.rjust(w) for cell, w in zip(cells, widths[2:], strict=True)]
            start = f"{name.ljust(widths[0])}  {kind.ljust(widths[1])}"
            text.append("  ".join(["", start, *aligned]).rstrip())
        if total.has_lazy:
            text.append("  (some layers are lazy: they get their parameters with the first batch)")
        return "\n".join(text)

    def _rows(self, name: str, network: nn.Module) -> Iterator[tuple[str, str, "_Count"]]:
        for path, module in network.named_modules(remove_duplicate=False):
            level = path.count(".") + 1 if path else 0
            if level <= self.depth:
                label = "  " * level + (path.rpartition(".")[2] if path else name)
                yield label, type(module).__name__, _Count.of([module])


@dataclasses.dataclass
class _Count:
    parameters: int = 0
    trained: int = 0
    size: int = 0
    has_lazy: bool = False

    @classmethod
    def of(cls, modules: Iterable[nn.Module]) -> "_Count":
        """Count the parameters of modules, each once."""
        count = cls()
        tensors: dict[int, torch.Tensor] = {}
        for module in modules:
            for parameter in module.parameters():
                tensors[id(parameter)] = parameter
            for buffer in module.buffers():
                tensors[id(buffer)] = buffer
        for tensor in tensors.values():
            if is_lazy(tensor):
                count.has_lazy = True
                continue
            count.size += tensor.numel() * tensor.element_size()
            if isinstance(tensor, nn.Parameter):
                count.parameters += tensor.numel()
                count.trained += tensor.numel() * tensor.requires_grad
        return count

    def cells(self) -> tuple[str, str, str]:
        """Return the numbers as text."""
        return f"{self.parameters:,}", f"{self.trained:,}", _bytes(self.size)


def _bytes(size: float) -> str:
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


_DEPTH = rules.whole("write the number of levels to show, from 0 up.", 0)
