"""A plug-in that logs learning rates."""

from typing import Any

import torch
from torch.optim import Optimizer

from helios.core import TrainingState
from helios.plugins.builtin.cadence import CadencePlugin
from helios.plugins.markers import hookimpl


class LearningRateMonitorPlugin(CadencePlugin):
    """Logs the learning rate of each optimizer, whenever loggers are called.

    The value is the rate of the newest step that the model took with ``self.optimize()``, or the
    present rate if it takes its steps by hand. Its name is ``lr/`` and the name of the attribute
    that holds the optimizer, such as ``lr/optimizer``. If an optimizer has several groups of
    parameters, the number of the group follows: ``lr/optimizer/0``.

    Example:
        .. code-block:: python

            Trainer(..., plugins=["lr-monitor"])
    """

    autoload = False
    summary = "logs learning rates"

    def __init__(self) -> None:
        super().__init__("lr-monitor")
        self._names: dict[Optimizer, str] = {}
        self._rates: dict[str, list[Any]] = {}

    def setup(self) -> None:
        """Begin each run without rates."""
        super().setup()
        self._names, self._rates = {}, {}

    @hookimpl(trylast=True)
    def on_gradients_ready(self, optimizer: Optimizer, state: TrainingState) -> None:
        """Remember the rates of the step that follows, because schedulers advance after it."""
        name = self._names.get(optimizer) or self._name(optimizer)
        rates = [group["lr"] for group in optimizer.param_groups]
        # PyTorch changes a rate that is a tensor in place.
        self._rates[name] = [r.clone() if isinstance(r, torch.Tensor) else r for r in rates]

    def state_dict(self) -> dict[str, Any]:
        """Return the rates of the newest step; an optimizer may step less often than loggers."""
        return {"rates": self._rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._rates = dict(state_dict["rates"])

    def _name(self, optimizer: Optimizer) -> str:
        found = self.trainer.model.session.named_optimizers()
        self._names = {each: name for name, each in found.items()}
        return self._names.setdefault(optimizer, type(optimizer).__name__)

    def _report(self, state: TrainingState) -> None:
        optimizers = self.trainer.model.session.named_optimizers().items()
        present = {name: [g["lr"] for g in each.param_groups] for name, each in optimizers}
        for name, rates in {**present, **self._rates}.items():
            for number, rate in enumerate(rates):
                self.log(f"lr/{name}/{number}" if len(rates) > 1 else f"lr/{name}", rate)
