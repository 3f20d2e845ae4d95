"""The trainer: its arguments, its plug-ins, and the methods that start a run."""

import datetime
import inspect
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from helios.core import TrainingState, TrainingUnit, rules
from helios.data import DataModule
from helios.model import Model
from helios.plugins import PluginManager
from helios.plugins.activation.activate import activate
from helios.plugins.activation.selection import PluginRequest, Selection
from helios.plugins.discovery.configuration import read_configuration
from helios.plugins.registration.table import PluginTable
from helios.trainer.arguments import foreign, settings
from helios.trainer.arguments.checks import check_arguments, check_kinds, check_step
from helios.trainer.arguments.devices import check_devices
from helios.trainer.beginning import Beginning
from helios.trainer.best import check_judge
from helios.trainer.evaluations import Evaluations
from helios.trainer.expected import ExpectedExceptions
from helios.trainer.inputs.limits import Limit, Limits
from helios.trainer.job import Job


@foreign.refuses_foreign_arguments
class Trainer(Evaluations):
    """Trains and tests models, with the installed and passed plug-ins.

    Args:
        run_name: the name of the log file in ``run_root``; ``"helios"`` by default.
        train_unit: the unit of ``total_steps`` and the frequencies: ``"epoch"``, or
            ``"iteration"`` for optimizer steps.
        total_steps: the number of units to train for; ``math.inf`` for no limit.
        valid_frequency: the number of units between validations; no validation by default. With
            epochs as the training unit, a fraction such as ``0.25`` validates inside the epoch.
        chkpt_frequency: the number of units between checkpoints. If the run has a folder for
            checkpoints, it always saves one when training ends.
        print_frequency: the number of optimizer steps between calls of loggers; by default, they
            are called once an epoch.
        accumulation_steps: the number of batches whose gradients make one optimizer step.
        enable_cudnn_benchmark: ``True`` to let cuDNN measure and choose the fastest algorithms.
        enable_deterministic: ``True`` to use only deterministic algorithms.
        early_stop_cycles: the number of validations without improvement before training stops.
        use_cpu: ``True`` for the CPU, ``False`` for a GPU; by default a GPU if one is available.
        gpus: the numbers of the GPUs to use, in a list; one process trains on each.
        devices: the number of processes that train together on this node, each on its own GPU, or
            on the CPU with ``use_cpu=True``. ``torchrun`` starts processes on several nodes.
        stall_timeout: the time after which a run on several ranks ends if one of them makes no
            progress: see ``max_time``; ``None`` for ever. Half an hour by default.
        random_seed: the seed of every generator and loader, from 0 to 2**64 - 1; 6691 by default.
        enable_progress_bar: ``True`` to show progress on the terminal or in the notebook.
        chkpt_root: the folder for checkpoints; each model has its own subfolder, named after it.
        run_root: the folder for all files of a run: log file, metrics, plan, and checkpoints
            unless ``chkpt_root`` is given.
        src_root: the folder of a package with registered classes; imported when a run starts.
        import_prefix: the dotted name of the package around ``src_root``.
        print_banner: ``True`` to print the header of a run, which the log always contains.
        plugins: plug-ins as instances, as names, or as pairs of a name and keyword arguments.
        autoload: ``True`` for all installed plug-ins, ``False`` for none, or the allowed names.
        block: the names of plug-ins that are never used.
        on_load_error: ``"raise"``, or ``"skip"`` to skip plug-ins that cannot be loaded.
        resume_plugins: the action if the plug-ins of a resumed run differ from those of its
            checkpoint: ``"warn"``, ``"strict"`` to refuse, or ``"ignore"``.
        profile_plugins: ``True`` to measure the cost of each hook of each plug-in. At the end, the
            run shows a table, and writes it as JSON in the folder of the checkpoints.
        keep_last: the number of newest checkpoints to keep, or ``"all"``. By default all, but only
            3 and the best one if ``chkpt_frequency`` asks for more than 10.
        keep_best: the number of best checkpoints to keep in addition: those that hold the weights
            of a validation that was the best so far. Such weights are saved even if no
            checkpoint is due.
        best: the metric that judges validations, and its better direction, such as
            ``("valid/loss", "min")``, with the smallest change that counts as an improvement as
            an optional third item. By default, ``Model.have_metrics_improved`` judges.
        async_checkpoints: ``True`` to write a copy of each checkpoint while training continues.
        precision: ``"fp32"``; or ``"bf16"`` or ``"fp16"`` for autocast around the model's steps,
            with scaled losses for ``"fp16"``.
        max_time: the time limit of ``fit`` or ``test``: seconds, a ``timedelta``, or
            ``"HH:MM:SS"`` or ``"D-HH:MM:SS"``. Training then saves a checkpoint and stops.
        valid_first: ``True`` to validate before the first step, too.
        fast_dev_run: ``True`` for a trial with one batch of each set, or the number of batches. It
            takes as many steps, validates once if validations are asked for, and writes its files
            into a temporary folder.
        limit_batches: the number of batches to read of each set, or the fraction of its batches,
            such as ``0.1``; or a dictionary with one of them for ``"training"``, ``"validation"``,
            ``"testing"`` or ``"prediction"``.
        overfit_batches: the number or fraction of batches on which each epoch trains again, in the
            same order. Validations read as many of their own batches.
        parallel: how several processes train a network that ``Model.prepare`` gets: ``"ddp"`` for
            PyTorch's ``DistributedDataParallel``, the default, or ``"fsdp"`` for its
            ``fully_shard``.
        virtual_ranks: the number of virtual ranks. Each optimizer step then adds up the gradients
            of so many batches in a fixed order, so that any number of processes that divides it
            trains the same weights, bit for bit.
        unknown: any other argument raises an error, which names the replacement of an old one.

    Raises:
        ConfigurationError: an argument is invalid; the message says what to write.
        RuntimeError: ``use_cpu=False``, but PyTorch finds no GPU.
        PluginError: a plug-in is invalid, in conflict with another one, or cannot be loaded.
    """

    def __init__(
        self,
        run_name: str = "",
        train_unit: TrainingUnit | str = TrainingUnit.EPOCH,
        total_steps: int | float = 0,
        valid_frequency: int | float | None = None,
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
        keep_last: int | Literal["all"] | None = None,
        keep_best: int | None = None,
        best: Sequence[Any] | None = None,
        async_checkpoints: bool = False,
        precision: str = "fp32",
        max_time: float | str | datetime.timedelta | None = None,
        devices: int | None = None,
        stall_timeout: float | str | datetime.timedelta | None = 1800,
        valid_first: bool = False,
        fast_dev_run: bool | int = False,
        limit_batches: Limit | Mapping[str, Limit] | None = None,
        overfit_batches: Limit | None = None,
        parallel: Literal["ddp", "fsdp"] | None = None,
        virtual_ranks: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        settings.refuse_unknown(unknown, list(inspect.signature(Trainer).parameters)[:-1])
        rules.check(locals(), settings.RULES)
        self.run_name = run_name
        self.train_unit = settings.check_unit(train_unit)
        self.early_stop_cycles = settings.check_count("early_stop_cycles", early_stop_cycles, 0)
        self.total_steps = settings.check_total_steps(total_steps, early_stop_cycles)
        self.valid_frequency = settings.check_valid_frequency(valid_frequency, self.train_unit)
        self.valid_first = settings.check_switch("valid_first", valid_first)
        self.chkpt_frequency = settings.check_count("chkpt_frequency", chkpt_frequency)
        self.print_frequency = settings.check_count("print_frequency", print_frequency)
        settings.check_count("accumulation_steps", accumulation_steps)
        self.accumulation_steps = accumulation_steps or 1
        settings.check_algorithms(enable_deterministic, enable_cudnn_benchmark)
        self.enable_cudnn_benchmark = enable_cudnn_benchmark
        self.enable_deterministic = enable_deterministic
        self.device, self.devices, self.gpus = check_devices(use_cpu, gpus, devices)
        self.stall_timeout = settings.check_duration("stall_timeout", stall_timeout)
        self.max_time = settings.check_duration("max_time", max_time)
        self.interruptible = self.max_time is not None
        """True if an urgent stop interrupts a validation at once. Each validation then begins
        with a copy of the state in memory, from which a resumed run repeats the validation."""
        self.precision = settings.check_precision(precision)
        self.parallel = parallel
        self.random_seed = settings.check_seed(random_seed)
        self.enable_progress_bar = enable_progress_bar
        self.run_root = settings.check_folder("run_root", run_root)
        self.chkpt_root = settings.check_chkpt_root(chkpt_root, self.run_root, chkpt_frequency)
        self.keep_last = settings.check_keep_last(keep_last, self.chkpt_root)
        self.keep_best = settings.check_retention("keep_best", keep_best, self.chkpt_root)
        self.best = settings.check_best(best)
        self.async_checkpoints = settings.check_switch("async_checkpoints", async_checkpoints)
        self.src_root = settings.check_source_root(src_root)
        self.import_prefix = import_prefix
        self.limits = Limits.of(fast_dev_run, limit_batches, overfit_batches)
        self.limits.shorten(self)
        self.virtual_ranks = settings.check_count("virtual_ranks", virtual_ranks, 1, 4096)
        self.print_banner = print_banner
        self.train_exceptions: list[type[Exception]] = ExpectedExceptions()
        self.test_exceptions: list[type[Exception]] = ExpectedExceptions()
        self.queue: Any = None
        self.resume_plugins = settings.check_policy(resume_plugins)
        self.profile_plugins = settings.check_switch("profile_plugins", profile_plugins)
        self.plugin_manager = PluginManager()
        self.configuration = read_configuration()
        selection = Selection.gather(
            plugins, autoload, block, on_load_error, configured=self.configuration
        )
        activate(selection, self, self.plugin_manager)

    @property
    def plugins(self) -> PluginTable:
        """The active plug-ins by id. Assign to a key to register, delete it to unregister."""
        return PluginTable(self.plugin_manager)

    @plugins.setter
    def plugins(self, plugins: Mapping[str, object]) -> None:
        self.plugin_manager.replace_all(plugins)

    def register_plugin(self, plugin: object, name: str | None = None) -> str:
        """Validate a plug-in and make it active; change nothing if an error is raised.

        Args:
            plugin: an instance of a ``Plugin`` subclass, or a module or object with functions
                marked ``@helios.hookimpl``.
            name: the id, for an object that does not define one.

        Returns:
            The id.

        Raises:
            InvalidPluginError: the object is not a plug-in, or one of its hooks cannot be called.
            DuplicatePluginError: another plug-in has the same id.
            PluginConflictError: another plug-in has one of the plug-in's unique capabilities.
            FrozenPlanError: a run is in progress.
        """
        return self.plugin_manager.register(plugin, name)

    def unregister_plugin(self, plug_id: str) -> Any:
        """Remove a plug-in by its id and return it.

        Raises:
            UnknownNameError: no plug-in has this id; the message suggests the nearest ids.
            FrozenPlanError: a run is in progress.
        """
        return self.plugin_manager.unregister(name=plug_id)

    def _validate_plugins(self) -> None:
        """Check all plug-ins again, as a launch does, because their flags may have changed."""
        self.plugin_manager.recheck()

    def fit(
        self,
        model: Model,
        datamodule: DataModule,
        *,
        resume: bool | str | os.PathLike[str] = True,
        init_from: str | os.PathLike[str] | None = None,
        resume_overrides: Sequence[str] = (),
    ) -> TrainingState:
        """Train a model, and resume from the newest checkpoint, if one exists.

        Args:
            model: the model to train.
            datamodule: the data module, which provides the batches.
            resume: ``True`` to resume from the newest checkpoint, if one exists; ``False`` to
                begin a new run in a folder beside the checkpoints that exist; or the path of the
                checkpoint to resume from.
            init_from: a file with the weights with which a new run begins. A run that resumes
                has those of its checkpoint.
            resume_overrides: the names of values that a resumed run takes from ``setup()`` of the
                model instead of from the checkpoint, such as ``["lr"]`` or ``["scheduler"]``.

        Returns:
            The progress that training has made.

        Raises:
            ConfigurationError: an argument is invalid.
            CheckpointError: a checkpoint or the weights in ``init_from`` do not fit the model.
            Exception: the error that was raised in the run, unchanged, with a note on its origin.
        """
        check_kinds(model, datamodule)
        check_step(model)
        check_judge(self.best, self.valid_frequency, model)
        check_arguments(self)
        is_trial = self.limits.dev_run > 0
        beginning = Beginning.of(resume, init_from, resume_overrides, is_trial=is_trial)
        job = Job.create("fit", self, model, datamodule, TrainingState(), beginning=beginning)
        with self._running(job):
            self._trained = None
            self._outcome = self._run(job)
        trained = self._outcome.trained
        self._trained = None if trained is None else (model, trained)
        return self.state
