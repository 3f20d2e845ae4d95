"""The progress of a run: the counters that hooks receive and checkpoints store."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Self

from helios.core.rules import shown
from helios.errors import ConfigurationError


class TrainingUnit(enum.Enum):
    """The unit of ``total_steps`` and the frequencies of a trainer."""

    ITERATION = "iteration"
    EPOCH = "epoch"

    @classmethod
    def from_str(cls, label: str) -> Self:
        """Return the unit with this name, ``"iteration"`` or ``"epoch"``.

        Raises:
            ConfigurationError: no unit has this name.
        """
        try:
            return cls(label.lower())
        except ValueError:
            raise ConfigurationError(
                f"train_unit={shown(label)} is not a training unit: write 'epoch' or 'iteration'."
            ) from None


@dataclasses.dataclass(slots=True)
class TrainingState:
    """The progress of a run. All counters start at 0.

    Attributes:
        current_iteration: the number of optimizer steps taken.
        global_iteration: the number of training batches consumed.
        global_epoch: the number of completed epochs.
        validation_cycles: the number of completed validations.
        dataset_iter: the number of batches consumed in the current epoch.
        early_stop_count: the number of validations since the last one that improved the metrics.
        average_iter_time: the average time per batch in this process, in seconds.
        running_iter: the number of batches consumed in this process, since it started or resumed.
    """

    current_iteration: int = 0
    global_iteration: int = 0
    global_epoch: int = 0
    validation_cycles: int = 0
    dataset_iter: int = 0
    early_stop_count: int = 0
    average_iter_time: float = 0.0
    running_iter: int = 0

    @property
    def epoch_number(self) -> int:
        """The number of the epoch of the newest batch, counted from 1, as people count."""
        return self.global_epoch + bool(self.dataset_iter)

    def dict(self) -> dict[str, Any]:
        """Return the counters by name."""
        return dataclasses.asdict(self)

    def load_dict(self, counters: Mapping[str, Any]) -> None:
        """Restore the counters that :meth:`dict` returned, and reset ``running_iter``."""
        for name, value in counters.items():
            setattr(self, name, value)
        self.running_iter = 0

    def units(self, unit: TrainingUnit) -> int:
        """Return the number of complete training units."""
        return self.global_epoch if unit is TrainingUnit.EPOCH else self.current_iteration
