"""Slow work is no failure: saves, compilation, downloads, and waiting for them."""

import datetime
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from started_ranks import StartRanks

from helios import Trainer, TrainingState
from helios.plugins import PluginManager
from helios.testing import TinyDataModule, TinyModel
from helios.trainer.launch import stacks
from helios.trainer.launch.beats import Beat, Silence, find_stall
from helios.trainer.launch.failure import Failure


class Exchanging(TinyModel):
    """Calls a collective of the default group in each step, as DistributedDataParallel does."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def on_training_start(self) -> None:
        fsync = os.fsync

        def slow(file: int) -> None:
            os.fsync = fsync  # once is enough
            time.sleep(self.seconds)
            pathlib.Path(self.folder, "durable").touch()
            fsync(file)

        self.folder = str(self.trainer.run_root)
        os.fsync = slow

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        if state.global_epoch == 1:
            durable = pathlib.Path(self.folder, "durable")
            assert durable.exists(), "rank 0 is writing the checkpoint"
        dist.all_reduce(torch.ones(1))
        return super().train_step(batch, state)


def train_slowly(folder: str, seconds: float, timeout: float) -> int:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout))
    trainer = Trainer(
        use_cpu=True,
        total_steps=2,
        chkpt_frequency=1,
        run_root=folder,
        autoload=False,
        stall_timeout=timeout,
    )
    state = trainer.fit(Exchanging(seconds), TinyDataModule())
    dist.destroy_process_group()
    return state.global_iteration


@pytest.mark.parametrize(
    ("seconds", "timeout"), [(1, 100), pytest.param(15, 10, marks=pytest.mark.long)]
)
def test_others_wait_while_rank_0_saves(
    ranks: StartRanks, tmp_path: Any, seconds: float, timeout: float
) -> None:
    results = ranks(2, train_slowly, str(tmp_path / "run"), seconds, timeout, timeout=120)
    assert [rank.result for rank in results] == [6, 6]


class Compiled(TinyModel):
    """A model that PyTorch compiles in its first step, more slowly than usual."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.slowest = 0.0

    def compile(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        def slow(*arguments: Any, **named: Any) -> Any:
            time.sleep(self.seconds)
            return compile_fx_inner(*arguments, **named)

        return compile_fx(graph, inputs, inner_compile=slow)

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.net.compile(backend=self.compile)

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        started = time.monotonic()
        outputs = super().train_step(batch, state)
        self.slowest = max(self.slowest, time.monotonic() - started)
        return outputs


def train_compiled(seconds: float, timeout: float) -> Any:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout))
    trainer = Trainer(use_cpu=True, total_steps=1, autoload=False, stall_timeout=timeout)
    model = Compiled(seconds)
    state = trainer.fit(model, TinyDataModule(16))
    dist.destroy_process_group()
    return state.global_iteration, model.slowest > timeout


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs the C++ compiler g++")
def test_slow_compilation_is_no_failure(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    results = ranks(2, train_compiled, 12, 8, env=cache)
    assert [rank.result for rank in results] == [(2, True), (2, True)]


# The judgement.

NAMES = ["rank 0 on a", "rank 1 on b", "rank 2 on b"]


def judge(*beats: tuple[Any, float], silences: tuple[float, ...] = (0, 0, 0)) -> Failure | None:
    found = {
        rank: Beat(5, activity, since, f"training in step {rank}", f"stack {rank}")
        for rank, (activity, since) in enumerate(beats)
    }
    return find_stall(found, dict(enumerate(silences)), NAMES, 10, claimer=0)


def test_only_ranks_that_run_without_progress_are_blamed() -> None:
    assert judge(("running", 9), ("waiting", 9), ("paused", 9)) is None
    assert judge(("waiting", 99), ("waiting", 99), ("paused", 99)) is None
    assert judge(("waiting", 99), ("waiting", 99), ("running", 9)) is None
    failure = judge(("waiting", 99), ("running", 11), ("waiting", 99))
    assert failure is not None
    assert failure.rank == 1
    assert failure.story == ("rank 1 on b has made no progress for 11 s: it was training in step 1")
    assert failure.details == "stack 1"
    failure = judge(("waiting", 99), ("running", 11), ("running", 12))
    assert failure is not None
    assert failure.story.endswith("the same is true of\n  rank 2 on b was training in step 2")


def test_all_ranks_that_wait_for_one_another() -> None:
    failure = judge(("waiting", 11), ("waiting", 12), ("waiting", 13))
    assert failure is not None
    assert failure.rank is None
    assert failure.story.startswith("all ranks wait for one another for 11 s")
    assert "  rank 2 on b was training in step 2\nstack 2" in failure.details


def test_silent_rank() -> None:
    waiting: Any = [("waiting", 0.0)] * 3
    failure = judge(*waiting, silences=(0, 0, 21))
    assert failure is not None
    assert failure.story == (
        "rank 2 on b has not been heard of for 21 s: it was training in step 2"
    )
    silence = Silence()
    beats = [Beat(number, "running", 0, "") for number in (1, 1, 2)]
    heard = [silence.hear(0, beat) for beat in beats]
    assert heard[0] == heard[2] == 0 < heard[1]


# The stack.


class Blocked:
    """A thread that has come to a point and stays there."""

    def __init__(self, call: Callable[[Callable[[], Any]], Any]) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=call, args=(self.block,))

    def block(self, *ignored: object) -> None:
        self.reached.set()
        self.go.wait(60)

    def __enter__(self) -> Any:
        self.thread.start()
        assert self.reached.wait(60)
        return stacks.stack_of(self.thread.ident or 0)

    def __exit__(self, *raised: object) -> None:
        self.go.set()
        self.thread.join()


def in_module(name: str) -> Callable[[Callable[[], Any]], Any]:
    namespace = {"__name__": name}
    exec("def call(block):\n    block()", namespace)
    function: Any = namespace["call"]
    return function


@pytest.mark.parametrize(
    ("module", "activity"),
    [
        ("helios.checkpoints.storage", "paused"),
        ("torch._dynamo.convert_frame", "paused"),
        ("torch._dynamo.eval_frame", "running"),  # a compiled network that runs
        ("torch._inductor.compile_fx", "paused"),
        ("torch.distributed.distributed_c10d", "running"),  # what it calls is of users
        ("users", "running"),
    ],
)
def test_activity(module: str, activity: str) -> None:
    with Blocked(in_module(module)) as frame:
        assert stacks.activity(frame) == activity
        assert "in block" in stacks.shown(frame)


class Sum(torch.nn.Module):
    """A network with code of its own: PyTorch stops compiling code that it has compiled often."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.sum()


def compile_network(block: Callable[[], Any]) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        block()
        return graph.forward

    torch.compile(Sum(), backend=backend)(torch.ones(1))


def test_compilation() -> None:
    with Blocked(compile_network) as frame:
        assert stacks.activity(frame) == "paused"


def test_what_waits_for_others(make_trainer: Callable[..., Trainer]) -> None:
    def prepare_data(block: Callable[[], Any]) -> None:
        block()

    with Blocked(prepare_data) as frame:
        assert stacks.activity(frame) == "paused"
        assert stacks.place_in_code(frame, PluginManager()) == ""
    waits: dict[str, Any] = {"__name__": "torch.autograd.graph", "wait": threading.Event().wait}
    exec("import sys\ndef call():\n    return sys._getframe()", waits)
    assert stacks.activity(waits["call"]()) == "waiting"
    waits["__name__"] = "torch.distributed.distributed_c10d"
    assert stacks.activity(waits["call"]()) == "waiting"
    assert stacks.activity(None) == "running"
