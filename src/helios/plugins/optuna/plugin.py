"""The plug-in that reports metrics to an Optuna trial, and ends a run that Optuna prunes."""

import warnings
from typing import TYPE_CHECKING, Any

from helios.errors import ConfigurationError, UnknownNameError, nearest
from helios.plugins.plugin import PLUGIN_REGISTRY, Plugin

if TYPE_CHECKING:
    import optuna

    from helios.model import Model

# The methods import Optuna themselves. A user with a trial has already imported it. A trainer that
# reads only the class attribute ``autoload`` must not pay for the import.

_PRUNED = "helios.pruned"
_LAST_CYCLE = "helios.last_cycle"


@PLUGIN_REGISTRY
class OptunaPlugin(Plugin):
    """Plug-in for hyperparameter search with Optuna.

    After each validation, the plug-in reports ``model.metrics[metric_name]`` and asks the pruner of
    the trial once. A pruned run ends with :class:`optuna.TrialPruned`, which the study expects.

    Args:
        trial: the trial of the run.
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
        self.trial = trial
        self._metric_name = metric_name
        self._unreported_cycle: int | None = None
        self._pruned_cycle: int | None = None

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
        return getattr(self.trial, f"suggest_{type_name}")(name, **kwargs)

    def configure_trainer(self, trainer: Any) -> None:
        """Register the plug-in, and add the exception for pruning to the expected ones."""
        import optuna

        self._register_in_trainer(trainer)
        self._append_train_exceptions(optuna.TrialPruned, trainer)

    def configure_model(self, model: "Model") -> None:
        """Append the number of the trial to the model's save name.

        A retried trial uses the number of its first attempt, so it finds the checkpoints.
        """
        model.rename(f"{model.save_name}_trial-{self._number()}")

    def setup(self) -> None:
        """Check that the processes of a distributed run can share the trial.

        Raises:
            ConfigurationError: the run is distributed, but the study is not in a database.
        """
        import optuna

        storage = self.trial.study._storage  # noqa: SLF001 - Optuna has no public attribute for it
        kind = optuna.storages._CachedStorage  # noqa: SLF001 - Optuna has no public name for it
        if self.is_distributed and not isinstance(storage, kind):
            raise ConfigurationError(
                "a distributed run needs a study in a database that all processes can reach:"
                " optuna.create_study(storage='sqlite:///study.db')."
            )

    def on_training_start(self) -> None:
        """Reset the state of an earlier run."""
        self._unreported_cycle = None
        self._pruned_cycle = None

    def on_validation_end(self, validation_cycle: int) -> None:
        """Store the cycle for a later report, because the model computes its metrics after this."""
        self._unreported_cycle = validation_cycle

    def report_metrics(self, validation_cycle: int) -> None:
        """Report the metric of a cycle to the trial.

        The plug-in calls this method after each validation. A model may call it earlier.

        Args:
            validation_cycle: the number of the validation, which is the step of the report.

        Raises:
            UnknownNameError: the model does not have this metric.
        """
        metrics = self.trainer.model.metrics
        if self._metric_name not in metrics:
            raise UnknownNameError(
                f"the Optuna plug-in should report {self._metric_name!r}, but model.metrics has no"
                f" such entry after validation.{nearest(self._metric_name, metrics)} Log it with"
                f" self.log({self._metric_name!r}, ...) in valid_step, or set it in"
                " on_validation_end."
            )
        if self.trainer.global_rank == 0:
            self.trial.report(float(metrics[self._metric_name]), validation_cycle)

    def should_training_stop(self) -> bool:
        """Report the last validation to the trial, and ask its pruner."""
        if self._unreported_cycle is not None:
            cycle, self._unreported_cycle = self._unreported_cycle, None
            self.report_metrics(cycle)
            if self.trial.should_prune():
                self._pruned_cycle = cycle
        return self._pruned_cycle is not None

    def on_training_end(self) -> None:
        """Record in the trial that it was pruned, and let ``fit`` raise ``optuna.TrialPruned``.

        If the run is already complete, the trial does not count as pruned.
        """
        if self._pruned_cycle is not None and not self.trainer.is_complete:
            self.trial.set_user_attr(_PRUNED, True)
            self.trial.set_user_attr(_LAST_CYCLE, self._pruned_cycle)
            self.trainer.raise_at_end(self._pruned())

    def check_pruned(self) -> None:
        """Raise an exception if the trial is pruned.

        Raises:
            optuna.TrialPruned: the trial is pruned.
        """
        if self.trial.user_attrs.get(_PRUNED, False):
            raise self._pruned()

    def _pruned(self) -> "optuna.TrialPruned":
        import optuna

        cycle = self.trial.user_attrs.get(_LAST_CYCLE)
        return optuna.TrialPruned(f"pruned after validation cycle {cycle}")

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters of the trial."""
        return dict(self.trial.params)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, because the study holds the parameters; they are for readers of the file."""

    def _number(self) -> int:
        import optuna

        callback = optuna.storages.RetryFailedTrialCallback
        frozen = self.trial.study.get_trials(deepcopy=False)[self.trial.number]
        with warnings.catch_warnings():  # the only public function is experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            retried = callback.retried_trial_number(frozen)
        return self.trial.number if retried is None else retried
