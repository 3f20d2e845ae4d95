"""The trainer: its arguments, its plug-ins, and the way into a run."""

import contextlib
import datetime
import functools
import inspect
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from helios.core import TrainingState, TrainingUnit
from helios.data import DataModule
from helios.errors import ConfigurationError, nearest
from helios.model import Model
from helios.plugins import PluginManager, PluginPlan
from helios.plugins.activation import activate
from helios.plugins.attribution import author_in_stack
from helios.plugins.callers import HookCallers
from helios.plugins.configuration import read_configuration
from helios.plugins.selection import PluginRequest, Selection
from helios.plugins.table import PluginTable
from helios.trainer import settings
from helios.trainer.control import StopRequest
from helios.trainer.job import Job, Outcome, Trained
from helios.trainer.launch import launch
from helios.trainer.preparation import prepare
from helios.trainer.run import work


class Trainer:
    """Trains and tests models, with the plug-ins that are installed or passed.

    Args:
        run_name: names the log file; ``"helios"`` by default.
        train_unit: what ``total_steps`` and the frequencies count: ``"epoch"``, or
            ``"iteration"`` for optimizer steps.
        total_steps: how long to train; ``math.inf`` for until something stops it.
        valid_frequency: units between validations; never by default.
        chkpt_frequency: units between checkpoints. Where there is a folder for checkpoints, one is
            always saved when training ends.
        print_frequency: optimizer steps between calls of loggers; never by default.
        accumulation_steps: batches whose gradients make one optimizer step.
        enable_cudnn_benchmark: let cuDNN choose the fastest algorithms by trying them.
        enable_deterministic: use deterministic algorithms only.
        early_stop_cycles: stop after this many validations without improvement.
        use_cpu: ``True`` for the CPU, ``False`` for a GPU; by default a GPU if there is one.
        gpus: the number of the GPU to use, in a list.
        random_seed: reaches every generator and loader; 6691 by default.
        enable_progress_bar: show progress on the terminal or in the notebook.
        chkpt_root: the folder for checkpoints; they go into a subfolder with the model's name.
        run_root: one folder for everything: log file, metrics, plan, and the checkpoints unless
            ``chkpt_root`` is given.
        src_root: a package whose modules register classes; imported when a run starts.
        import_prefix: the dotted name of the package around ``src_root``.
        print_banner: print the header of a run; it is written to the log in any case.
        plugins: instances, names, or pairs of a name and keyword arguments.
        autoload: ``True`` to use all that is installed, ``False`` for nothing, or the names
            allowed.
        block: names of plug-ins that are never used.
        on_load_error: ``"raise"``, or ``"skip"`` to go on without what cannot be loaded.
        resume_plugins: what to do if the plug-ins are not those of the checkpoint that a run goes
            on from: ``"warn"``, ``"strict"`` to refuse, or ``"ignore"``.
        profile_plugins: measure what each hook of each plug-in costs; a table is shown at the end,
            and written as JSON beside the checkpoints.
        keep_last: how many of the newest checkpoints to keep; all by default.
        keep_best: how many to keep, besides, of those saved while the newest validation was the
            best so far, as ``Model.have_metrics_improved`` judges.
        async_checkpoints: copy what a checkpoint holds, and write it while training goes on.
        precision: ``"fp32"``; or ``"bf16"`` or ``"fp16"`` for autocast around the model's steps,
            with scaled losses for ``"fp16"``.
        max_time: how long ``fit`` or ``test`` may take: seconds, a ``timedelta``, or
            ``"HH:MM:SS"`` or ``"D-HH:MM:SS"``. Training is then saved, and stops.
        unknown: there are no other arguments; those of earlier releases are explained.

    Raises:
        ConfigurationError: an argument makes no sense; the message says what to write.
        PluginError: a plug-in is invalid, in conflict with another one, or cannot be loaded.
    """

    def __init__(
        self,
        run_name: str = "",
        train_unit: TrainingUnit | str = TrainingUnit.EPOCH,
        total_steps: int | float = 0,
        valid_frequency: int | None = None,
        chkpt_frequency: int | None = None,
        print_frequency: int | None = None,
        accumulation_steps: int = 1,
        enable_cudnn_benchmark: bool = False,
        enable_deterministic: bool = False,
        early_stop_cycles: int | None = None,
        use_cpu: bool | None = None,
        gpus: list[int] | None = None,
        random_seed: int | None = None,
        enable_progress_bar: bool = False,
        chkpt_root: str | pathlib.Path | None = None,
        run_root: str | pathlib.Path | None = None,
        src_root: str | pathlib.Path | None = None,
        import_prefix: str = "",
        print_banner: bool = True,
        *,
        plugins: Sequence[PluginRequest] = (),
        autoload: bool | Sequence[str] = True,
        block: Sequence[str] = (),
        on_load_error: Literal["raise", "skip"] = "raise",
        resume_plugins: settings.ResumePolicy = "warn",
        profile_plugins: bool = False,
        keep_last: int | None = None,
        keep_best: int | None = None,
        async_checkpoints: bool = False,
        precision: str = "fp32",
        max_time: float | str | datetime.timedelta | None = None,
        **unknown: Any,
    ) -> None:
        settings.refuse_unknown(unknown, list(inspect.signature(Trainer).parameters)[:-1])
        self.run_name = run_name
        self.train_unit = settings.check_unit(train_unit)
        self.early_stop_cycles = settings.check_count("early_stop_cycles", early_stop_cycles, 0)
        self.total_steps = settings.check_total_steps(total_steps, early_stop_cycles)
        self.valid_frequency = settings.check_count("valid_frequency", valid_frequency)
        self.chkpt_frequency = settings.check_count("chkpt_frequency", chkpt_frequency)
        self.print_frequency = settings.check_count("print_frequency", print_frequency)
        self.accumulation_steps = (
            settings.check_count("accumulation_steps", accumulation_steps) or 1
        )
        settings.check_algorithms(enable_deterministic, enable_cudnn_benchmark)
        self.enable_cudnn_benchmark = enable_cudnn_benchmark
        self.enable_deterministic = enable_deterministic
        self.device = settings.check_device(use_cpu, gpus)
        self.max_time = settings.check_duration("max_time", max_time)
        self.interruptible = self.max_time is not None
        """Whether an urgent stop leaves a validation at once. Each validation then begins with a
        copy of the state in memory, from which a resumed run repeats it."""
        self.precision = settings.check_precision(precision)
        self.random_seed = settings.check_seed(random_seed)
        self.enable_progress_bar = enable_progress_bar
        self.run_root = settings.check_folder("run_root", run_root)
        self.chkpt_root = settings.check_chkpt_root(chkpt_root, self.run_root, chkpt_frequency)
        self.keep_last = settings.check_retention("keep_last", keep_last, self.chkpt_root)
        self.keep_best = settings.check_retention("keep_best", keep_best, self.chkpt_root)
        self.async_checkpoints = settings.check_switch("async_checkpoints", async_checkpoints)
        self.src_root = settings.check_source_root(src_root)
        self.import_prefix = import_prefix
        self.print_banner = print_banner

        self.train_exceptions: list[type[Exception]] = []
        self.test_exceptions: list[type[Exception]] = []
        self.queue: Any = None
        self._job: Job | None = None
        self._outcome = Outcome()
        self._model: Model | None = None
        self._trained: tuple[Model, Trained] | None = None

        self.resume_plugins = settings.check_policy(resume_plugins)
        self.profile_plugins = settings.check_switch("profile_plugins", profile_plugins)
        self.plugin_manager = PluginManager()
        self.configuration = read_configuration()
        selection = Selection.gather(
            plugins, autoload, block, on_load_error, configured=self.configuration
        )
        activate(selection, self, self.plugin_manager)

    # What is running, and where.

    @property
    def model(self) -> Model:
        """The model of the running or last run; an ``AssertionError`` before the first."""
        assert self._model is not None, "the model is known once fit() or test() has started"
        return self._model

    @property
    def state(self) -> TrainingState:
        """The position of the running or last run."""
        return self._job.state if self._job else self._outcome.state

    @property
    def plan(self) -> PluginPlan:
        """The plan of the running or last run; empty before the first."""
        return self._job.plan if self._job else self._outcome.plan

    @property
    def stop_requests(self) -> list[StopRequest]:
        """The requests to stop the running or last run, in the order in which they came."""
        return self._job.control.requests if self._job else self._outcome.stop_requests

    @property
    def hooks(self) -> HookCallers:
        """The bound hooks: ``None`` for each that no active plug-in implements."""
        return self.plugin_manager.callers

    @property
    def is_optimizer_step(self) -> bool:
        """Whether the running batch completes an optimizer step."""
        return self._job is None or self._job.window.is_complete

    @property
    def accumulated_batches(self) -> int:
        """How many batches the running optimizer step accumulates."""
        return self._job.window.size if self._job else 1

    @property
    def is_complete(self) -> bool:
        """Whether training has taken all of its ``total_steps``."""
        return self.state.units(self.train_unit) >= self.total_steps

    @property
    def is_distributed(self) -> bool:
        """Whether several processes train together."""
        return False

    @property
    def rank(self) -> int:
        """The number of this process on its node."""
        return 0

    @property
    def global_rank(self) -> int:
        """The number of this process among all."""
        return 0

    @property
    def map_loc(self) -> str | dict[str, str]:
        """Where loaded tensors go: the ``map_location`` of :func:`torch.load`."""
        return str(self.device)

    # Plug-ins.

    @property
    def plugins(self) -> PluginTable:
        """The active plug-ins by id. Assigning to a key registers, deleting one unregisters."""
        return PluginTable(self.plugin_manager)

    @plugins.setter
    def plugins(self, plugins: Mapping[str, object]) -> None:
        self.plugin_manager.replace_all(plugins.items())

    def register_plugin(self, plugin: object, name: str | None = None) -> str:
        """Validate a plug-in and make it active; on any error nothing has changed.

        Args:
            plugin: an instance of a ``Plugin`` subclass, or a module or object with functions
                marked ``@helios.hookimpl``.
            name: the id of an object that has none of its own.

        Returns:
            The id.

        Raises:
            InvalidPluginError: the object is no plug-in, or one of its hooks cannot be called.
            DuplicatePluginError: the id is taken by another plug-in.
            PluginConflictError: another plug-in has one of the unique capabilities.
            FrozenPlanError: a run is going on.
        """
        return self.plugin_manager.register(plugin, name)

    def unregister_plugin(self, plug_id: str) -> Any:
        """Remove a plug-in by its id and return it.

        Raises:
            UnknownNameError: there is none; the message offers the nearest ids.
            FrozenPlanError: a run is going on.
        """
        return self.plugin_manager.unregister(name=plug_id)

    def _validate_plugins(self) -> None:
        """Check the table again, as launching does; flags may have been set since."""
        self.plugin_manager.recheck()

    # Runs.

    def fit(self, model: Model, datamodule: DataModule) -> TrainingState:
        """Train a model; goes on from the newest checkpoint if there is one.

        Args:
            model: what to train.
            datamodule: where the batches come from.

        Returns:
            The position that training has reached.

        Raises:
            Exception: whatever was raised in the run, itself, with a note of where it came from.
        """
        _check_kinds(model, datamodule)
        _check_step(model)
        if self.total_steps == 0:
            raise ConfigurationError(
                "total_steps is 0, so there is nothing to train: pass Trainer(total_steps=...)."
            )
        job = Job.create("fit", self, model, datamodule, TrainingState())
        with self._running(job):
            self._trained = None
            self._outcome = self._run(job)
        if self._outcome.trained is not None:
            self._trained = model, self._outcome.trained
        return self.state

    def test(self, model: Model, datamodule: DataModule) -> None:
        """Test a model: the newest checkpoint's, or the one just trained, or what it loads itself.

        Args:
            model: what to test.
            datamodule: where the batches come from.

        Raises:
            Exception: whatever was raised in the run, itself, with a note of where it came from.
        """
        _check_kinds(model, datamodule)
        known = self._trained
        trained = known[1] if known is not None and known[0] is model else None
        job = Job.create("test", self, model, datamodule, self.state, trained)
        with self._running(job):
            self._outcome = self._run(job)

    def request_stop(self, reason: str, author: str | None = None, *, urgent: bool = False) -> None:
        """Ask for training to end when the running optimizer step is complete.

        A test ends after the running batch. May be called from any hook, from the model, or from
        a signal handler.

        Args:
            reason: why; reported when training ends.
            author: who asks; found out by default.
            urgent: do not complete a validation before, where the trainer is ``interruptible``.
        """
        if author is None:
            author = author_in_stack(self.plugin_manager, self._model, inspect.currentframe())
        if self._job is not None:
            self._job.control.request(StopRequest(reason, author, urgent))

    def raise_at_end(self, error: BaseException) -> None:
        """Let ``fit`` or ``test`` raise an error when the run has ended in good order.

        By then the last checkpoint is saved, and the plug-ins and the model have been told of the
        end. The first error counts. May be called from any hook, or from a signal handler.

        Args:
            error: what to raise, for example ``SystemExit(143)``.
        """
        if self._job is not None and self._job.control.final_error is None:
            self._job.control.final_error = error

    def _run(self, job: Job) -> Outcome:
        """Run a job, in this process or in those that the launcher starts."""
        with job.reporter.accounts(job.purpose), job.reporter.errors(job.expected):
            prepare(job)
            outcome = launch(self, functools.partial(work, job))
        job.model.metrics.update(outcome.metrics)  # where another process has trained
        return outcome

    @contextlib.contextmanager
    def _running(self, job: Job) -> Iterator[None]:
        if self._job is not None:
            raise ConfigurationError(
                "this trainer is in the middle of a run: start another one with its own Trainer."
            )
        self._job, self._model = job, job.model
        try:
            yield
        except BaseException:
            self._outcome = job.outcome()
            raise
        finally:
            self._job = None
            self.plugin_manager.frozen = False


def _check_kinds(model: object, datamodule: object) -> None:
    for value, kind in ((model, Model), (datamodule, DataModule)):
        if not isinstance(value, kind):
            raise TypeError(
                f"fit() and test() take a Model and a DataModule, in this order; got"
                f" {type(value).__name__} where a {kind.__name__} belongs."
            )
        if not hasattr(value, "is_distributed"):  # a property of both, set in __init__
            raise TypeError(
                f"{type(value).__name__}.__init__ does not call super().__init__(); add the call."
            )
    taken = inspect.signature(type(model).setup).parameters  # type: ignore[attr-defined]  # a Model by now
    if "fast_init" not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        raise TypeError(
            f"{type(model).__name__}.setup() takes no fast_init: write"
            " def setup(self, fast_init: bool = False)."
        )


def _check_step(model: Model) -> None:
    if type(model).train_step is Model.train_step:
        meant = [name for name in vars(type(model)) if name.startswith("train")]
        raise TypeError(
            f"{type(model).__name__} has no train_step, so nothing would be trained: write"
            f" def train_step(self, batch, state).{nearest('train_step', meant)}"
        )
