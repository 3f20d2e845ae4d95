"""The words of other trainers: Helios refuses them, and says what to write instead."""

import inspect
from typing import Any

import pytest
import torch
from helpers import Make, numbers
from torch.utils.data import DataLoader

from helios import DataLoaderParams, DataModule, Trainer
from helios.data import ResumableSequentialSampler, create_dataloader
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel
from helios.trainer.arguments.foreign import ARGUMENTS, FIT, TEST

WORDS = {
    "max_epochs": "total_steps=",
    "num_train_epochs": "total_steps=",
    "epochs": "total_steps=",
    "max_steps": 'train_unit="iteration"',
    "limit_train_batches": 'limit_batches={"training": ...}',
    "limit_val_batches": 'limit_batches={"validation": ...}',
    "num_sanity_val_steps": "valid_first=True",
    "eval_on_start": "valid_first=True",
    "debug": "fast_dev_run=True",
    "terminate_on_nan": "nan-guard",
    "gradient_clip_val": "clip_norm=",
    "max_grad_norm": "clip_norm=",
    "accumulate_grad_batches": "accumulation_steps=",
    "gradient_accumulation_steps": "accumulation_steps=",
    "callbacks": "plugins=",
    "logger": "plugins=",
    "log_every_n_steps": "print_frequency=",
    "logging_steps": "print_frequency=",
    "num_devices": "devices=",
    "accelerator": "use_cpu=",
    "strategy": "devices=",
    "val_check_interval": "valid_frequency=",
    "check_val_every_n_epoch": "valid_frequency=",
    "eval_steps": "valid_frequency=",
    "save_steps": "chkpt_frequency=",
    "save_total_limit": "keep_last=",
    "patience": "early_stop_cycles=",
    "monitor": "best=",
    "deterministic": "enable_deterministic=",
    "seed": "random_seed=",
    "default_root_dir": "run_root=",
    "output_dir": "run_root=",
    "fp16": 'precision="fp16"',
    "bf16": 'precision="bf16"',
    "batch_size": "DataLoaderParams",
    "num_workers": "DataLoaderParams",
    "optimizer": "self.optimize(",
    "learning_rate": "self.optimize(",
    "compute_metrics": "self.log(",
    "train_dataset": "fit(model, datamodule)",
    "resume_from_checkpoint": "resumes from the newest checkpoint",
}


@pytest.mark.parametrize("name", WORDS)
def test_argument_of_another_trainer(make_trainer: Make, name: str) -> None:
    with pytest.raises(TypeError) as caught:
        make_trainer(**{name: 1})
    assert f"Trainer() has no argument {name!r}, which is a word of other" in str(caught.value)
    assert WORDS[name] in str(caught.value)


def test_no_argument_of_helios_is_foreign() -> None:
    for function, words in ((Trainer, ARGUMENTS), (Trainer.fit, FIT), (Trainer.test, TEST)):
        assert not inspect.signature(function).parameters.keys() & words.keys()


@pytest.mark.parametrize(
    ("run", "name", "instead"),
    [
        ("fit", "ckpt_path", "resume="),
        ("fit", "weights", "init_from="),
        ("fit", "train_dataloaders", "a DataModule as the second argument"),
        ("fit", "val_dataloaders", "a DataModule as the second argument"),
        ("fit", "max_epochs", "total_steps="),
        ("fit", "callbacks", "plugins="),
        ("test", "ckpt_path", 'checkpoint="best"'),
        ("test", "dataloaders", "a DataModule as the second argument"),
        ("test", "verbose", "enable_progress_bar="),
    ],
)
def test_argument_of_another_fit(make_trainer: Make, run: str, name: str, instead: str) -> None:
    with pytest.raises(TypeError) as caught:
        getattr(make_trainer(), run)(TinyModel(), TinyDataModule(), **{name: 1})
    assert f"{run}() has no argument {name!r}" in str(caught.value)
    assert instead in str(caught.value)


def test_misspelt_argument_of_fit_is_refused_by_python(make_trainer: Make) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'modell'"):
        make_trainer().fit(modell=TinyModel(), datamodule=TinyDataModule())


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("16-mixed", "fp16"),
        ("16-true", "fp16"),
        (16, "fp16"),
        ("16", "fp16"),
        (torch.float16, "fp16"),
        ("float16", "fp16"),
        ("half", "fp16"),
        ("bf16-mixed", "bf16"),
        ("BF16-mixed", "bf16"),
        (torch.bfloat16, "bf16"),
        ("32-true", "fp32"),
        (32, "fp32"),
        ("no", "fp32"),
        (torch.float32, "fp32"),
        (None, "fp32"),
    ],
)
def test_precision_of_another_trainer(make_trainer: Make, value: Any, meant: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(precision=value)
    assert str(caught.value).endswith(f"Did you mean {meant!r}?")


# Data.


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("pin_memory_device", "pin_memory"),
        ("generator", "random_seed"),
    ],
)
def test_parameter_of_another_loader(name: str, instead: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TinyDataModule()._create_dataset(numbers(4), {name: None})
    assert f"no parameter {name!r} of PyTorch's DataLoader. Instead, " in str(caught.value)
    assert instead in str(caught.value)


def test_shuffle_contradicts_a_sampler() -> None:
    sampler = ResumableSequentialSampler(numbers(4), 2)
    params = DataLoaderParams(shuffle=True, sampler=sampler)
    with pytest.raises(ConfigurationError) as caught:
        create_dataloader(numbers(4), params)
    assert "shuffle=True contradicts sampler=ResumableSequentialSampler(...)" in str(caught.value)
    assert "remove one of them" in str(caught.value)


class Plain(TinyDataModule):
    """Returns a loader from one of its methods, as other trainers want it."""

    def __init__(self, method: str, returned: Any) -> None:
        super().__init__()
        setattr(self, method, lambda: returned)


@pytest.mark.parametrize("kind", ["train", "valid", "test"])
@pytest.mark.parametrize("returned", [DataLoader(numbers(4)), [1], DataLoader(numbers(2))])
def test_loader_without_a_sampler(make_trainer: Make, kind: str, returned: Any) -> None:
    data, trainer = Plain(f"{kind}_dataloader", returned), make_trainer(valid_frequency=1)
    run = trainer.test if kind == "test" else trainer.fit
    with pytest.raises(TypeError) as caught:
        run(TinyModel(), data)
    assert f"Plain.{kind}_dataloader() returned a {type(returned).__name__}" in str(caught.value)
    assert f"self._{kind}_dataset = self._create_dataset(dataset" in str(caught.value)


def test_pair_of_loader_and_sampler_trains(make_trainer: Make) -> None:
    class Pair(DataModule):
        def setup(self) -> None: ...

        def train_dataloader(self) -> Any:
            data = TinyDataModule()
            data.setup()
            return data.train_dataloader()

    assert make_trainer().fit(TinyModel(), Pair()).global_iteration > 0


# Small names of earlier releases.


def test_names_of_earlier_releases() -> None:
    from helios.core import distributed, rng

    rng.seed_rngs(3)
    assert rng.get_default_seed() == 6691
    assert rng.get_default_numpy_rng().generator is rng.get_default_numpy_rng()
    assert rng.get_default_numpy_rng().generator.integers(10) in range(10)
    info = distributed.get_dist_info()
    assert (info.rank, info.world_size) == (0, 1)
    assert distributed.get_local_world_size() == distributed.get_global_world_size() == 1
