"""Arguments of all odd kinds are refused at construction, by name, or are right."""

import importlib.util
import pathlib
from typing import Any

import pytest
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
