"""Utilities, CUDA helpers, the training state and the facts of a run."""

import dataclasses
import os
import pathlib
import pickle
from typing import Any

import pytest
import torch

from helios.core import (
    AverageTimer,
    ChdirContext,
    DisableCuDNNBenchmarkContext,
    Placed,
    TrainingState,
    TrainingUnit,
    convert_to_list,
    get_from_optional,
    requires_cuda_support,
    safe_torch_load,
    utils,
)
from helios.errors import ConfigurationError, HeliosError, UnknownNameError, nearest

# Utilities.


@pytest.mark.parametrize("value", [3, 0, "", [], False])
@pytest.mark.parametrize("raise_on_empty", [True, False])
def test_get_from_optional_with_a_value(value: Any, raise_on_empty: bool) -> None:
    assert get_from_optional(value, raise_on_empty) is value


def test_get_from_optional_without_a_value() -> None:
    with pytest.raises(AssertionError, match="None"):
        get_from_optional(None)
    with pytest.raises(RuntimeError, match="None"):
        get_from_optional(None, raise_on_empty=True)


def test_convert_to_list() -> None:
    value = [1, 2]
    assert convert_to_list(value) is value
    assert convert_to_list((1, 2)) == [1, 2]
    assert convert_to_list(()) == []
    assert convert_to_list("ab") == ["ab"]
    assert convert_to_list(None) == [None]
    assert convert_to_list({1: 2}) == [{1: 2}]


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_chdir_context(tmp_path: pathlib.Path, kind: Any) -> None:
    before = pathlib.Path.cwd()
    with ChdirContext(kind(tmp_path)) as previous:
        assert previous == before
        assert pathlib.Path.cwd() == tmp_path.resolve()
    assert pathlib.Path.cwd() == before


def test_chdir_context_when_the_block_fails(tmp_path: pathlib.Path) -> None:
    before = pathlib.Path.cwd()
    with pytest.raises(OSError, match="inside"), ChdirContext(tmp_path):
        raise OSError("inside")
    assert pathlib.Path.cwd() == before
    with pytest.raises(FileNotFoundError), ChdirContext(tmp_path / "missing"):
        pass
    assert pathlib.Path.cwd() == before


def test_average_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 14.0, 100.0, 102.0])
    monkeypatch.setattr(utils.time, "perf_counter", lambda: next(times))
    timer = AverageTimer()
    assert timer.get_average_time() == 0.0
    timer.start()
    timer.record()
    assert timer.get_average_time() == 1.0
    timer.record()
    assert timer.get_average_time() == 2.0
    timer.start()  # what lies between does not count
    timer.record()
    assert timer.get_average_time() == 2.0


def test_safe_torch_load(tmp_path: pathlib.Path) -> None:
    payload = {"weights": torch.arange(3), "name": "x", "numbers": (1, 2.5, None)}
    torch.save(payload, tmp_path / "good.pt")
    loaded = safe_torch_load(tmp_path / "good.pt", map_location="cpu")
    assert torch.equal(loaded.pop("weights"), torch.arange(3))
    assert loaded == {"name": "x", "numbers": (1, 2.5, None)}


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)

    def __init__(self, path: str) -> None:
        self.path = path


def test_safe_torch_load_runs_no_code(tmp_path: pathlib.Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"evil": Evil(str(trace))}, tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError):
        safe_torch_load(tmp_path / "bad.pt")
    assert not trace.exists()


# CUDA. What torch reports is mocked, so that both answers are tested on every machine.


def test_requires_cuda_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="CUDA"):
        requires_cuda_support()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    requires_cuda_support()


@pytest.mark.parametrize("before", [True, False])
def test_disable_cudnn_benchmark(monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    with DisableCuDNNBenchmarkContext():
        assert torch.backends.cudnn.benchmark is False
    assert torch.backends.cudnn.benchmark is before
    with pytest.raises(OSError, match="inside"), DisableCuDNNBenchmarkContext():
        raise OSError("inside")
    assert torch.backends.cudnn.benchmark is before


# The training state.


def test_training_unit() -> None:
    assert [unit.value for unit in TrainingUnit] == ["iteration", "epoch"]
    assert TrainingUnit.from_str("epoch") is TrainingUnit.EPOCH
    assert TrainingUnit.from_str("Iteration") is TrainingUnit.ITERATION


@pytest.mark.parametrize("label", ["epochs", "", "steps"])
def test_training_unit_that_does_not_exist(label: str) -> None:
    with pytest.raises(ConfigurationError, match="'epoch' or 'iteration'") as caught:
        TrainingUnit.from_str(label)
    assert isinstance(caught.value, ValueError)
    assert repr(label) in str(caught.value)


COUNTERS = [
    *["current_iteration", "global_iteration", "global_epoch", "validation_cycles"],
    *["dataset_iter", "early_stop_count", "average_iter_time", "running_iter"],
]


def test_training_state_starts_at_zero() -> None:
    assert TrainingState().dict() == dict.fromkeys(COUNTERS, 0)
    assert [field.name for field in dataclasses.fields(TrainingState)] == COUNTERS


def test_training_state_round_trip() -> None:
    state = TrainingState(**{name: number for number, name in enumerate(COUNTERS, start=1)})
    assert TrainingState(**state.dict()) == state
    copy = state.dict()
    copy["global_epoch"] = 99
    assert state.global_epoch == 3


def test_training_state_refuses_misspelt_counters() -> None:
    with pytest.raises(AttributeError):
        TrainingState().global_epochs = 1  # type: ignore[attr-defined]


# The facts of a run.


def test_run_facts() -> None:
    facts = Placed()
    assert (facts.is_distributed, facts.map_loc, facts.rank) == (False, "", 0)
    with pytest.raises(AssertionError, match=r"device.*fit\(\) or test\(\)"):
        _ = facts.device
    facts.device = torch.device("meta")
    assert facts.device == torch.device("meta")


# Errors.


def test_messages_of_key_errors_are_shown_as_they_are() -> None:
    error = UnknownNameError("a 'quoted'\nmessage")
    assert isinstance(error, KeyError)
    assert str(error) == "a 'quoted'\nmessage"
    assert str(HeliosError()) == ""


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("ema", ["EMA", "sgd"], " Did you mean 'EMA'?"),
        ("progres", ["progress", "progressive", "x"], " Did you mean 'progress' or 'progressive'?"),
        ("nothing", ["like", "it"], ""),
        ("x", [], ""),
    ],
)
def test_nearest(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, known) == hint
