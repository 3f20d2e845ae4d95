"""The launch of the processes of a run: here, in those of ``torchrun``, or in spawned ones."""

import functools
from collections.abc import Callable

from helios.core.rules import shown
from helios.errors import InvalidPluginError
from helios.trainer.job import Job, Outcome
from helios.trainer.launch.membership import joined
from helios.trainer.launch.spawn import spawn
from helios.trainer.launch.transport import bring_back, is_shipped

__all__ = ["joined", "launch"]


def launch(job: Job, target: Callable[[], Outcome]) -> Outcome:
    """Run a job with the ``launch`` hook of a plug-in, in spawned processes, or in this one.

    Args:
        job: the job, whose plan is frozen.
        target: the function that does the work of one process.

    Raises:
        InvalidPluginError: a ``launch`` hook did not return what ``target`` returned.
    """
    trainer = job.trainer
    launcher = trainer.plugin_manager.claimant("launch")
    if not launcher:
        target = functools.partial(_start, job, target)
    if trainer.hooks.launch is None:
        return target()
    try:
        outcome = trainer.hooks.launch(trainer=trainer, target=target)
    except BaseException as error:
        if is_shipped(error):  # another process has called on_exception and written the notes
            job.reporter.accept(error)
        raise
    if not isinstance(outcome, Outcome) or outcome.job_id != job.id:
        returned = "the outcome of another run" if isinstance(outcome, Outcome) else shown(outcome)
        raise InvalidPluginError(
            f"plug-in {trainer.plugin_manager.describe(launcher)} returned {returned} from launch:"
            " call target(), and return what target() returned in the process with global rank 0."
        )
    return bring_back(outcome, job)


def _start(job: Job, target: Callable[[], Outcome]) -> Outcome:
    """Do the work in as many processes as the trainer asks for, unless others have joined."""
    count = job.trainer.devices or len(job.trainer.gpus or (0,))
    is_alone = count == 1 or job.place.is_distributed
    return target() if is_alone else spawn(job, target, count)
