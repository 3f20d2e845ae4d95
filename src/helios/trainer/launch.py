"""The launch of the processes of a run."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from helios.core.rules import shown
from helios.errors import ConfigurationError, InvalidPluginError
from helios.trainer.job import Outcome

if TYPE_CHECKING:
    from helios.trainer import Trainer


def launch(trainer: "Trainer", target: Callable[[], Outcome], job_id: str) -> Outcome:
    """Run a job with the ``launch`` hook of a plug-in, or in this process if none implements it.

    Args:
        trainer: the trainer, whose plan is frozen.
        target: the function that does the work of one process.
        job_id: the id of the job, by which the outcome of another one is recognised.

    Raises:
        ConfigurationError: several processes were started; this release supports only one.
        InvalidPluginError: a ``launch`` hook did not return what ``target`` returned.
    """
    launcher = trainer.plugin_manager.claimant("launch")
    if not launcher:
        _refuse_several_processes()
    if trainer.hooks.launch is None:
        return target()
    outcome = trainer.hooks.launch(trainer=trainer, target=target)
    if not isinstance(outcome, Outcome) or outcome.job_id != job_id:
        returned = "the outcome of another run" if isinstance(outcome, Outcome) else shown(outcome)
        raise InvalidPluginError(
            f"plug-in {trainer.plugin_manager.describe(launcher)} returned {returned} from launch:"
            " call target(), and return what target() returned in the process with global rank 0."
        )
    return outcome


def _refuse_several_processes() -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigurationError(
            f"WORLD_SIZE={processes}: this release trains in one process, so each of"
            f" the {processes} would train its own model. Start one process, without torchrun."
        )
