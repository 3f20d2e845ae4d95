"""Whole runs with persistent workers, batch samplers and samples that are batches."""

import gc
import logging
import multiprocessing
import pathlib
import random
from typing import Any

import pytest
import torch
from helpers import Make
from torch.utils.data import Dataset, TensorDataset

from helios import TrainingState
from helios.core import rng
from helios.data import ResumableBatchSampler
from helios.errors import CheckpointError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Adds a random number to each sample."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        features, label = self._data[index]
        return features + 0.01 * random.gauss() + 0.01 * torch.randn(()), label


class Bunches(ResumableBatchSampler):
    """Batches of 4 or 7 samples, in another order in each epoch."""

    def batches(self) -> list[list[int]]:
        bunches = [list(range(0, 4)), list(range(4, 11)), list(range(11, 15)), list(range(15, 22))]
        return random.Random(self.epoch).sample(bunches, len(bunches))

    def __len__(self) -> int:
        return 4


class Data(TinyDataModule):
    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._params = params

    def setup(self) -> None:
        super().setup()
        dataset: Any = Noisy(self.train_dataset)
        if "batch_size" in self._params:  # each sample is a batch of two
            features = torch.randn(11, 2, 4, generator=torch.Generator().manual_seed(1))
            dataset = Noisy(TensorDataset(features, (features.sum(dim=2) > 0).long()))
        params = {"batch_size": 4, "shuffle": True}
        if "batch_sampler" in self._params:
            params = {}
        self._train_dataset = self._create_dataset(dataset, {**params, **self._params})


def train(
    make_trainer: Make, seen: list[Any], data: Data, stop_after: int | None = None, **arguments: Any
) -> dict[str, Any]:
    class Model(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
            seen.append((batch[0].tolist(), random.random()))
            return super().train_step(batch, state)

    trainer = make_trainer(
        **{
            "train_unit": "iteration",
            "total_steps": 13,
            "plugins": [StopAfter(stop_after)],
            **arguments,
        }
    )
    model = Model()
    trainer.fit(model, data)
    return {"seen": seen, "model": model.state_dict(), "rng": rng.get_rng_state_dict()}


PERSISTENT = {"num_workers": 2, "persistent_workers": True}
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "batches of the loader": ({}, 8),
    "batch sampler": ({"batch_sampler": Bunches()}, 6),
    "samples that are batches": ({"batch_size": None}, 3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_run_that_was_cut(make_trainer: Make, tmp_path: pathlib.Path, kind: str) -> None:
    params, stop_after = KINDS[kind]
    whole = train(make_trainer, [], Data(**params))
    seen: list[Any] = []
    train(make_trainer, seen, Data(**params, **PERSISTENT), stop_after, run_root=tmp_path)
    assert len(seen) == stop_after
    resumed = train(make_trainer, seen, Data(**params), run_root=tmp_path)
    assert equal(resumed, whole)
    assert equal(train(make_trainer, [], Data(**params, **PERSISTENT)), whole)


def test_other_batches_inside_an_epoch(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Reversed(Bunches):
        def batches(self) -> list[list[int]]:
            return super().batches()[::-1]

    train(make_trainer, [], Data(batch_sampler=Bunches()), 6, run_root=tmp_path)
    with pytest.raises(CheckpointError, match=r"sampler=Bunches\(order=.*sampler=Reversed\(order="):
        train(make_trainer, [], Data(batch_sampler=Reversed()), run_root=tmp_path)


def test_batches_out_of_order_are_announced(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "helios"):
        train(make_trainer, [], Data(num_workers=1, in_order=False), total_steps=6)
    (message,) = {record.message for record in caplog.records if "in_order" in record.message}
    assert "if this run resumes inside an epoch, it may repeat some batches" in message
    assert "Remove in_order=False" in message


def test_context_of_the_module_is_copied_with_the_parameters(make_trainer: Make) -> None:
    context = torch.multiprocessing.get_context("fork")
    data = Data(num_workers=1, multiprocessing_context=context)
    whole = train(make_trainer, [], Data(), total_steps=2)
    assert equal(train(make_trainer, [], data, total_steps=2), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_persistent_workers_end_with_the_run(make_trainer: Make, kind: str) -> None:
    params, stop_after = KINDS[kind]
    gc.disable()  # the workers would wait for the collector for minutes in a small program
    try:
        before = multiprocessing.active_children()
        train(make_trainer, [], Data(**params, **PERSISTENT), stop_after)
        assert multiprocessing.active_children() == before
    finally:
        gc.enable()
