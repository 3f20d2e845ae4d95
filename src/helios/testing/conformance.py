"""A test that every plug-in must pass, as one function call."""

import contextlib
import dataclasses
import logging
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from helios import DataModule, Model, Trainer
from helios.errors import ConfigurationError, InvalidPluginError
from helios.testing.comparison import difference
from helios.testing.recorder import FailAtOnce, Recorder, StopAfter, first_other
from helios.testing.tiny import TinyDataModule, TinyModel
from helios.testing.trained import (
    LOGGED,
    METRICS,
    MODEL,
    NUMBERS,
    STATE,
    TEST,
    Trained,
    changes,
    differences,
    lines,
    unstable,
)

_FOLDERS = ("run_root", "chkpt_root")


class ConformanceError(AssertionError):
    """Raised if a plug-in fails the conformance test."""


@dataclasses.dataclass(frozen=True)
class Conformance:
    """The result of a conformance test that a plug-in has passed.

    Attributes:
        batches: the number of training batches of an uninterrupted run.
        stops: the numbers of batches after which a run was stopped and resumed, the last two in
            one run.
        state: the state of the plug-in at the end of an uninterrupted run.
        metrics: the metrics of the model after its last validation.
    """

    batches: int
    stops: tuple[int, ...]
    state: Mapping[str, Any]
    metrics: Mapping[str, Any]


def check_conformance(
    create: Callable[[], Any],
    model: Callable[[], Model] = TinyModel,
    datamodule: Callable[[], DataModule] = TinyDataModule,
    **trainer_arguments: Any,
) -> Conformance:
    """Train a small model with a plug-in: uninterrupted, stopped and resumed, and with an error.

    The function checks that

    - the trainer can register the plug-in, and ``fit`` and ``test`` finish;
    - no hook fails, even of a plug-in with ``critical = False``, and each hook runs its body;
    - ``state_dict`` returns plain data, also before the first batch;
    - a run that stops and resumes in a new trainer receives the same batches, logs the same
      numbers, and ends with the same weights, metrics and state of the plug-in as an uninterrupted
      run. Numbers that differ in two equal runs, such as times, do not count;
    - ``wrap_batches`` passes on the batches of the loader;
    - weights, metrics and logged numbers are those of a run without the plug-in, unless the class
      says ``changes_results = True``;
    - the plug-in does not hide the error of a failing run.

    Args:
        create: a function that returns a new plug-in at each call, such as its class.
        model: a function that returns a new model at each call.
        datamodule: a function that returns a new data module at each call.
        trainer_arguments: more arguments for each trainer. ``plugins`` are added to the plug-in.

    Returns:
        Facts about the runs, for further assertions.

    Raises:
        ConformanceError: one of these checks failed.
        ConfigurationError: an argument is invalid, or model and data do not give the same results
            twice without the plug-in.

    Example:
        .. code-block:: python

            def test_conformance() -> None:
                check_conformance(lambda: EMAPlugin(decay=0.5))
    """
    __tracebackhide__ = True
    _check_arguments(create, model, datamodule, trainer_arguments)
    with tempfile.TemporaryDirectory() as folder, _few_messages():
        kit = _Kit(pathlib.Path(folder), create, model, datamodule, trainer_arguments)
        whole = kit.train(stop_after=None)
        kit.compare_without(whole)
        stops = _stops(whole.recorder.batches)
        for cuts in [*((stop,) for stop in stops[:-2]), stops[-2:]]:  # the last two in one run
            kit.compare_resumed(whole, cuts)
        kit.check_failure()
    state, metrics = whole.parts[STATE], whole.parts[METRICS]
    return Conformance(whole.recorder.batches, stops, state, metrics)


