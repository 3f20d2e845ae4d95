"""Lower the learning rate when validations no longer improve."""

from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from helios import Model, Plugin


class PlateauPlugin(Plugin):
    """Steps PyTorch's ``ReduceLROnPlateau`` with a metric of each validation.

    Args:
        metric: the entry of ``model.metrics``.
        patience: the number of validations without improvement before the rate is lowered.
    """

    changes_results = True

    def __init__(self, metric: str = "accuracy", patience: int = 0) -> None:
        super().__init__("plateau")
        self.metric = metric
        self.patience = patience
        self._saved: dict[str, Any] | None = None
        self._scheduler: ReduceLROnPlateau | None = None

    def setup(self) -> None:
        """Begin each run with a new scheduler."""
        self._saved = self._scheduler = None

    def on_model_ready(self, model: Model) -> None:
        """Create the scheduler, with its state if the run resumes."""
        optimizer: torch.optim.Optimizer = model.optimizer  # type: ignore[attr-defined]
        self._scheduler = ReduceLROnPlateau(optimizer, mode="max", patience=self.patience)
        if self._saved is not None:
            self._scheduler.load_state_dict(self._saved)

    def on_validation_results(self, metrics: dict[str, Any]) -> None:
        """Let the scheduler judge the newest value."""
        assert self._scheduler is not None
        self._scheduler.step(metrics[self.metric])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler."""
        assert self._scheduler is not None
        return self._scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the optimizer exists."""
        self._saved = state_dict
