"""Arguments of the trainer: which values it refuses, and what the error says to write instead."""

import math
import pathlib
import re
from typing import Any

import pytest
import torch
from helpers import Make

from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel

BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    # what is wrong -> arguments, and a pattern of the message: what, and what to write instead
    "unit": ({"train_unit": "batch"}, r"train_unit='batch' .* 'epoch' or 'iteration'"),
    "unit of another type": ({"train_unit": 3}, r"train_unit='?3'? .* 'epoch' or 'iteration'"),
    "steps: fraction": ({"total_steps": 2.5}, r"total_steps=2\.5 .* whole number, or math\.inf"),
    "steps: whole float": ({"total_steps": 2.0}, r"total_steps=2\.0 .* whole number, or math\.inf"),
    "steps: NaN": ({"total_steps": math.nan}, r"total_steps=nan .*whole number, or math\.inf"),
    "steps: minus infinity": ({"total_steps": -math.inf}, r"total_steps=-inf "),
    "steps: negative": ({"total_steps": -1}, r"total_steps=-1 is negative.* how long to train"),
    "steps: text": ({"total_steps": "10"}, r"total_steps='10': .* whole number, or math\.inf"),
    "steps: bool": ({"total_steps": True}, r"total_steps=True: .* whole number, or math\.inf"),
    "steps: none": ({"total_steps": None}, r"total_steps=None: .* whole number, or math\.inf"),
    "endless, but no cycle": (
        {"total_steps": math.inf, "early_stop_cycles": 0},
        r"total_steps=math\.inf with early_stop_cycles=0 .*write a number of steps",
    ),
    "both switches": (
        {"enable_deterministic": True, "enable_cudnn_benchmark": True},
        r"enable_deterministic=True .*enable_cudnn_benchmark=True.* remove one of them\.",
    ),
    "CPU and GPUs": ({"use_cpu": True, "gpus": [0]}, r"use_cpu=True .*gpus=\[0\].* remove one"),
    "no folder to save in": (
        {"chkpt_frequency": 1},
        r"chkpt_frequency=1 without a folder.* run_root=\.\.\. or chkpt_root=",
    ),
    "one string for a list": ({"plugins": "ema"}, r"plugins='ema'.* plugins=\['ema'\]"),
    "one string to block": ({"block": "ema"}, r"block='ema'.* block=\['ema'\]"),
    "autoload": ({"autoload": 3}, r"autoload=3.* True, False, or a list"),
    "on_load_error": ({"on_load_error": "warn"}, r"on_load_error='warn'.* 'raise' or 'skip'"),
    "seed: negative": ({"random_seed": -1}, r"random_seed=-1: .* at least 0"),
    "seed: fraction": ({"random_seed": 0.5}, r"random_seed=0\.5: "),
    "cycles: negative": ({"early_stop_cycles": -1}, r"early_stop_cycles=-1: "),
    "accumulation: zero": ({"accumulation_steps": 0}, r"accumulation_steps=0: .* at least 1"),
    "accumulation: negative": ({"accumulation_steps": -2}, r"accumulation_steps=-2: .* at least 1"),
    "accumulation: fraction": ({"accumulation_steps": 1.5}, r"accumulation_steps=1\.5: "),
    **{
        f"{name}={value!r}": (
            {name: value, "chkpt_root": "."},
            rf"{name}={re.escape(repr(value))}: write a whole number of at least 1, or remove it",
        )
        for name in ("valid_frequency", "chkpt_frequency", "print_frequency")
        for value in (0, -1, 1.5, True, "2")
    },
}


@pytest.mark.parametrize("what", BAD_ARGUMENTS)
def test_bad_argument(make_trainer: Make, what: str) -> None:
    arguments, message = BAD_ARGUMENTS[what]
    with pytest.raises(ConfigurationError, match=f"(?s){message}"):
        make_trainer(**arguments)
    assert issubclass(ConfigurationError, ValueError)


REMOVED = {
    "enable_tensorboard": "helios-tensorboard",
    "enable_file_logging": "run_root",
    "log_path": "run_root",
    "log_root": "run_root",
    "run_path": "run_root",
    "wandb_args": "plug-in for Weights & Biases",
}


@pytest.mark.parametrize("name", REMOVED)
def test_removed_argument_names_its_replacement(make_trainer: Make, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(**{name: None})
    assert f"Trainer({name}=...) is an argument of earlier releases" in str(caught.value)
    assert REMOVED[name] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("total_step", "total_steps"),
        ("valid_freqency", "valid_frequency"),
        ("chkpt_rot", "chkpt_root"),
        ("plugin", "plugins"),
        ("Run_Root", "run_root"),
    ],
)
def test_misspelt_argument_offers_the_nearest(make_trainer: Make, name: str, meant: str) -> None:
    with pytest.raises(TypeError) as caught:
        make_trainer(**{name: 1})
    assert f"no argument {name!r}" in str(caught.value)
    assert f"{meant!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["retur", "unknow", "self_", "xyz"])
def test_misspelt_argument_offers_only_arguments(make_trainer: Make, name: str) -> None:
    with pytest.raises(TypeError) as caught:
        make_trainer(**{name: 1})
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("argument", ["run_root", "chkpt_root", "src_root"])
def test_file_in_place_of_a_folder(
    make_trainer: Make, tmp_path: pathlib.Path, argument: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        ConfigurationError, match=f"{argument}=.*file.* is a file: write the path of a folder"
    ):
        make_trainer(**{argument: file})


def test_missing_source_folder(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"src_root=.*missing.* does not exist"):
        make_trainer(src_root=tmp_path / "missing")


def test_gpu_without_cuda(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="use_cpu=False asks for a GPU, but PyTorch finds none"):
        make_trainer(use_cpu=False)
    with pytest.raises(ConfigurationError, match=r"gpus=\[0\] asks for a GPU"):
        make_trainer(use_cpu=None, gpus=[0])
    assert make_trainer(use_cpu=None).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ([2], r"gpus=\[2\]: write numbers from 0 to 1"),
        ([-1], r"gpus=\[-1\]: write numbers from 0 to 1"),
        ([], r"gpus=\[\]: write numbers from 0 to 1"),
        ([1, 1], r"gpus=\[1, 1\]: write each number once"),
    ],
)
def test_gpus_that_are_not_there(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, gpus: list[int], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(use_cpu=None, gpus=gpus)
    with pytest.raises(ConfigurationError, match=r"devices=1 contradicts gpus=\[0, 1\]"):
        make_trainer(use_cpu=None, gpus=[0, 1], devices=1)
    with pytest.raises(ConfigurationError, match="devices=3, but PyTorch finds 2 GPUs here"):
        make_trainer(use_cpu=None, devices=3)
    both = make_trainer(use_cpu=None, devices=2)
    assert (both.device, both.gpus) == (torch.device("cuda", 0), [0, 1])
    assert make_trainer(use_cpu=None, gpus=[1]).device == torch.device("cuda", 1)
    assert make_trainer(use_cpu=None).device == torch.device("cuda", 0)
    assert make_trainer(use_cpu=True).device == torch.device("cpu")


def test_no_early_stop_cycle_never_means_no_training(make_trainer: Make) -> None:
    try:
        trainer = make_trainer(early_stop_cycles=0, valid_frequency=1)
    except ConfigurationError:
        return
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration > 0
