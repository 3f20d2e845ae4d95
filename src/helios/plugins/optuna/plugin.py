"""The plug-in that reports metrics to an Optuna trial, and ends a run that Optuna prunes."""

import logging
import weakref
from typing import TYPE_CHECKING, Any

from helios.core import TrainingState
from helios.errors import CheckpointError, ConfigurationError, UnknownNameError, nearest
from helios.plugins import once
from helios.plugins.markers import hookimpl
from helios.plugins.optuna import places, trials
from helios.plugins.optuna.folds import Fit, fits_of
from helios.plugins.plugin import PLUGIN_REGISTRY, Plugin

if TYPE_CHECKING:
    import optuna

    from helios.model import Model

_logger = logging.getLogger(__name__)

_PRUNED = "helios.pruned"
_LAST_CYCLE = "helios.last_cycle"
_PLAN = "helios.plan"
_REPORTS = "helios.reports"


@PLUGIN_REGISTRY
class OptunaPlugin(Plugin):
    """Plug-in for hyperparameter search with Optuna.

    After each validation, the plug-in reports ``model.metrics[metric_name]`` and asks the pruner of
    the trial once. A pruned run ends with :class:`optuna.TrialPruned`, which the study expects.

    Each trial saves its checkpoints in a folder of its own. It resumes only from its own
    checkpoints, even if other studies use the same folder. Several fits in one trial are the folds
    of a cross-validation; each has a folder, too.

    Args:
        trial: the trial of the run; also a ``FixedTrial`` or ``study.best_trial``.
        metric_name: the reported entry of ``model.metrics``.

    Example:
        .. code-block:: python

            def objective(trial: optuna.Trial) -> float:
                plugin = OptunaPlugin(trial, "accuracy")
                trainer = helios.Trainer(total_steps=10, valid_frequency=1, plugins=[plugin])
                model = Classifier(lr=plugin.suggest("float", "lr", low=1e-4, high=1e-1))
                trainer.fit(model, data)
                return model.metrics["accuracy"]
    """

    plugin_id = "optuna"
    autoload = False

    def __init__(self, trial: "optuna.Trial", metric_name: str) -> None:
        super().__init__(self.plugin_id)
        self.unique_overrides.should_training_stop = True
        self._trial: Any = trials.check_trial(trial)
        self._metric_name = metric_name
        self._configured: Any = None  # the newest trainer, which may not run yet
        self._models: list[tuple[weakref.ref[Model], str, Fit | None]] = []
        self._is_running = False
        self._begin()

    def _begin(self) -> None:
        """Reset the state of an earlier run."""
        self._fit: Fit | None = None
        self._reports: dict[int, float] = {}
        self._steps: set[int] = set()
        self._is_restored = False
        self._has_validated = False
        self._has_warned = False
        self._pruned_cycle: int | None = None
        self._verdict: bool | None = None  # of the pruner, about the newest report

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for another process; a weak reference cannot be sent."""
        models = [(model(), base, fit) for model, base, fit in self._models]
        return {**vars(self), "_models": [each for each in models if each[0] is not None]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes in another process."""
        vars(self).update(state)
        self._models = [(weakref.ref(model), base, fit) for model, base, fit in state["_models"]]

    @property
    def trial(self) -> Any:
        """The trial of the next run. If you assign another one, the models get its name."""
        return self._trial

    @trial.setter
    def trial(self, trial: "optuna.Trial") -> None:
        if self._is_running:
            raise ConfigurationError(
                f"OptunaPlugin.trial: the run of trial {self._trial.number} is in progress. Assign"
                " another trial after it."
            )
        self._trial, self._verdict = trials.check_trial(trial), None
        models, self._models = self._models, []
        for model, base, _ in models:
            self._name(model(), base)

    def suggest(self, type_name: str, name: str, **kwargs: Any) -> Any:
        """Let the trial suggest a value.

        Args:
            type_name: ``"categorical"``, ``"int"`` or ``"float"``.
            name: the name of the parameter.
            kwargs: the keyword arguments of ``trial.suggest_<type_name>``.

        Raises:
            UnknownNameError: the kind of parameter is unknown.
        """
        kinds = ("categorical", "int", "float")
        if type_name not in kinds:
            raise UnknownNameError(
                f"{type_name!r} is not a kind of parameter: write 'categorical', 'int' or"
                f" 'float'.{nearest(type_name, kinds)}"
            )
        return getattr(self._trial, f"suggest_{type_name}")(name, **kwargs)

    # Before a run.

    def configure_trainer(self, trainer: Any) -> Any:
        """Register the plug-in, and add the exception for pruning to the expected ones."""
        import optuna

        self._register_in_trainer(trainer)
        if optuna.TrialPruned not in trainer.train_exceptions:
            self._append_train_exceptions(optuna.TrialPruned, trainer)
        self._configured, models = trainer, self._models
        self._models = [each for each in models if each[2] is not None]
        for model, base, _ in (each for each in models if each[2] is None):  # without a folder
            self._name(model(), base)
        return once.AGAIN if trials.ready(trainer) is None else None

    def configure_model(self, model: "Model") -> None:
        """Append the number of the trial to the model's save name.

        A retried trial uses the number of its first attempt, so it finds the checkpoints. If a
        folder of this name belongs to another trial, a number follows. Ranks find it in ``fit``.
        """
        self._name(model, model.save_name)

    def _name(self, model: "Model | None", base: str) -> None:
        if model is None:  # the user has dropped it
            return
        trainer, fit = trials.ready(self._configured), None
        name = f"{base}_trial-{trials.number_of(self._trial)}"
        if trainer is not None:
            fits = fits_of(self._trial)
            fits.learn(self._trial)
            is_test = trainer.state.global_iteration > 0  # a fit begins with new counters
            fit = (fits.newest(base) if is_test else None) or fits.next(base, trainer.total_steps)
            name += f"_fold-{fit.fold}" if fit.fold else ""
            trials.require_same(trainer.group, self._trial)
            name = places.agreed(trainer, name, self._identity)
        model.rename(name)
        self._models.append((weakref.ref(model), base, fit))

    def _identity(self) -> places.Identity:
        trial, study = self._trial, trials.study_of(self._trial)
        if trials.is_finished(trial) and trial.user_attrs.get(_PRUNED, False):
            # Optuna never prunes it again, but its checkpoints end where it was pruned.
            trials.renew_key(trial)
            trial.set_user_attr(_PRUNED, False)
        return places.Identity(
            trials.key_of(trial),
            trials.number_of(trial),
            None if study is None else study.study_name,
            trials.plain_parameters(trial),
        )

    # The run.

    def setup(self) -> None:
        """Check that the processes of a distributed run can share the trial.

        Raises:
            ConfigurationError: the run is distributed, but the study is not in a database.
        """
        if self.is_distributed:
            trials.require_shared(self._trial)
        self._begin()
        self._is_running = True

    def on_checkpoint_loaded(self, path: Any, state: TrainingState) -> None:
        """Remember that the run resumes."""
        self._is_restored = True

    def on_training_start(self) -> None:
        """Prepare the reports; say so if the plug-in will never report."""
        trainer, trial = self.trainer, self._trial
        self._fit = self._fit_of(trainer.model)
        if self._is_restored:
            self._refuse_repeated_fold()
        if trainer.run_root is not None and self.global_rank == 0:
            trial.set_user_attr(_PLAN, str(trainer.run_path("plan.json")))
        if trials.has_several_objectives(trial):
            _logger.info(
                "Optuna plug-in: the study has several objectives. Optuna then has neither reports"
                " nor pruning, so %r is not reported.",
                self._metric_name,
            )
            return
        if trainer.valid_frequency is None:
            _logger.warning(
                "Optuna plug-in: this run never validates, so %r is never reported and the trial is"
                " never pruned. Pass Trainer(valid_frequency=...).",
                self._metric_name,
            )
        self._steps = trials.reported_steps(trial) if self.global_rank == 0 else set()
        for cycle, value in self._reports.items():  # a retried trial has lost them
            self._report(value, cycle)
        self._pruned_cycle = self._restored_verdict()

    def _fit_of(self, model: "Model") -> Fit:
        for known, _, fit in self._models:
            if known() is model and fit is not None:
                return fit
        return fits_of(self._trial).next(model.save_name, self.trainer.total_steps)

    def _refuse_repeated_fold(self) -> None:
        """Refuse a fit that would return the result of an earlier one.

        Raises:
            ConfigurationError: an earlier fit of this trial has trained the model to its end.
        """
        assert self._fit is not None
        if self._fit.steps is not None and not self._fit.can_continue(self.trainer.total_steps):
            model = self.trainer.model
            raise ConfigurationError(
                f"an earlier fit of trial {self._trial.number} has trained this"
                f" {type(model).__name__} to its end in {model.save_name!r}, so this fit would"
                " return the same result. Create a new model for each fold. To train longer, pass"
                " a larger total_steps."
            )

    def _restored_verdict(self) -> int | None:
        """Return the cycle after which the restored run was pruned, if it was."""
        requests = self.trainer.stop_requests
        if any(each.is_decided and each.author == self.plug_id for each in requests):
            return self.trainer.state.validation_cycles - 1
        return None

    def on_validation_end(self, validation_cycle: int) -> None:
        """Remember that the data have a validation set."""
        self._has_validated = True

    def on_validation_results(self, improved: bool, validation_cycle: int) -> None:
        """Report the metric to the trial, and ask its pruner; stop training if it prunes."""
        if not self._has_validated:
            self._warn_of_data()
            return
        if trials.has_several_objectives(self._trial):
            return
        self.report_metrics(validation_cycle)
        self._verdict = self.trainer.group.broadcast(self._is_pruned())
        if self._verdict and not trials.is_at_end(self.trainer, improved):
            self._pruned_cycle = validation_cycle
            self.trainer.request_stop(
                f"Optuna prunes trial {self._trial.number} after validation cycle"
                f" {validation_cycle}",
                final=True,
            )

    def _is_pruned(self) -> bool:
        """Return the answer of the pruner, which rank 0 asks once per report."""
        if self._verdict is None:
            is_asked = self.global_rank == 0 and not trials.has_several_objectives(self._trial)
            self._verdict = is_asked and bool(self._trial.should_prune())
        return self._verdict

    # The loop asks the hook of this name after each batch, so the method has another one.
    @hookimpl(specname="optuna_prunes", optionalhook=True)
    def should_training_stop(self) -> bool:
        """Return whether the pruner ends the trial, for callers other than the trainer."""
        return self._is_pruned()

    def _warn_of_data(self) -> None:
        """Say once that validations are due, but the data have no validation set."""
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "Optuna plug-in: the data module has no validation set, so %r is never reported and"
                " the trial is never pruned.",
                self._metric_name,
            )

    def report_metrics(self, validation_cycle: int) -> None:
        """Report the metric of a cycle to the trial, once.

        The plug-in calls this method after each validation. A model may call it earlier.

        Args:
            validation_cycle: the number of the validation, which is the step of the report. The
                steps of several folds form one sequence.

        Raises:
            UnknownNameError: the model does not have this metric.
            TypeError: the metric is not a number.
        """
        number = trials.number_in(self.trainer.model.metrics, self._metric_name)
        self._report(number, validation_cycle)

    def _report(self, value: float, cycle: int) -> None:
        step = cycle + (0 if self._fit is None else self._fit.first_step)
        self._reports.setdefault(cycle, value)
        if step not in self._steps and self.global_rank == 0:
            self._trial.report(value, step)
            self._steps.add(step)
            self._verdict = None

    def on_training_end(self) -> None:
        """Record in the trial that it was pruned, and let ``fit`` raise ``optuna.TrialPruned``.

        If the run is already complete, the trial does not count as pruned.
        """
        trainer, fit = self.trainer, self._fit
        assert fit is not None
        steps = trainer.total_steps if trainer.is_complete else float("inf")
        end = fit.end(trainer.state.validation_cycles, steps)
        if self.world_size > 1 and self.global_rank == 0:
            self._trial.set_user_attr(fit.key, end)
        if self._pruned_cycle is not None and not self._has_finished():
            if self.global_rank == 0:
                self._trial.set_user_attr(_PRUNED, True)
                self._trial.set_user_attr(_LAST_CYCLE, self._pruned_cycle)
            trainer.raise_at_end(_pruned(self._pruned_cycle))
        elif self.global_rank == 0 and self._trial.user_attrs.get(_PRUNED, False):
            self._trial.set_user_attr(_PRUNED, False)  # of an attempt that has been lost

    def _has_finished(self) -> bool:
        by_model = any(r.is_decided and r.author == "the model" for r in self.trainer.stop_requests)
        return by_model or self.trainer.is_complete

    def check_pruned(self) -> None:
        """Raise an exception if the trial is pruned.

        Raises:
            optuna.TrialPruned: the trial is pruned.
        """
        if self._trial.user_attrs.get(_PRUNED, False):
            raise _pruned(self._trial.user_attrs.get(_LAST_CYCLE))

    def on_testing_start(self) -> None:
        """Refuse to test a new model without weights in place of the one that was trained.

        Raises:
            ConfigurationError: the model has no checkpoint, but an earlier fit of the trial has.
        """
        fit = self._fit_of(self.trainer.model)
        has_folder = self.trainer.chkpt_root is not None
        if has_folder and fit.fold and fit.steps is None and not self._is_restored:
            raise ConfigurationError(
                f"test() of a new model in trial {self._trial.number} finds no checkpoint. Test the"
                " model that was trained, or use the trainer that trained it, or pass"
                " checkpoint=..."
            )

    def teardown(self) -> None:
        """Let the user assign another trial."""
        self._is_running = False

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters of the trial, and its reports so far."""
        reports = [[cycle, value] for cycle, value in self._reports.items()]
        state = trials.plain_parameters(self._trial)
        return {**state, _REPORTS: reports} if reports else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the reports; they are made again in a trial that has lost them.

        Raises:
            CheckpointError: the checkpoint to resume from was saved with other parameters.
        """
        parameters = dict(state_dict)
        self._reports = dict(parameters.pop(_REPORTS, []))
        names = trials.differing(parameters, trials.plain_parameters(self._trial))
        if names and self.trainer.model.session.is_training:
            model = self.trainer.model
            now = trials.plain_parameters(self._trial)
            changes = ", ".join(
                f"{name}: {parameters[name]!r}, now {now[name]!r}" for name in names
            )
            raise CheckpointError(
                f"the checkpoint in {model.save_name!r} was saved with other parameters than trial"
                f" {self._trial.number} has ({changes}). Pass another folder as chkpt_root, or"
                " another save_name."
            )


def _pruned(cycle: int | None) -> "optuna.TrialPruned":
    import optuna

    return optuna.TrialPruned(f"pruned after validation cycle {cycle}")
