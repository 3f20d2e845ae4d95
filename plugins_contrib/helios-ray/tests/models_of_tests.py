"""Models that the workers import."""

import os
import pathlib
import signal
from typing import Any

import torch

from helios import TrainingState
from helios.testing import TinyModel


class OnceKilled(TinyModel):
    """A model that kills the worker with rank 1 in the second epoch, once."""

    def __init__(self, marker: pathlib.Path | None = None) -> None:
        super().__init__()
        self.marker = marker

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        marker = self.marker
        is_last = state.current_iteration == 5 and self.global_rank == 1
        if is_last and marker is not None and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(batch, state)


class OwnError(Exception):
    """An error of a user."""


class Failing(TinyModel):
    """A model whose training fails on rank 1."""

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        if state.current_iteration == 2 and self.global_rank == 1:
            raise OwnError("the data are empty")
        return super().train_step(batch, state)
