"""The launch of the processes of a run: here, in those of ``torchrun``, or in spawned ones."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from helios.core.rules import shown
from helios.errors import InvalidPluginError
from helios.trainer.job import Outcome
from helios.trainer.launch.membership import joined

if TYPE_CHECKING:
    from helios.trainer import Trainer

__all__ = ["joined", "launch"]


def launch(trainer: "Trainer", target: Callable[[], Outcome], job_id: str) -> Outcome:
    """Run a job with the ``launch`` hook of a plug-in, or in this process if none implements it.

    Args:
        trainer: the trainer, whose plan is frozen.
        target: the function that does the work of one process.
        job_id: the id of the job, by which the outcome of another one is recognised.

    Raises:
        InvalidPluginError: a ``launch`` hook did not return what ``target`` returned.
    """
    if trainer.hooks.launch is None:
        return target()
    outcome = trainer.hooks.launch(trainer=trainer, target=target)
    if not isinstance(outcome, Outcome) or outcome.job_id != job_id:
        launcher = trainer.plugin_manager.claimant("launch")
        returned = "the outcome of another run" if isinstance(outcome, Outcome) else shown(outcome)
        raise InvalidPluginError(
            f"plug-in {trainer.plugin_manager.describe(launcher)} returned {returned} from launch:"
            " call target(), and return what target() returned in the process with global rank 0."
        )
    return outcome
