"""The trainer, its loops, and its checkpoints."""

from helios.core import TrainingState, TrainingUnit
from helios.trainer.folder import find_last_checkpoint
from helios.trainer.stop import StopRequest
from helios.trainer.trainer import Trainer

__all__ = ["StopRequest", "Trainer", "TrainingState", "TrainingUnit", "find_last_checkpoint"]
