"""The plug-in that reports to an Optuna trial and prunes it."""

import warnings
from typing import TYPE_CHECKING, Any

from helios.errors import ConfigurationError, UnknownNameError, nearest
from helios.plugins.plugin import PLUGIN_REGISTRY, Plugin

if TYPE_CHECKING:
    import optuna

    from helios.model import Model

# Optuna itself is imported where it is used: whoever has a trial has imported it already, and a
# trainer that only looks at this class, to see that it is not autoloaded, need not.

_PRUNED = "helios.pruned"
_LAST_CYCLE = "helios.last_cycle"


@PLUGIN_REGISTRY
class OptunaPlugin(Plugin):
    """Plug-in to do hyperparameter search with Optuna.

    After each validation it reports ``model.metrics[metric_name]`` and, once per validation, asks
    the trial's pruner. A pruned run ends with :class:`optuna.TrialPruned`, which the study
    expects.

    Args:
        trial: the trial that the run belongs to.
        metric_name: the entry of ``model.metrics`` to report.

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
            kwargs: what ``trial.suggest_<type_name>`` takes.

        Raises:
            UnknownNameError: there is no such kind of parameter.
        """
        kinds = ("categorical", "int", "float")
        if type_name not in kinds:
            raise UnknownNameError(
                f"{type_name!r} is not a kind of parameter: write 'categorical', 'int' or"
                f" 'float'.{nearest(type_name, kinds)}"
            )
        return getattr(self.trial, f"suggest_{type_name}")(name, **kwargs)

    def configure_trainer(self, trainer: Any) -> None:
        """Register the plug-in, and let pruning pass as something to be expected."""
        import optuna

        self._register_in_trainer(trainer)
        self._append_train_exceptions(optuna.TrialPruned, trainer)

    def configure_model(self, model: "Model") -> None:
        """Append the number of the trial to the model's save name.

        A retried trial uses the number of its first attempt, so that it finds the checkpoints.
        """
        model.rename(f"{model.save_name}_trial-{self._number()}")

    def setup(self) -> None:
        """Check that the processes of a distributed run can share the trial.

        Raises:
            ConfigurationError: the run is distributed, and the study is not in a database.
        """
        import optuna

        storage = self.trial.study._storage  # noqa: SLF001 - Optuna has no public way to ask
        kind = optuna.storages._CachedStorage  # noqa: SLF001 - Optuna has no public name for it
        if self.is_distributed and not isinstance(storage, kind):
            raise ConfigurationError(
                "a distributed run needs a study in a database, which all processes can reach:"
                " optuna.create_study(storage='sqlite:///study.db')."
            )

    def on_training_start(self) -> None:
        """Forget what an earlier run has left."""
        self._unreported_cycle = None
        self._pruned_cycle = None

    def on_validation_end(self, validation_cycle: int) -> None:
        """Remember to report: the model has yet to compute its metrics for this cycle."""
        self._unreported_cycle = validation_cycle

    def report_metrics(self, validation_cycle: int) -> None:
        """Report the metric of a cycle to the trial.

        Called by the plug-in itself after each validation; a model may call it earlier.

        Args:
            validation_cycle: the number of the validation, the step of the report.

        Raises:
            UnknownNameError: the model has no such metric.
        """
        metrics = self.trainer.model.metrics
        if self._metric_name not in metrics:
            raise UnknownNameError(
                f"the Optuna plug-in is to report {self._metric_name!r}, but model.metrics has no"
                f" such entry after validation.{nearest(self._metric_name, metrics)} Log it with"
                f" self.log({self._metric_name!r}, ...) in valid_step, or set it in"
                " on_validation_end."
            )
        if self.trainer.global_rank == 0:
            self.trial.report(float(metrics[self._metric_name]), validation_cycle)

    def should_training_stop(self) -> bool:
        """Report the validation that has just ended, and ask the pruner about it."""
        if self._unreported_cycle is not None:
            cycle, self._unreported_cycle = self._unreported_cycle, None
            self.report_metrics(cycle)
            if self.trial.should_prune():
                self._pruned_cycle = cycle
        return self._pruned_cycle is not None

    def on_training_end(self) -> None:
        """Tell the study that the trial was pruned, when everyone else has finished.

        A run that was complete anyway is not pruned. ``fit`` raises ``optuna.TrialPruned``.
        """
        if self._pruned_cycle is not None and not self.trainer.is_complete:
            self.trial.set_user_attr(_PRUNED, True)
            self.trial.set_user_attr(_LAST_CYCLE, self._pruned_cycle)
            self.trainer.raise_at_end(self._pruned())

    def check_pruned(self) -> None:
        """Raise if the trial has been pruned.

        Raises:
            optuna.TrialPruned: it has.
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

    def _number(self) -> int:
        import optuna

        callback = optuna.storages.RetryFailedTrialCallback
        frozen = self.trial.study.get_trials(deepcopy=False)[self.trial.number]
        with warnings.catch_warnings():  # the only public way to ask is marked experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            retried = callback.retried_trial_number(frozen)
        return self.trial.number if retried is None else retried
