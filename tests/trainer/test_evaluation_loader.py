"""The loaders of evaluations: one for a run, and the same batches from each reading."""

import random
from typing import Any

import pytest
import torch
from helpers import Make
from torch.utils.data import DataLoader, TensorDataset

from helios import TrainingState
from helios.data import ResumableSequentialSampler
from helios.testing import TinyDataModule, TinyModel


class Recording(TinyDataModule):
    """Counts its loaders, and draws new validation batches for each reading unless seeded."""

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self.params = params
        self.created: list[Any] = []

    def setup(self) -> None:
        super().setup()
        assert self.valid_dataset is not None
        self._add_valid_dataset(self.valid_dataset, {"batch_size": 3, **self.params})

    def valid_dataloader(self) -> Any:
        self.created.append(super().valid_dataloader())
        return self.created[-1]


class Seeing(TinyModel):
    """Remembers the validation batches of each cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[Any]] = {}

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        cycle = self.trainer.state.validation_cycles
        self.seen.setdefault(cycle, []).append(batch[0].tolist())
        return super().valid_step(batch, step)


def noisy(samples: list[Any]) -> list[torch.Tensor]:
    features, labels = torch.utils.data.default_collate(samples)
    return [features + random.random(), labels]


@pytest.mark.parametrize(
    "params",
    [
        {"shuffle": True, "collate_fn": noisy},
        {"shuffle": True, "collate_fn": noisy, "num_workers": 1, "persistent_workers": True},
    ],
)
def test_one_loader_and_the_same_batches(make_trainer: Make, params: dict[str, Any]) -> None:
    data, model = Recording(**params), Seeing()
    make_trainer(total_steps=3, valid_frequency=1).fit(model, data)
    assert len(data.created) == 1
    assert len(model.seen) == 3
    assert model.seen[0] == model.seen[1] == model.seen[2]


class Changing(Recording):
    """Has another validation set from the second cycle on."""

    def change(self) -> None:
        assert self.valid_dataset is not None
        features, labels = self.valid_dataset.tensors  # type: ignore[attr-defined]  # it has
        self._add_valid_dataset(TensorDataset(features + 1, labels), {"batch_size": 3})


def test_another_set_has_another_loader(make_trainer: Make) -> None:
    data = Changing()

    class Model(Seeing):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            if current_epoch == 1:
                data.change()

    model = Model()
    make_trainer(total_steps=3, valid_frequency=1).fit(model, data)
    assert len(data.created) == 2
    assert model.seen[0] != model.seen[1] == model.seen[2]


class OneUse(TinyDataModule):
    """Has a loader that is no ``DataLoader``, and can be read only once."""

    def valid_dataloader(self) -> Any:
        loader = super().valid_dataloader()
        assert loader is not None
        return iter(list(loader[0])), ResumableSequentialSampler(range(8))


def test_loader_that_can_be_read_once(make_trainer: Make) -> None:
    model = Seeing()
    make_trainer(total_steps=2, valid_frequency=1).fit(model, OneUse())
    assert len(model.seen[0]) == 3
    assert model.seen[0] == model.seen[1]


class OwnShuffle(TinyDataModule):
    """Shuffles its validation set with a generator of the loader."""

    def valid_dataloader(self) -> Any:
        assert self.valid_dataset is not None
        generator = torch.Generator().manual_seed(3)
        loader = DataLoader(self.valid_dataset, 3, shuffle=True, generator=generator)
        return loader, ResumableSequentialSampler(range(8))


def test_generators_of_a_users_loader_start_again(make_trainer: Make) -> None:
    model = Seeing()
    make_trainer(total_steps=2, valid_frequency=1).fit(model, OwnShuffle())
    assert model.seen[0] == model.seen[1]


class Phases(Recording):
    def setup(self) -> None:
        super().setup()
        assert self.train_dataset is not None
        self._add_train_phase(self.train_dataset, {"batch_size": 4})


class Advancing(Seeing):
    def should_advance_dataset_phase(self) -> bool:
        return self.trainer.state.global_epoch == 1


def test_another_phase_has_another_loader(make_trainer: Make) -> None:
    data = Phases()
    state: TrainingState = make_trainer(total_steps=3, valid_frequency=1).fit(Advancing(), data)
    assert state.global_epoch == 3
    assert len(data.created) == 2
