"""Validations inside an epoch, at fractions of it."""

import math
from collections.abc import Callable
from fractions import Fraction

from helios.core import TrainingState
from helios.errors import ConfigurationError


class FractionsOfEpoch:
    """Finds out when the next fraction of an epoch is complete.

    The fractions count from the beginning of training: with 0.3, they are complete after 0.3, 0.6,
    0.9, 1.2 epochs. So a resumed run finds the same moments.

    Args:
        fraction: the part of an epoch between two validations.
        state: the progress of the run.
        per_epoch: returns the number of batches in an epoch.
    """

    def __init__(
        self, fraction: float, state: TrainingState, per_epoch: Callable[[], int | float]
    ) -> None:
        self._fraction = Fraction(str(fraction))  # 0.1 is meant, not its nearest binary number
        self._state = state
        self._per_epoch = per_epoch
        self._complete = 0

    def begin(self) -> None:
        """Count from the present position.

        Raises:
            ConfigurationError: the number of batches in an epoch is unknown.
        """
        self._complete = self._count()

    def take(self) -> bool:
        """Return whether a fraction is complete since the last call."""
        before, self._complete = self._complete, self._count()
        return self._complete > before

    def _count(self) -> int:
        state, batches = self._state, self._per_epoch()
        if math.isinf(batches):
            raise ConfigurationError(
                f"valid_frequency={float(self._fraction)} is a fraction of an epoch, but the number"
                ' of batches of a stream is unknown: pass train_unit="iteration" with a number of'
                " optimizer steps."
            )
        return int(
            (state.global_epoch + Fraction(state.dataset_iter, int(batches))) / self._fraction
        )
