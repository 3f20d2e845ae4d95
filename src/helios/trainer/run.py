"""A run in one process: set up, restore, and train."""

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

from helios.core import AverageTimer, rng, update_all_registries
from helios.model.changes import Changes
from helios.model.metric_objects import MetricObjects
from helios.model.model import overrides
from helios.model.modes import Modes
from helios.model.optimizer_record import OptimizerRecord
from helios.model.optimizers import Optimizers
from helios.model.overrides import Overrides
from helios.model.precision import Precision
from helios.model.releases import call_with_flag
from helios.plugins import Plugin
from helios.plugins.run_properties import set_properties
from helios.trainer import hyper_parameters, loops, parts
from helios.trainer.arguments import unused
from helios.trainer.best import Validations
from helios.trainer.checkpointer import Checkpointer
from helios.trainer.control_points import create_points
from helios.trainer.initial_weights import load_initial_weights
from helios.trainer.inputs.batches import Batches
from helios.trainer.inputs.fractions_of_epoch import FractionsOfEpoch
from helios.trainer.inputs.wrapped_batches import counted_hook
from helios.trainer.interrupts import Interrupts
from helios.trainer.job import Job, Trained
from helios.trainer.parallelism import begin_parallel, create_parallel, share_logs
from helios.trainer.process import determinism, log_file
from helios.trainer.results import Results
from helios.trainer.step_contexts import StepContexts
from helios.trainer.teardown import Teardown
from helios.trainer.verdicts import verdict
from helios.trainer.virtual.run import batches_of, session_class, steps_of


