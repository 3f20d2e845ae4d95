"""Each example ends with the weights of its plain PyTorch loop, whole and interrupted."""

import functools
import importlib
import pathlib
import re
import runpy
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from helios import Plugin, TrainingState

FOLDER = pathlib.Path(__file__).parents[2] / "examples"
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - {"common"})
NEEDS = {"diffusion": "helios_ema", "gpt_stream": "torchdata"}

CASES = [pytest.param(name, {}, id=name) for name in NAMES]
CASES.append(pytest.param("gan", {"detach": False}, id="gan-without-detach"))

example = pytest.mark.parametrize(("name", "options"), CASES)
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
    """Stops a run after a number of batches, or never, and records where the run ended."""

    def __init__(self, batches: int | None = None) -> None:
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
    assert load("common").are_equal(networks, expected)


@example
@accumulation
def test_whole(name: str, options: dict[str, Any], accumulate: int) -> None:
    networks = load(name).run(accumulate, **options)
    assert_equals_plain(name, accumulate, networks, **options)


@example
@accumulation
@pytest.mark.parametrize(("batches", "epoch"), [(5, 0), (15, 1)])
def test_interrupted(
    name: str,
    options: dict[str, Any],
    accumulate: int,
    batches: int,
    epoch: int,
    tmp_path: pathlib.Path,
) -> None:
    run = functools.partial(load(name).run, accumulate, chkpt_root=tmp_path, **options)
    interrupt = Interrupt(batches)
    run(plugins=[interrupt])
    assert interrupt.epoch == epoch
    assert interrupt.batch > 0
    assert_equals_plain(name, accumulate, run(plugins=[Interrupt()]), **options)


@pytest.mark.parametrize("name", NAMES)
def test_script(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = load(name).__file__
    runpy.run_path(str(path), run_name="__main__")
    result, comparison = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[a-z ]+: \d\.\d+.*", result)
    assert comparison == "same weights as the plain loop: True"


def test_comparison_sees_a_different_bit() -> None:
    are_equal = load("common").are_equal
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    other.load_state_dict(one.state_dict())
    assert are_equal({"a": one}, {"a": other})
    assert not are_equal({"a": one}, {"b": other})
    with torch.no_grad():
        other.bias[1].mul_(1 + 1e-6)
    assert not are_equal({"a": one}, {"a": other})


@accumulation
def test_early_stopping_ends_the_fine_tuning(accumulate: int) -> None:
    module, end = load("fine_tune"), Interrupt()
    module.run(accumulate, plugins=[end])
    assert 1 < end.epoch < module.EPOCHS


def test_the_table_lists_each_example() -> None:
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \|", table, re.MULTILINE)) == NAMES