class _Kit:
    """The runs of one test, each with new objects; folders keep what one leaves for the next."""

    def __init__(
        self,
        folder: pathlib.Path,
        create: Callable[[], Any],
        model: Callable[[], Model],
        datamodule: Callable[[], DataModule],
        arguments: dict[str, Any],
    ) -> None:
        self._folder = folder
        self._create = create
        self._model = model
        self._datamodule = datamodule
        self._arguments = arguments
        self._created: list[Any] = []

    def train(self, stop_after: int | None, name: str = "whole", *, bare: bool = False) -> Trained:
        """Train with a new plug-in, and test if nothing stops the run.

        Args:
            stop_after: the number of batches before the stop; ``None`` for no stop.
            name: the name of the folder of the run.
            bare: true to train without the plug-in.
        """
        plugin = None if bare else self._new_plugin()
        recorder = Recorder(plugin)
        trainer = self._trainer(plugin, [recorder, StopAfter(stop_after)], name)
        model, datamodule = self._model(), self._datamodule()
        trainer.fit(model, datamodule)
        _require_no_quarantine(trainer)
        stopped = bool(trainer.stop_requests) or not trainer.is_complete
        parts = {
            MODEL: model.state_dict(),
            METRICS: dict(model.metrics),
            STATE: {} if bare else getattr(plugin, "state_dict", dict)(),
        }
        if stop_after is None:
            trainer.test(model, datamodule)
            _require_no_quarantine(trainer)
            parts[TEST] = dict(model.metrics)
        parts[LOGGED] = recorder.logged
        row = next((row for row in _rows(trainer) if row.plugin is plugin), None)
        says_so = row is not None and row.changes_results
        return Trained(parts, recorder, row.hooks if row else (), says_so or stopped)

    def compare_resumed(self, whole: Trained, cuts: tuple[int, ...]) -> None:
        """Require that a run which stops after some batches and resumes equals the whole one."""
        __tracebackhide__ = True
        resumed = self._stopped_and_resumed(whole, cuts)
        found = differences(whole, resumed)
        if found and found.keys() <= set(NUMBERS):
            again = self.train(None, f"again-{cuts[0]}")  # some numbers are times
            found = differences(whole, resumed, unstable(whole, again))
        if not found:
            return
        self._require_exact_model(cuts)
        changed = ", ".join(f"different {part}" for part in found)
        raise ConformanceError(
            f"a run that stops after {_listed(cuts)} batches and resumes ends with {changed} than"
            f" an uninterrupted run.\n{lines(found, 'the uninterrupted run', 'the resumed run')}\n"
            "Return everything that influences it from state_dict(), and restore it in"
            " load_state_dict()."
        )

    def _stopped_and_resumed(
        self, whole: Trained, cuts: tuple[int, ...], *, bare: bool = False
    ) -> Trained:
        """Return what the interrupted runs and the one that ends them have done together."""
        name = f"{'bare-' if bare else ''}cut-{cuts[0]}"
        runs: list[Trained] = []
        for batches in cuts:
            rest = batches - sum(run.recorder.batches for run in runs)
            if rest > 0:  # a window of accumulated batches may have ended later
                runs.append(self.train(rest, name, bare=bare))
        resumed = self.train(None, name, bare=bare)
        if resumed.recorder.batches == whole.recorder.batches and not bare:
            raise ConformanceError(
                f"a run that stops after {_listed(cuts)} batches does not resume: the next run"
                " begins anew. Let create return plug-ins that find each other's checkpoints, with"
                " the same arguments."
            )
        for run in reversed(runs):
            resumed.recorder.prepend(run.recorder)
        return resumed

    def _require_exact_model(self, cuts: tuple[int, ...]) -> None:
        """Refuse a model or data that differ after a resume without the plug-in, too."""
        bare, again = (self.train(None, f"bare-{cuts[0]}-{n}", bare=True) for n in range(2))
        resumed = self._stopped_and_resumed(bare, cuts, bare=True)
        if found := differences(bare, resumed, unstable(bare, again)):
            raise ConfigurationError(
                f"{self._objects()} differ after a stop and a resume without the plug-in, too.\n"
                f"{lines(found, 'the uninterrupted run', 'the resumed run')}\n"
                "Let their state be saved first: the plug-in cannot be tested with them."
            )

    def compare_without(self, whole: Trained) -> None:
        """Compare a run with one without the plug-in."""
        __tracebackhide__ = True
        bare = self.train(None, "bare", bare=True)
        if "wrap_batches" in whole.implements:
            other = first_other(bare.recorder.loaded, whole.recorder.loaded, whole=False)
            if other is not None:
                raise ConformanceError(
                    "wrap_batches passes on other batches than the loader gave.\n"
                    f"{lines({'batch': other}, 'the loader', 'the plug-in')}\n"
                    "Yield each batch once, unchanged and in the same order."
                )
        found = {} if whole.changes_results else changes(bare, whole)
        if not found:
            return
        again = self.train(None, "bare-again", bare=True)
        found = changes(bare, whole, unstable(bare, again))
        if not found:
            return
        if difference(bare.parts[MODEL], again.parts[MODEL]) is not None:
            raise ConfigurationError(
                f"{self._objects()} do not give the same results twice without the plug-in, so it"
                " cannot be tested with them: draw random numbers from torch, numpy or random."
            )
        raise ConformanceError(
            "the plug-in changes the results of the run.\n"
            f"{lines(found, 'the run without it', 'the run with it')}\n"
            "If it is meant to, write changes_results = True in its class. Otherwise, change no"
            " tensor of the model in place, and draw random numbers from a generator of its own:"
            " torch.Generator()."
        )

    def check_failure(self) -> None:
        """Require that the error of a run comes out."""
        __tracebackhide__ = True
        error = _Failure()
        trainer = self._trainer(self._new_plugin(), [FailAtOnce(error)], "failing")
        trainer.train_exceptions.append(_Failure)  # it need not be logged
        try:
            trainer.fit(self._model(), self._datamodule())
        except _Failure:
            _require_no_quarantine(trainer)
            return
        except InvalidPluginError as other:  # its launch hook returned no result
            raise ConformanceError("the plug-in swallows the error of a run that fails") from other
        except Exception as other:
            raise ConformanceError("the plug-in hides the error of a run that fails") from other
        raise ConformanceError("the plug-in swallows the error of a run that fails")

    def _new_plugin(self) -> Any:
        plugin = self._create()
        if not isinstance(plugin, ModuleType) and any(each is plugin for each in self._created):
            raise ConformanceError(
                "create returned the same plug-in twice, so it could keep in memory what it must"
                f" save: let it return a new {type(plugin).__name__} at each call."
            )
        self._created.append(plugin)
        return plugin

    def _trainer(self, plugin: Any, helpers: list[Any], name: str) -> Trainer:
        added = [*self._arguments.get("plugins", ()), *([] if plugin is None else [plugin])]
        return Trainer(
            **{
                "total_steps": 3,
                "valid_frequency": 1,
                "print_frequency": 2,
                "print_banner": False,
                "use_cpu": True,
                "autoload": False,
                **self._arguments,
                "run_root": self._folder / name,
                "plugins": [*added, *helpers],
            }
        )

    def _objects(self) -> str:
        return f"{type(self._model()).__name__} and {type(self._datamodule()).__name__}"