class Run:
    """A run in one process, and the objects that live as long as it.

    Only the loops receive a ``Run``; other objects receive the parts that they need.
    """

    def __init__(self, job: Job) -> None:
        trainer = job.trainer
        assert job.saves is not None, "the job was prepared"
        self.job = job
        self.trainer = trainer
        self.model = job.model
        self.state = job.state
        self.window = job.window
        self.control = job.control
        self.manager = trainer.plugin_manager
        self.hooks = trainer.hooks
        self.place = job.place
        self.group = job.group
        create_batches = functools.partial(
            Batches,
            job.datamodule,
            self.state,
            self.window,
            counted_hook(self.manager),
            trainer.random_seed,
            limits=trainer.limits,
        )
        self.batches = batches_of(job, create_batches)
        optimizers = Optimizers(self.model)
        self.parallel = create_parallel(job)
        self.session = session_class(job)(
            self.place,
            self.hooks,
            self.state,
            self.window,
            Precision(trainer.precision, self.place.device.type, optimizers.name_of),
            optimizers,
            Changes(self.model, optimizers),
            Modes(self.model),
            MetricObjects(self.model),
            self.batches.training_size,
            self.batches.count_in_epoch,
            is_training=job.purpose == "fit",
            keeps_training_values=trainer.print_frequency is not None
            or self.group.agree(self.hooks.on_log is not None),
            parallel=self.parallel,
        )
        self.session.batches_per_evaluation = lambda: self.batches.per_evaluation
        share_logs(job, self.session, self.batches)
        self.batches.begin_set = self.session.evaluation_log.begin_set
        job.progress = lambda: self.session.batch
        is_strict = not overrides(self.model, "load_state_dict")
        self.overrides = Overrides(self.model, job.beginning.overrides)
        self.optimizers = OptimizerRecord(self.model, self.overrides, is_strict=is_strict)
        self.results = Results(
            self.session, self.model, self.hooks, self.state, self.group, trainer.print_frequency
        )
        self._first_steps: unused.FirstSteps | None = None
        self.is_first_window = True
        self.generators = parts.Generators()
        self.validations = Validations(
            trainer.best, self.model, self.state, trainer.train_unit, self.group
        )
        self.plugin_states = parts.PluginStates(self.manager)
        self.hyper_parameters = hyper_parameters.HyperParameters(trainer, job.model, job.datamodule)
        self.checkpoints = Checkpointer(
            job.saves,
            self._parts(),
            self.generators,
            self.model,
            self.state,
            job.plan,
            self.place,
            self.group,
            self.session,
            lambda path, state: self.manager.hook.on_checkpoint_saved(path=path, state=state),
        )
        self.timer = AverageTimer()
        self.points = create_points(job, self.session.evaluation_log)
        frequency = trainer.valid_frequency
        self._fractions = (
            FractionsOfEpoch(frequency, self.state, lambda: self.batches.per_epoch)
            if isinstance(frequency, float)
            else None
        )
        self._model_may_stop = overrides(self.model, "should_training_stop")
        self.may_stop = (
            self._model_may_stop
            or self.hooks.should_training_stop is not None
            or self.control.has_deadline
            or self._fractions is not None
            or self.place.is_distributed
        )
        # The object whose steps the loops call, and the hooks of its batches.
        self.step_model, self.step_hooks = steps_of(
            job,
            self.session,
            self.batches,
            self._model_context,
            functools.partial(loops.require_batch, self),
        )
        self.has_step_contexts = self.step_model is self.model and (
            self.hooks.step_context is not None
            or not self.session.precision.is_full
            or (self.parallel is not None and self.parallel.needs_batches)
        )

    def _parts(self) -> list[parts.Part]:
        return parts.parts_of_training(
            state=self.state,
            model=self.model,
            optimizers=self.optimizers,
            session=self.session,
            window=self.window,
            datamodule=self.job.datamodule,
            batches=self.batches,
            control=self.control,
            plugins=self.plugin_states,
            generators=self.generators,
            validations=self.validations,
            folder=self.job.folder,
            hyper_parameters=self.hyper_parameters,
            group=self.group,
            place=self.place,
        )

    @contextlib.contextmanager
    def lending(self) -> Iterator[None]:
        """Set the place of the user's objects, and the model's session until the end."""
        facts = {**self.place.facts(), "trainer": self.trainer}
        rows = self.manager.rows.values()
        plugins = [row.plugin for row in rows if isinstance(row.plugin, Plugin)]
        for owner in (*plugins, self.model, self.job.datamodule):
            set_properties(owner, facts)
        self.manager.built_in.device = self.place.device
        self.model.session = self.session
        try:
            yield
        finally:
            self.session.close()
            self.model.session = None

    def fit(self, teardown: Teardown) -> Trained | None:
        """Train, and return the states of model and plug-ins if no checkpoint holds them."""
        report, model = self.job.reporter, self.model
        interrupts = Interrupts(self.control)
        if self.trainer.chkpt_root is not None:
            teardown.enter(interrupts)
        teardown.push(self.checkpoints.close)
        self.checkpoints.open()
        self._set_up(teardown, fast_init=False)
        if self.job.saves is not None and self.job.saves.kept.story:
            report.show(self.job.saves.kept.story)
        path = self.checkpoints.begin_restore(self.job.beginning.checkpoint, compare_plans=True)
        self._complete_model()
        self.optimizers.note()
        self.overrides.note()
        datamodule = self.job.datamodule
        report.warn(unused.unused_in_training(self.trainer, model, datamodule, self.hooks))
        teardown.push(self.checkpoints.flush)  # before the plug-ins are torn down
        self.checkpoints.restore()
        if path is None:
            self._load_initial_weights()
        else:
            self._override()
            if not self.control.is_finished():
                self.checkpoints.require_space(path)
            report.show_restored(path, self.validations.story_of_weights())
            self.manager.hook.on_checkpoint_loaded(path=path, state=self.state)
        self.session.changes.hold()
        self.batches.begin_phase()
        if self._fractions is not None:
            self._fractions.begin()
        is_over = path is not None and self._is_over()
        self._find_files(path, is_over=is_over)
        if is_over:
            report.show_nothing_to_train(self.control.reason_to_end())
        # The first process logged the values of its start, and its checkpoint holds them.
        with self.session.logging_to(None if path else self.session.training_log):
            self.manager.hook.on_training_start()
            model.on_training_start()
        self.session.modes.remember()
        model.train()
        self.session.changes.start()
        self.session.modes.remember()  # a checkpoint may have changed them
        self.generators.restore()  # last, because every process draws while it starts
        self.manager.late_changes.check()
        report.doing = "training"
        self.timer.start()
        self._first_steps = unused.FirstSteps(model)
        interrupts.loses_nothing = True
        self.points.begin()
        try:
            loops.train(self)
            self.points.meet()  # a signal may have come since
            self.session.require_same_weights()
        finally:
            interrupts.loses_nothing = False
        self.check_first_steps(is_over=True)
        if self.trainer.limits.dev_run and self.trainer.chkpt_root is None:
            self.checkpoints.check()
        self.checkpoints.finish()
        report.doing = "ending the training of"
        report.show_stops(self.control.requests)
        # A checkpoint holds what a run that was stopped has not handed out; a resumed run does so.
        is_last = self.control.has_ended() and not self.control.validation_due
        is_last = is_last or self.trainer.chkpt_root is None
        if is_last:
            self.results.log_training()
        self.manager.hook.on_training_end()
        model.on_training_end()
        if is_last:
            self.results.log_training()
        if self.trainer.chkpt_root is not None:
            return None
        state, plugins = map(self.session.whole, (model.state_dict(), self.manager.state_dict()))
        return Trained(state, self.session.changes.copy(), plugins)

    def _is_over(self) -> bool:
        """Return whether a restored run has reached its end, and completed that moment."""
        is_at_end_of_epoch = self.state.dataset_iter == self.batches.per_epoch
        is_complete = not self.control.validation_due and not is_at_end_of_epoch
        return is_complete and self.control.has_ended()

    def _set_up(self, teardown: Teardown, *, fast_init: bool) -> None:
        trainer, job = self.trainer, self.job
        teardown.enter(determinism(trainer.enable_cudnn_benchmark, trainer.enable_deterministic))
        rng.seed_rngs(trainer.random_seed)
        if trainer.run_root is not None and self.place.rank == 0:
            teardown.enter(log_file(trainer.run_root, trainer.run_name))
        job.reporter.show_header(self.place, job.plan)
        if story := trainer.limits.story():
            job.reporter.show(story)
        job.reporter.warn(unused.unused_names(self.model, job.datamodule))
        if trainer.src_root is not None:
            update_all_registries(trainer.src_root, import_prefix=trainer.import_prefix)
        for row in self.manager.rows.values():
            self.manager.call_one(row, "setup")
            if row.id not in self.manager.quarantined:
                call = functools.partial(self.manager.call_one, row, "teardown")
                teardown.push(call, functools.partial(self._owner, row.id))
        self.manager.late_changes.check()
        job.datamodule.run_setup()
        teardown.push(job.datamodule.teardown, lambda: type(job.datamodule).__name__)
        teardown.push(self.batches.close)
        call_with_flag(self.model.setup, fast_init=fast_init)

    def _complete_model(self) -> None:
        """Let plug-ins change the model that ``setup`` has created, before it is restored."""
        self.manager.hook.on_model_ready(model=self.model)
        begin_parallel(self.job, self.parallel)
        self.session.changes.set_up()

    def _load_initial_weights(self) -> None:
        path = self.job.beginning.init_from
        if path is not None:
            self.job.reporter.show(load_initial_weights(self.model, path))

    def _override(self) -> None:
        """Replace restored values by those of ``setup()``, and say so."""
        beginning, overridden = self.job.beginning, self.optimizers.overridden
        self.overrides.apply(overridden)
        for (name, _), change in overridden.items():
            self.job.reporter.show(f"resume_overrides: {change} ({name})")
        if beginning.init_from is not None:
            self.job.reporter.show(
                f"init_from={str(beginning.init_from)!r} is not used, because the run resumes"
            )

    def _owner(self, plug_id: str) -> str:
        return f"plug-in {self.manager.describe(plug_id)}"

    def _find_files(self, checkpoint: pathlib.Path | None, *, is_over: bool = False) -> None:
        """Use the files of the run that is resumed or tested, or a place for new ones.

        Training that is over, and a test, leave the plan of their run as it was.
        """
        folder, plan, saves = self.job.folder, self.job.plan, self.job.saves
        if saves is not None and saves.leaves_run:
            folder.load_state_dict(None)
            checkpoint, is_over = None, False
        if self.place.rank > 0:
            pass  # the process with rank 0 writes the files
        elif folder.find(checkpoint):
            if self.session.is_training and not is_over:
                folder.write(plan)
        elif not is_over and folder.claim(plan):
            self.job.reporter.show_used_folder(folder.path("plan.json"))
        if self.place.rank == 0 and self.session.is_training and not is_over:
            folder.write_facts(hyper_parameters.FILE, self.hyper_parameters.to_dict())
        folder.enter(self.group.broadcast(folder.place))

    # Methods for the loops.

    def is_validation_first(self) -> bool:
        """Return whether a validation is due before the first step."""
        state = self.state
        is_new = state.global_iteration == 0 and state.validation_cycles == 0
        return self.trainer.valid_first and is_new

    def check_first_steps(self, outputs: Any = None, *, is_over: bool = False) -> None:
        """Warn if training has changed no weights; called after the first window and epoch.

        Args:
            outputs: the value that the model's ``train_step`` has returned.
            is_over: ``True`` if an epoch or training is over.
        """
        if not is_over:
            self.session.require_same_weights()
        if self._first_steps is None or (is_over and self.is_first_window):
            return  # nothing was trained yet
        self.is_first_window = False
        has_optimized = self.session.has_optimized
        problem = self._first_steps.problem(outputs, has_optimized=has_optimized, is_over=is_over)
        if problem or is_over:
            self._first_steps = None
        self.job.reporter.warn([problem] if problem else [])

    def must_keep_best(self) -> bool:
        """Return whether to save the weights of this moment, because they are the best so far."""
        saves = self.job.saves
        return saves is not None and saves.keep_best is not None and self.validations.is_at_best()

    def should_stop(self) -> None:
        """Check whether the plug-in, the model or the time limit stops training.

        A validation at a fraction of an epoch is requested here, too.
        """
        hook = self.hooks.should_training_stop
        if hook is not None and hook():
            self.control.decide(self.manager.claimant("should_training_stop"))
        if self._model_may_stop:
            answer = self.model.should_training_stop()
            if verdict(self.model, "should_training_stop", answer):
                self.control.decide("the model")
        if self._fractions is not None and self._fractions.take():
            self.control.ask("a validation")
        self.control.is_stop_requested()
        if self.window.is_complete and (self.points.is_due() or loops.is_decisive(self)):
            self.points.meet()

    def step_context(self, phase: str) -> contextlib.AbstractContextManager[Any]:
        """Return the context manager around a step of :attr:`step_model`."""
        if self.step_model is not self.model:
            return contextlib.nullcontext()  # it enters one for each virtual rank
        return self._model_context(phase)

    def _model_context(self, phase: str) -> contextlib.AbstractContextManager[Any]:
        autocast = self.session.precision.autocast
        if self.parallel is not None and phase == "training":
            self.parallel.synchronize(is_last=self.window.is_complete)
        if self.hooks.step_context is None:
            return autocast
        return StepContexts([autocast, *self.hooks.step_context(phase=phase)])

    def end_epoch(self) -> None:
        """Look at the first steps, and hand out what was logged at the end of an epoch."""
        self.check_first_steps(is_over=True)
        self.results.log_epoch()
