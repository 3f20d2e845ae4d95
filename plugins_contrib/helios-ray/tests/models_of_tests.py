"""Models that the workers import."""

import os
import pathlib
import signal
from typing import Any

import torch

from helios import TrainingState
from helios.testing import TinyModel


class OnceKilled(TinyModel):
    """A model that kills the worker with rank 1 in the second epoch, once, and stops in the third.

    Args:
        marker: the file that says that it has done so; ``None`` to kill nobody.
    """

    def __init__(self, marker: pathlib.Path | None = None) -> None:
        super().__init__()
        self.marker = marker

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        step = state.current_iteration if self.global_rank == 1 else 0
        if step == 5 and self.marker is not None and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 7:
            self.trainer.request_stop("it is enough")
        return super().train_step(batch, state)


class OwnError(Exception):
    """An error of a user, which pickle alone could not restore."""

    def __init__(self, step: int, *, what: str) -> None:
        super().__init__(f"{what} in step {step}")
        self.step = step


class Failing(TinyModel):
    """A model whose training fails on rank 1 in step 4.

    Args:
        log: the file to which rank 1 appends the number of each step.
    """

    def __init__(self, log: pathlib.Path) -> None:
        super().__init__()
        self.log_of_steps = log

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        if self.global_rank == 1:
            with self.log_of_steps.open("a") as file:
                file.write(f"{state.current_iteration} ")
            if state.current_iteration == 4:
                raise OwnError(4, what="no data")
        return super().train_step(batch, state)


class Endless(TinyModel):
    """A model that says when a step is over, and the process in which it trains.

    Args:
        folder: the folder for the process ids.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.folder = folder

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        if state.current_iteration == 3:
            (self.folder / f"pid-{self.global_rank}").write_text(str(os.getpid()))
        return super().train_step(batch, state)
