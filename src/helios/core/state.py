"""The position of a run: the counters that hooks receive and checkpoints keep."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Self

from helios.errors import ConfigurationError


class TrainingUnit(enum.Enum):
    """What ``total_steps`` and the frequencies of a trainer count."""

    ITERATION = "iteration"
    EPOCH = "epoch"

    @classmethod
    def from_str(cls, label: str) -> Self:
        """Return the unit with this name, ``"iteration"`` or ``"epoch"``.

        Raises:
            ConfigurationError: there is no such unit.
        """
        try:
            return cls(label.lower())
        except ValueError:
            raise ConfigurationError(
                f"train_unit={label!r} is not a training unit: write 'epoch' or 'iteration'."
            ) from None


@dataclasses.dataclass(slots=True)
class TrainingState:
    """The position of a run. All counters start at 0.

    Attributes:
        current_iteration: optimizer steps taken.
        global_iteration: training batches consumed.
        global_epoch: epochs completed.
        validation_cycles: validations completed.
        dataset_iter: batches consumed in the running epoch.
        early_stop_count: validations since the last that improved the metrics.
        average_iter_time: seconds per batch, on average, in this process.
        running_iter: batches consumed in this process, thus since the last resume.
    """

    current_iteration: int = 0
    global_iteration: int = 0
    global_epoch: int = 0
    validation_cycles: int = 0
    dataset_iter: int = 0
    early_stop_count: int = 0
    average_iter_time: float = 0.0
    running_iter: int = 0

    def dict(self) -> dict[str, Any]:
        """Return the counters by name."""
        return dataclasses.asdict(self)

    def load_dict(self, counters: Mapping[str, Any]) -> None:
        """Set the counters to what :meth:`dict` returned, except those of one process."""
        for name, value in counters.items():
            setattr(self, name, value)
        self.running_iter = 0

    def units(self, unit: TrainingUnit) -> int:
        """Return how many training units are complete."""
        return self.global_epoch if unit is TrainingUnit.EPOCH else self.current_iteration