class _Failure(Exception):
    pass


@contextlib.contextmanager
def _few_messages() -> Iterator[None]:
    """Log warnings and errors only: pytest would show the headers of all runs below a failure."""
    level = logging.root.manager.disable
    logging.disable(max(level, logging.INFO))
    try:
        yield
    finally:
        logging.disable(level)


def _rows(trainer: Trainer) -> list[Any]:
    return list(trainer.plugin_manager.rows.values())


def _stops(batches: int) -> tuple[int, ...]:
    """Return after how many batches the runs stop: in each of three epochs, early and late."""
    stops = sorted({1, 2 * batches // 9, 4 * batches // 9, 8 * batches // 9} - {0})
    if batches < 2:
        raise ConfigurationError(
            f"check_conformance: a run has {batches} training batches, so none is left after a"
            " stop: pass more samples, or more total_steps."
        )
    return tuple(stops)


def _listed(cuts: tuple[int, ...]) -> str:
    return " and ".join(map(str, cuts))


def _require_no_quarantine(trainer: Trainer) -> None:
    """Require that no observer has failed; the run itself goes on without it."""
    for quarantine in trainer.plugin_manager.quarantined.values():
        raise ConformanceError(str(quarantine)) from quarantine.error


def _check_arguments(
    create: object, model: object, datamodule: object, arguments: Mapping[str, Any]
) -> None:
    functions = {"create": create, "model": model, "datamodule": datamodule}
    for name, function in functions.items():
        if isinstance(function, Model | DataModule) or not callable(function):
            label = type(function).__name__
            raise ConfigurationError(
                f"check_conformance: {name} is an object of type {label}, but each run needs a new"
                f" one: pass a function that creates it, such as lambda: {label}(...)."
            )
    for name in _FOLDERS:
        if name in arguments:
            raise ConfigurationError(
                f"check_conformance: remove {name}={arguments[name]!r}; each run has a folder of"
                " its own."
            )
