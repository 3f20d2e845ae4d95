"""The job, which describes a run before it starts, and the outcome, its result."""

import contextlib
import dataclasses
import os
import socket
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from helios.core import Alone, Group, Place, TrainingState
from helios.data import DataModule, DatasetSplit
from helios.errors import InvalidPluginError
from helios.model import Model
from helios.model.window import Window
from helios.plugins import PluginPlan
from helios.plugins.registration.attribution import describe_owners
from helios.trainer.beginning import Beginning
from helios.trainer.checkpointer import Wanted
from helios.trainer.control import Control, StopRequest
from helios.trainer.predictions import Writer
from helios.trainer.reporter import Reporter
from helios.trainer.run_folder import RunFolder
from helios.trainer.save_settings import SaveSettings

if TYPE_CHECKING:
    from helios.trainer import Trainer
    from helios.trainer.launch.guard import Guard

Purpose = Literal["fit", "validate", "test", "predict"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """The states of model and plug-ins after training without a folder for checkpoints.

    A test sets up model and plug-ins again, and restores these states so that no weights are lost.
    """

    model: dict[str, Any]
    changes: dict[str, Any]
    plugins: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The data to predict, and the receiver of the predictions.

    Attributes:
        split: the data.
        writer: receives the predictions, if they are not collected.
    """

    split: DatasetSplit
    writer: Writer | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a run. It can be pickled.

    Attributes:
        state: the progress that the run has made.
        stop_requests: the requests to stop.
        plan: the plan of the run.
        metrics: the newest results of the model.
        trained: the states of model and plug-ins, if no checkpoint holds them.
        predictions: the predictions, if they were collected.
        failures: see :class:`~helios.trainer.reporter.Reporter`.
        folder: the files of the run.
        job_id: the id of its job; empty if no run has begun.
        model: the attributes of the trained model, or why they cannot be sent; ``None`` from the
            process that called the trainer.
    """

    state: TrainingState = dataclasses.field(default_factory=TrainingState)
    stop_requests: list[StopRequest] = dataclasses.field(default_factory=list)
    plan: PluginPlan = dataclasses.field(default_factory=lambda: PluginPlan((), ()))
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: Trained | None = None
    predictions: Any = dataclasses.field(default=None, compare=False)
    failures: list[str] | None = dataclasses.field(default=None, compare=False)
    folder: RunFolder = dataclasses.field(default_factory=lambda: RunFolder(None), compare=False)
    job_id: str = dataclasses.field(default="", compare=False)
    model: bytes | str | None = dataclasses.field(default=None, compare=False, repr=False)


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


@dataclasses.dataclass
class Job:
    """The input of each process of a run. It can be pickled if the user's objects can.

    Attributes:
        purpose: the method of the trainer that was called.
        trainer: the trainer, with its arguments and plug-ins.
        model: the model.
        datamodule: the data module.
        state: the progress of the run.
        place: the place of this process.
        group: the processes of the run.
        window: the accumulation window.
        control: the object that decides whether the run continues.
        reporter: the object that reports on the run.
        trained: the states after the training before a test, if no checkpoint holds them.
        plan: the frozen plan.
        saves: the settings for checkpoints.
        wanted: the checkpoint to evaluate, unless the run trains.
        beginning: how training begins.
        prediction: what to predict.
        folder: the files of the run.
        is_started: ``True`` if this process has begun the work.
        id: the id of the job, the same in all its processes.
        guard: the thread that watches the processes, if there are several.
        progress: returns a value that changes within an evaluation.
        is_spawned: ``True`` in a process that Helios has spawned.
        home: the id of the process that called the trainer.
    """

    purpose: Purpose
    trainer: "Trainer"
    model: Model
    datamodule: DataModule
    state: TrainingState
    place: Place
    window: Window
    control: Control
    reporter: Reporter
    trained: Trained | None = None
    plan: PluginPlan = dataclasses.field(default_factory=lambda: PluginPlan((), ()))
    saves: SaveSettings | None = None
    wanted: Wanted = None
    beginning: Beginning = dataclasses.field(default_factory=Beginning)
    prediction: Prediction | None = None
    folder: RunFolder = dataclasses.field(default_factory=lambda: RunFolder(None))
    is_started: bool = False
    group: Group = dataclasses.field(default_factory=Alone)
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    guard: "Guard | None" = None
    progress: Callable[[], Any] | None = None
    is_spawned: bool = False
    home: tuple[str, int] = dataclasses.field(default_factory=_this_process)

    @property
    def is_at_home(self) -> bool:
        """``True`` in the process that called the trainer, whose model is the user's."""
        return self.home == _this_process()

    def start(self) -> None:
        """Refuse to work twice in one process: the second time would begin with these counters."""
        if self.is_started:
            owners = describe_owners(self.trainer.plugin_manager, "launch")
            raise InvalidPluginError(
                f"plug-in {owners} called target() of launch twice in one process: call it once, or"
                " start another process. A wrapper does not call it."
            )
        self.is_started = True

    @classmethod
    def create(
        cls,
        purpose: Purpose,
        trainer: "Trainer",
        model: Model,
        datamodule: DataModule,
        state: TrainingState,
        trained: Trained | None = None,
        wanted: Wanted = None,
        beginning: Beginning | None = None,
        prediction: Prediction | None = None,
    ) -> "Job":
        """Create the job of a run that starts now."""
        window = Window(trainer.accumulation_steps, trainer.train_unit)
        control = Control(
            state,
            window,
            unit=trainer.train_unit,
            total_steps=trainer.total_steps,
            early_stop_cycles=trainer.early_stop_cycles,
            max_time=trainer.max_time,
        )
        reporter = Reporter(trainer.plugin_manager, model, state, trainer.print_banner)
        folder = RunFolder(trainer.run_root)
        return cls(
            purpose,
            trainer,
            model,
            datamodule,
            state,
            Place(trainer.device),
            window,
            control,
            reporter,
            trained,
            wanted=wanted,
            beginning=beginning or Beginning(),
            prediction=prediction,
            folder=folder,
        )

    def take(self, outcome: Outcome) -> None:
        """Take over the progress of another process, also of one that has failed."""
        self.state.load_dict(outcome.state.dict())
        self.control.requests[:] = outcome.stop_requests

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that tells the other processes of an error."""
        return contextlib.nullcontext() if self.guard is None else self.guard.reporting()

    @property
    def expected(self) -> list[type[Exception]]:
        """The exception types that are not logged as errors."""
        trainer = self.trainer
        return trainer.train_exceptions if self.purpose == "fit" else trainer.test_exceptions

    def outcome(self, trained: Trained | None = None, predictions: Any = None) -> Outcome:
        """Return the result of the run so far."""
        requests = list(self.control.requests)
        metrics = dict(self.model.metrics)
        return Outcome(
            self.state,
            requests,
            self.plan,
            metrics,
            trained,
            predictions,
            self.reporter.failures,
            self.folder,
            self.id,
        )
