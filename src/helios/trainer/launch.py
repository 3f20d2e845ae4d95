"""The launch of the processes of a run."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from helios.errors import ConfigurationError, InvalidPluginError
from helios.trainer.job import Outcome

if TYPE_CHECKING:
    from helios.trainer import Trainer


def launch(trainer: "Trainer", target: Callable[[], Outcome]) -> Outcome:
    """Run a job with the ``launch`` hook of a plug-in, or in this process if none implements it.

    Args:
        trainer: the trainer, whose plan is frozen.
        target: the function that does the work of one process.

    Raises:
        ConfigurationError: several processes were started; this release supports only one.
        InvalidPluginError: a ``launch`` hook did not return what ``target`` returned.
    """
    if trainer.hooks.launch is not None:
        outcome = trainer.hooks.launch(trainer=trainer, target=target)
        if not isinstance(outcome, Outcome):
            launcher = trainer.plugin_manager.describe(trainer.plugin_manager.claimant("launch"))
            raise InvalidPluginError(
                f"plug-in {launcher} returned {outcome!r} from launch: return what target()"
                " returned in the process with global rank 0."
            )
        return outcome
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigurationError(
            f"WORLD_SIZE={processes}: this release trains in one process, so each of"
            f" the {processes} would train its own model. Start one process, without torchrun."
        )
    return target()
