"""A run before it starts and after it has ended: the job of its processes, and the outcome."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from helios.core import TrainingState
from helios.data import DataModule
from helios.model import Model
from helios.model.window import Window
from helios.plugins import PluginPlan
from helios.trainer.checkpointer import SaveSettings
from helios.trainer.control import Control, StopRequest
from helios.trainer.reporter import Reporter

if TYPE_CHECKING:
    from helios.trainer import Trainer

Purpose = Literal["fit", "test"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """The states that training without a folder for checkpoints has reached.

    Testing sets model and plug-ins up anew, which must not cost the weights.
    """

    model: dict[str, Any]
    plugins: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is left of a run. It can be pickled.

    Attributes:
        state: the position that the run has reached.
        stop_requests: the requests to stop.
        plan: what was active.
        metrics: the newest results of the model.
        trained: the states of model and plug-ins, if no checkpoint holds them.
    """

    state: TrainingState = dataclasses.field(default_factory=TrainingState)
    stop_requests: list[StopRequest] = dataclasses.field(default_factory=list)
    plan: PluginPlan = dataclasses.field(default_factory=lambda: PluginPlan((), ()))
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: Trained | None = None


@dataclasses.dataclass
class Job:
    """Everything that a process of a run needs. It can be pickled if what users passed can.

    Attributes:
        purpose: what the run is for.
        trainer: its arguments and its table of plug-ins.
        model: the model.
        datamodule: the data.
        state: the position of the run.
        window: the accumulation window.
        control: decides whether the run goes on.
        reporter: speaks for the run.
        trained: for a test: the states that the training before it has reached.
        plan: the frozen plan.
        saves: how checkpoints are kept.
    """

    purpose: Purpose
    trainer: "Trainer"
    model: Model
    datamodule: DataModule
    state: TrainingState
    window: Window
    control: Control
    reporter: Reporter
    trained: Trained | None = None
    plan: PluginPlan = dataclasses.field(default_factory=lambda: PluginPlan((), ()))
    saves: SaveSettings | None = None

    @classmethod
    def create(
        cls,
        purpose: Purpose,
        trainer: "Trainer",
        model: Model,
        datamodule: DataModule,
        state: TrainingState,
        trained: Trained | None = None,
    ) -> "Job":
        """Create the job of a run that begins now."""
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
        return cls(purpose, trainer, model, datamodule, state, window, control, reporter, trained)

    @property
    def expected(self) -> list[type[Exception]]:
        """The types of exceptions that are not logged as faults."""
        trainer = self.trainer
        return trainer.train_exceptions if self.purpose == "fit" else trainer.test_exceptions

    def outcome(self, trained: Trained | None = None) -> Outcome:
        """Return what is left of the run as it stands."""
        requests = list(self.control.requests)
        return Outcome(self.state, requests, self.plan, dict(self.model.metrics), trained)
