"""The trainer, its loops, and its checkpoints."""

from helios.checkpoints.folder import find_last_checkpoint
from helios.core import TrainingState, TrainingUnit
from helios.trainer.arguments.command_line import from_command_line
from helios.trainer.control import StopRequest
from helios.trainer.launch.transport import ShippedError
from helios.trainer.trainer import Trainer

__all__ = [
    "ShippedError",
    "StopRequest",
    "Trainer",
    "TrainingState",
    "TrainingUnit",
    "find_last_checkpoint",
    "from_command_line",
]
