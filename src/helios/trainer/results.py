"""The values that a model logs: handed out to loggers, and entered into its metrics."""

from helios.core import Group, TrainingState
from helios.model import Model
from helios.model.metrics import MetricBuffer
from helios.model.session import Session
from helios.plugins.calls.callers import HookCallers


class Results:
    """Reads the values that a model has logged, once, and sends them where they belong.

    Args:
        session: the session of the model, which collects the values.
        model: the model.
        hooks: the bound hooks of the run.
        state: the progress of the run.
        group: the processes of the run; all of them call each method at the same points.
        print_frequency: see :class:`~helios.trainer.Trainer`.
    """

    def __init__(
        self,
        session: Session,
        model: Model,
        hooks: HookCallers,
        state: TrainingState,
        group: Group,
        print_frequency: int | None,
    ) -> None:
        self._session = session
        self._model = model
        self._hooks = hooks
        self._state = state
        self._in_epochs = print_frequency is None
        # Of all ranks, because one of them may switch a plug-in off.
        self._has_loggers = group.agree(hooks.on_log is not None)
        self._entered: dict[str, float] = {}

    @property
    def epoch_log(self) -> MetricBuffer:
        """The buffer for values that are logged at the end of an epoch.

        Without a ``print_frequency``, loggers receive all values then, so they need not be apart.
        """
        return self._session.training_log if self._in_epochs else self._session.epoch_log

    def log_training(self) -> None:
        """Read the values logged in training since the last call, and send them to loggers."""
        self._hand_out(self._session.training_log, "training")

    def log_epoch(self) -> None:
        """Read the values logged at the end of an epoch, and send them to loggers."""
        self._hand_out(self.epoch_log, "training")

    def log_evaluation(self, phase: str) -> None:
        """Read the values logged in an evaluation, and send them to loggers."""
        self.enter()
        self._entered = {}
        self._hand_out(self._session.evaluation_log, phase)

    def enter(self) -> None:
        """Enter what the model has logged while evaluating into its metrics, once per value."""
        means = self._session.evaluation_log.means()
        new = {name: mean for name, mean in means.items() if self._entered.get(name) != mean}
        self._model.metrics.update(new)
        self._entered = means

    def _hand_out(self, log: MetricBuffer, phase: str) -> None:
        if not self._has_loggers:
            log.clear()
        elif (metrics := log.read()) and self._hooks.on_log is not None:
            self._hooks.on_log(metrics=metrics, phase=phase, state=self._state)
