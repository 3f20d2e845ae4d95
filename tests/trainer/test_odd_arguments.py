"""Arguments and answers of all odd kinds are refused, by name, or are right."""

import importlib.util
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Make, names

from helios import DataLoaderParams
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel

FUZZ = pathlib.Path(__file__).parents[1] / "fuzz_arguments.py"


@pytest.mark.filterwarnings("ignore")  # of blocked names that nobody has
def test_no_odd_value_ends_in_an_undocumented_error() -> None:
    spec = importlib.util.spec_from_file_location("fuzz_arguments", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    assert fuzz.faults(2000) == []


SWITCHES = ["use_cpu", "enable_deterministic", "enable_cudnn_benchmark", "print_banner"]
SWITCHES += ["enable_progress_bar", "async_checkpoints", "profile_plugins"]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["no", "false", "", 0, 1])
def test_switch_of_the_trainer(make_trainer: Make, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(**{name: value})
    assert str(caught.value) == f"{name}={value!r}: write True or False."


@pytest.mark.parametrize("name", ["shuffle", "pin_memory", "drop_last", "is_distributed", "replay"])
@pytest.mark.parametrize("value", ["no", 0, 1])
def test_switch_of_a_loader(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DataLoaderParams(**{name: value})
    assert str(caught.value) == f"{name}={value!r}: write True or False."


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("batch_size", 0, "write a whole number of samples, at least 1."),
        ("batch_size", "32", "write a whole number of samples, at least 1."),
        ("batch_size", True, "write a whole number of samples, at least 1."),
        ("num_workers", -1, "write a whole number of processes, at least 0."),
        ("prefetch_factor", 0, "write a whole number of batches, at least 1."),
        ("collate_fn", "mine", "write a function, without calling it."),
        ("seeding", None, "write 'sample', 'batch' or 'none'."),
        ("random_seed", 2**64, "write a whole number from 0 to 2**64 - 1, or leave it out."),
    ],
)
def test_parameter_of_a_loader(name: str, value: Any, remedy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DataLoaderParams(**{name: value})
    of = " of DataLoaderParams" if name == "random_seed" else ""
    assert str(caught.value) == f"{name}={value!r}{of}: {remedy}"


@pytest.mark.parametrize("name", ["../up", "a/b", "/tmp/x", "a\0b", "x" * 252, "\ud800", 3])
def test_run_name_stays_in_the_folder(make_trainer: Make, name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^run_name=.*: write a short name without sep"):
        make_trainer(run_name=name)


@pytest.mark.parametrize("name", ["", "baseline", "a.b", "x" * 251, "..."])
def test_run_name_that_is_right(make_trainer: Make, tmp_path: pathlib.Path, name: str) -> None:
    trainer = make_trainer(run_name=name, run_root=tmp_path / "run", total_steps=1)
    trainer.test(TinyModel(), TinyDataModule())
    assert f"{name or 'helios'}.log" in names(tmp_path / "run")


@pytest.mark.parametrize("argument", ["run_root", "chkpt_root", "src_root"])
@pytest.mark.parametrize("value", ["", "a\0b", "x" * 256, "x/" * 2000, "\ud800", b"x", 3])
def test_folder_that_cannot_be(make_trainer: Make, argument: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{argument}=.*: write ") as caught:
        make_trainer(**{argument: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("argument", ["run_root", "chkpt_root"])
def test_folder_in_a_file(make_trainer: Make, tmp_path: pathlib.Path, argument: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=f"{argument}=.*/file is a file: write the path"):
        make_trainer(**{argument: tmp_path / "file/in/it"})


ASSIGNED = [
    ("total_steps", "3"),
    ("total_steps", 1.5),
    ("valid_frequency", 0),
    ("chkpt_frequency", "1"),
    ("print_frequency", -1),
    ("accumulation_steps", 1.5),
    ("early_stop_cycles", True),
]


@pytest.mark.parametrize(("name", "value"), ASSIGNED)
def test_argument_that_is_assigned_later(make_trainer: Make, name: str, value: Any) -> None:
    trainer = make_trainer()
    setattr(trainer, name, value)
    with pytest.raises(ConfigurationError, match=f"^{name}={value!r}"):
        trainer.fit(TinyModel(), TinyDataModule())


class Answering(TinyModel):
    """Answers a question of the loops."""

    def __init__(self, method: str, answer: Any) -> None:
        super().__init__()
        setattr(type(self), method, lambda self: answer)


QUESTIONS = ["have_metrics_improved", "should_training_stop", "should_advance_dataset_phase"]


@pytest.mark.parametrize("method", QUESTIONS)
@pytest.mark.parametrize("answer", ["no", torch.ones(2), np.zeros(3)])
def test_answer_of_a_model_that_is_none(make_trainer: Make, method: str, answer: Any) -> None:
    model = type("Net", (Answering,), {})(method, answer)
    trainer = make_trainer(valid_frequency=1, early_stop_cycles=2)
    with pytest.raises(TypeError, match=rf"^Net\.{method}\(\) returned .*: return True or False"):
        trainer.fit(model, TinyDataModule())


@pytest.mark.parametrize("method", QUESTIONS)
@pytest.mark.parametrize("answer", [None, torch.tensor(False), np.False_, 0])
def test_answer_of_a_model_that_counts_as_no(make_trainer: Make, method: str, answer: Any) -> None:
    model = type("Net", (Answering,), {})(method, answer)
    trainer = make_trainer(valid_frequency=1, early_stop_cycles=9)
    assert trainer.fit(model, TinyDataModule()).global_epoch == 2
