"""Starting the processes of a run."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from helios.errors import ConfigurationError

if TYPE_CHECKING:
    from helios.trainer import Trainer


def launch(trainer: "Trainer", target: Callable[[], Any]) -> Any:
    """Do the work of a run: where a plug-in's ``launch`` hook wants it, or here.

    Args:
        trainer: its plan is frozen.
        target: the work of one process.

    Raises:
        ConfigurationError: several processes were started, which this release does not support.
    """
    if trainer.hooks.launch is not None:
        return trainer.hooks.launch(trainer=trainer, target=target)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigurationError(
            f"WORLD_SIZE={processes}: this release trains in one process, so {processes} of them"
            " would each train a model of their own. Start one, without torchrun."
        )
    return target()
