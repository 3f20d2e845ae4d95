"""Each example ends with the weights of its plain PyTorch loop, whole and interrupted."""

import functools
import importlib
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from helios import Plugin, TrainingState

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "examples"
SHARED = {"common"}
EXAMPLES = sorted({path.stem for path in FOLDER.glob("*.py")} - SHARED)
NEEDS = {"diffusion": "helios_ema", "gpt_stream": "torchdata"}

example = pytest.mark.parametrize("name", EXAMPLES)
accumulation = pytest.mark.parametrize("accumulate", [1, 4])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def folder_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import the examples as ``python examples/<name>.py`` does."""
    monkeypatch.syspath_prepend(str(FOLDER))


def load(name: str) -> ModuleType:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    return importlib.import_module(name)


@functools.cache
def plain(name: str, accumulate: int, **options: Any) -> Any:
    return load(name).plain(accumulate, **options)


class Interrupt(Plugin):
    """Stops a run after a number of batches, and records where it stopped."""

    def __init__(self, batches: int) -> None:
        super().__init__("interrupt")
        self.batches = batches
        self.epoch = self.batch = 0

    def setup(self) -> None: ...

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        if state.running_iter == self.batches:
            self.trainer.request_stop("interrupted by the test")

    def on_training_end(self) -> None:
        state = self.trainer.state
        self.epoch, self.batch = state.global_epoch, state.dataset_iter


def assert_equals_plain(name: str, accumulate: int, networks: Any, **options: Any) -> None:
    expected = plain(name, accumulate, **options)
    for key, network in networks.items():
        others = expected[key].state_dict()
        for tensor_name, tensor in network.state_dict().items():
            assert torch.equal(tensor, others[tensor_name]), f"{key}.{tensor_name}"
    assert sys.modules["common"].are_equal(networks, expected)


@example
@accumulation
def test_whole(name: str, accumulate: int) -> None:
    assert_equals_plain(name, accumulate, load(name).run(accumulate))


@example
@accumulation
def test_interrupted(name: str, accumulate: int, tmp_path: pathlib.Path) -> None:
    module = load(name)
    interrupt = Interrupt(batches=15)
    module.run(accumulate, chkpt_root=tmp_path, plugins=[interrupt])
    assert interrupt.epoch == 1
    assert interrupt.batch > 0
    assert_equals_plain(name, accumulate, module.run(accumulate, chkpt_root=tmp_path))
