"""The fits of a trial: one, or one for each fold of a cross-validation."""

import dataclasses
import math
import secrets
import weakref
from typing import Any

from helios.plugins.optuna.trials import stored_attributes


@dataclasses.dataclass
class Fit:
    """A fit of a trial in this process.

    Attributes:
        base: the name of its model, without that of the trial.
        fold: the number of the fit among those of models with this name, from 0.
        first_step: the step of the report on its first validation.
        cycles: the number of its validations, once it has ended.
        steps: the ``total_steps`` that it has completed, infinite if it was stopped before;
            ``None`` until it ends without an error.
        key: the key under which the trial learns the end of a fit in other processes.
    """

    base: str
    fold: int
    first_step: int
    cycles: int = 0
    steps: float | None = None
    key: str = dataclasses.field(default_factory=lambda: f"helios.fit-{secrets.token_hex(4)}")

    def end(self, cycles: int, steps: float) -> dict[str, Any]:
        """Note the end, and return it as an attribute of the trial for other processes."""
        self.cycles, self.steps = cycles, steps
        return {"cycles": cycles, "steps": None if math.isinf(steps) else steps}

    def can_continue(self, total_steps: float) -> bool:
        """Return whether a fit of so many steps continues this one."""
        return self.steps is None or self.steps < total_steps


class Fits:
    """The fits of one trial in this process, in order."""

    def __init__(self) -> None:
        self._fits: list[Fit] = []

    def learn(self, trial: Any) -> None:
        """Note the ends of fits in other processes, which attributes of their trial tell."""
        for fit in self._fits:
            if fit.steps is None and (told := stored_attributes(trial).get(fit.key)):
                fit.end(told["cycles"], math.inf if told["steps"] is None else told["steps"])

    def newest(self, base: str) -> Fit | None:
        """Return the newest fit of a model with this name."""
        return next((fit for fit in reversed(self._fits) if fit.base == base), None)

    def next(self, base: str, total_steps: float) -> Fit:
        """Return the fit that a model with this name begins or continues.

        After a fit that has ended, the next one is another fold, unless it has more steps.
        """
        newest = self.newest(base)
        if newest is not None and newest.can_continue(total_steps):
            return newest
        fold = 0 if newest is None else newest.fold + 1
        # Optuna ignores a second report of a step, so the steps of all folds form one sequence.
        fit = Fit(base, fold, sum(other.cycles for other in self._fits))
        self._fits.append(fit)
        return fit


_by_trial: dict[int, Fits] = {}  # by id, because a finished trial has no hash


def fits_of(trial: Any) -> Fits:
    """Return the fits of a trial; the record ends with the trial."""
    key = id(trial)
    if key not in _by_trial:
        _by_trial[key] = Fits()
        weakref.finalize(trial, _by_trial.pop, key).atexit = False
    return _by_trial[key]
