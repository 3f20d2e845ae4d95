"""A run of two ranks, one of which fails in one of many ways."""

import os
import pathlib
import signal
import sys
import time
from typing import Any

from helios import Plugin, Trainer, TrainingState
from helios.testing import TinyDataModule, TinyModel

WAYS = ("raise", "exit(3)", "exit(0)", "_exit(0)", "SIGKILL", "block")
MOMENTS = ("start", "forward", "validation", "save", "teardown")
STALL = 3.0


class BoomError(Exception):
    """An error whose class cannot be built from its message alone."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} {code}")
        self.code = code


class Faulty(TinyModel):
    """A model that fails on one rank, in a given way, at a given moment."""

    def __init__(self, way: str, moment: str, rank: int, is_busy: bool = False) -> None:
        super().__init__()
        self.way, self.moment, self.failing_rank = way, moment, rank
        self.is_busy = is_busy

    def reach(self, moment: str) -> None:
        if moment != self.moment:
            return
        if self.global_rank != self.failing_rank:
            if self.is_busy:
                self.mark("busy")
                time.sleep(10**6)
            return
        if self.way == "raise":
            raise BoomError("boom", 7)
        if self.way in ("exit(3)", "exit(0)"):
            sys.exit(int(self.way[5]))
        if self.way == "_exit(0)":
            os._exit(0)
        if self.way == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "block":
            time.sleep(10**6)

    def mark(self, name: str) -> None:
        assert self.trainer.run_root is not None
        (self.trainer.run_root / name).touch()

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.reach("start")

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        if state.global_iteration == 2:
            self.reach("forward")
        return super().train_step(batch, state)

    def valid_step(self, batch: Any, step: int) -> Any:
        self.reach("validation")
        return super().valid_step(batch, step)

    def state_dict(self) -> dict[str, Any]:
        self.reach("save")
        return super().state_dict()


class AtTheEnd(Plugin):
    """Reaches the moment of the teardown."""

    def __init__(self, model: Faulty) -> None:
        super().__init__("at-the-end")
        self.faulty = model

    def setup(self) -> None:
        folder = self.trainer.run_root
        assert folder is not None
        folder.mkdir(exist_ok=True)
        (folder / f"pid-{self.global_rank}").write_text(str(os.getpid()))

    def teardown(self) -> None:
        if self.faulty.is_busy:
            self.faulty.mark("tearing-down")
            time.sleep(10**6)
        self.faulty.reach("teardown")


def train(
    way: str, moment: str, rank: int, folder: str, is_busy: bool = False, **arguments: Any
) -> None:
    model = Faulty(way, moment, rank, is_busy)
    trainer = Trainer(
        use_cpu=True,
        **{"total_steps": 2, "stall_timeout": STALL, **arguments},
        valid_frequency=1,
        chkpt_frequency=1,
        run_root=folder,
        plugins=[AtTheEnd(model), "preemption"],
        print_banner=False,
        autoload=False,
    )
    trainer.fit(model, TinyDataModule())


def spawn(way: str, moment: str, rank: int, folder: str) -> Any:
    """Return what the parent has caught."""
    try:
        train(way, moment, rank, folder, devices=2)
    except BaseException as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        return type(error).__name__, f"{error}\n{notes}", getattr(error, "code", None)
    return None


def train_for_long(folder: str, stall: float | None = None, **arguments: Any) -> None:
    train("none", "none", 1, folder, total_steps=10**6, stall_timeout=stall, **arguments)


def spawn_for_long(folder: str, stall: float | None = None) -> None:
    train_for_long(folder, stall, devices=2)


def pids(folder: pathlib.Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("pid-*")]
