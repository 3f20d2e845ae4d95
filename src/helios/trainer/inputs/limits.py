"""The limits of a run: fewer batches of each set, for trials and for the search of errors."""

import dataclasses
import itertools
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from helios.core import TrainingUnit
from helios.core.rules import shown
from helios.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from helios.trainer import Trainer

PHASES = ("training", "validation", "testing", "prediction")
Limit = int | float
"""A number of batches, or a fraction of all batches of a set."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The batches that a run reads of each set.

    Attributes:
        by_phase: the limit of each phase that has one.
        repeats: ``True`` if each epoch trains on the batches of the first one.
        dev_run: the number of batches and steps of a trial; 0 for other runs.
    """

    by_phase: Mapping[str, Limit] = dataclasses.field(default_factory=dict)
    repeats: bool = False
    dev_run: int = 0

    @classmethod
    def of(
        cls,
        fast_dev_run: bool | int,
        limit_batches: Limit | Mapping[str, Limit] | None,
        overfit_batches: Limit | None,
    ) -> "Limits":
        """Return the limits for these arguments of a trainer.

        Raises:
            ConfigurationError: an argument is invalid, or two of them contradict each other.
        """
        given = {
            "fast_dev_run": None if fast_dev_run is False else fast_dev_run,
            "limit_batches": limit_batches,
            "overfit_batches": overfit_batches,
        }
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise ConfigurationError(
                f"{' and '.join(f'{name}={shown(given[name])}' for name in names)} limit the same"
                " batches: write one of them."
            )
        if fast_dev_run is not False:
            batches = _check_dev_run(fast_dev_run)
            return cls(dict.fromkeys(PHASES, batches), dev_run=batches)
        if overfit_batches is not None:
            limit = _check("overfit_batches", overfit_batches)
            return cls({"training": limit, "validation": limit}, repeats=True)
        if isinstance(limit_batches, Mapping):
            return cls(
                {
                    _phase(p): _check(f"limit_batches[{p!r}]", limit_batches[p])
                    for p in limit_batches
                }
            )
        if limit_batches is not None:
            return cls(dict.fromkeys(PHASES, _check("limit_batches", limit_batches)))
        return cls()

    def number(self, phase: str, batches: int | None) -> int | None:
        """Return the number of batches to read in a phase; ``None`` for all of them.

        Args:
            phase: one of :data:`PHASES`.
            batches: the number of batches in the set; ``None`` if it is unknown, as for a stream.

        Raises:
            ConfigurationError: the limit is a fraction of an unknown number.
        """
        limit = self.by_phase.get(phase)
        if limit is None or limit == batches:
            return None
        if isinstance(limit, int):
            return limit if batches is None else min(limit, batches)
        if batches is None:
            raise ConfigurationError(
                f"the limit {limit} is a fraction of the {phase} batches, but the number of batches"
                " of a stream is unknown: write a number of batches, such as 100."
            )
        return max(1, int(batches * limit))

    def shorten(self, trainer: "Trainer") -> None:
        """Let a trainer do a trial: a few steps and one validation, with files that do not stay."""
        if not self.dev_run:
            return
        in_epochs = trainer.train_unit is TrainingUnit.EPOCH
        trainer.total_steps = steps = 1 if in_epochs else self.dev_run
        trainer.valid_frequency = None if trainer.valid_frequency is None else steps
        trainer.chkpt_frequency = None if trainer.chkpt_frequency is None else steps
        if trainer.chkpt_root is not None:
            folder = pathlib.Path(tempfile.mkdtemp(prefix="helios-trial-"))
            weakref.finalize(trainer, shutil.rmtree, folder, ignore_errors=True)
            trainer.run_root = None if trainer.run_root is None else folder
            trainer.chkpt_root = folder / "checkpoints"

    def story(self) -> str:
        """Return a line about the limits for the start of a run; ``""`` without limits."""
        if self.dev_run:
            batches = f"{self.dev_run} batch{'es' * (self.dev_run > 1)}"
            return f"fast_dev_run: a trial with {batches} of each set, whose files are deleted"
        if not self.by_phase:
            return ""
        parts = [f"{phase} {_shown(limit)}" for phase, limit in self.by_phase.items()]
        if self.repeats:
            return f"overfit_batches: each epoch repeats the same batches ({', '.join(parts)})"
        return f"limit_batches: this run reads fewer batches ({', '.join(parts)})"


class FirstBatches:
    """The first batches of a loader.

    Args:
        batches: the batches of the loader.
        number: the number of batches to read.
    """

    def __init__(self, batches: Any, number: int) -> None:
        self._batches = batches
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._batches, name)  # plug-ins may ask for its dataset, for example

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self._batches), self._number)


def first(batches: Iterable[Any], number: int | None) -> Iterable[Any]:
    """Return the first batches, or all of them if the number is ``None``."""
    return batches if number is None else FirstBatches(batches, number)


def _check_dev_run(value: Any) -> int:
    if value is True:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(
            f"fast_dev_run={shown(value)}: write True for one batch of each set, or the number of"
            " batches."
        )
    return value


def _check(name: str, value: Any) -> Limit:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_right = is_number and (value >= 1 if isinstance(value, int) else 0 < value <= 1)
    if not is_right:
        raise ConfigurationError(
            f"{name}={shown(value)}: write a number of batches, such as 10, or a fraction of all"
            " batches, such as 0.1."
        )
    return value  # type: ignore[no-any-return]  # an int or a float


def _phase(name: Any) -> str:
    if name not in PHASES:
        raise ConfigurationError(
            f"limit_batches has the key {shown(name)}: write {', '.join(map(repr, PHASES))}."
            f"{nearest(str(name), PHASES)}"
        )
    return str(name)


def _shown(limit: Limit) -> str:
    return f"{limit:.2%}" if isinstance(limit, float) else str(limit)
