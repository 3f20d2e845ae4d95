"""Data modules: datasets, phases, and what reaches the loaders."""

from typing import Any

import pytest
from helpers import numbers

from helios import DataLoaderParams, DataModule, Trainer
from helios.data import (
    DATASET_REGISTRY,
    TRANSFORM_REGISTRY,
    DatasetSplit,
    ResumableSequentialSampler,
    create_dataset,
    create_transform,
)
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel


class Phases(DataModule):
    def setup(self) -> None:
        self._add_train_phase(numbers(4), {"batch_size": 2})
        self._add_train_phase(numbers(6), {"batch_size": 2})


def test_what_is_absent_is_none() -> None:
    data = TinyDataModule(valid_size=0)
    data.setup()
    assert data.valid_dataset is None
    assert data.valid_dataloader() is None
    assert data.test_dataset is None
    assert data.test_dataloader() is None
    assert data.train_dataset is not None


def test_loaders_are_fresh() -> None:
    data = TinyDataModule()
    data.setup()
    assert data.train_dataloader() is not None
    assert data.train_dataloader()[0] is not data.train_dataloader()[0]


def test_parameters_are_copied() -> None:
    data, params = TinyDataModule(), DataLoaderParams(batch_size=2)
    data._train_dataset = data._create_dataset(numbers(4), params)
    params.batch_size = 1
    assert data.get_train_steps_per_epoch() == 2


def test_unknown_parameter_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TinyDataModule()._create_dataset(numbers(4), {"batchsize": 2})
    assert "has no parameter 'batchsize'. Did you mean 'batch_size'?" in str(caught.value)


def test_every_parameter_of_a_dictionary_counts() -> None:
    sampler = ResumableSequentialSampler(numbers(4), 2)
    created = TinyDataModule()._create_dataset(numbers(4), {"sampler": sampler})
    assert isinstance(created.params.sampler, ResumableSequentialSampler)


def test_dataset_that_is_not_wrapped() -> None:
    data = TinyDataModule()
    data._train_dataset = numbers(4)  # type: ignore[assignment]  # on purpose
    with pytest.raises(
        TypeError, match=r"a TensorDataset as one of its datasets: wrap the dataset"
    ):
        data.train_dataloader()


def test_steps_without_a_training_set() -> None:
    with pytest.raises(RuntimeError, match="Phases has no training set"):
        Phases().get_train_steps_per_epoch()


def test_phases() -> None:
    data = Phases()
    data.setup()
    assert data.state_dict() == {"phase": 0}
    assert data.get_train_steps_per_epoch() == 2
    assert data.advance_train_phase()
    assert data.get_train_steps_per_epoch() == 3
    assert not data.advance_train_phase()
    assert data.state_dict() == {"phase": 1}
    data.load_state_dict({"phase": 0})
    assert data.get_train_steps_per_epoch() == 2
    data.load_state_dict({})
    assert TinyDataModule().state_dict() == {}


def test_phases_do_not_grow_from_run_to_run() -> None:
    class Advancing(TinyModel):
        def train_step(self, batch: Any, state: Any) -> None:
            seen.append(len(batch[0]))

        def should_advance_dataset_phase(self) -> bool:
            return True

    seen: list[int] = []
    data, batches = Phases(), []
    trainer = Trainer(total_steps=3, use_cpu=True, print_banner=False)
    for _ in range(2):
        trainer.fit(Advancing(), data)
        batches.append(len(seen))
    assert batches == [8, 16]  # 2 and twice 3 batches: the last phase goes on
    assert len(data._train_phases) == 2


def test_random_seed_of_the_trainer_chooses_the_order() -> None:
    orders = []
    for seed in (1, 2, 1):
        model, order = TinyModel(), []
        model.train_step = lambda batch, state, order=order: order.append(batch[0][0, 0].item())
        trainer = Trainer(total_steps=1, use_cpu=True, print_banner=False, random_seed=seed)
        trainer.fit(model, TinyDataModule())
        orders.append(order)
    assert orders[0] == orders[2] != orders[1]


def test_splits() -> None:
    assert [DatasetSplit.from_str(name) for name in ("train", "VALID", "test")] == [
        DatasetSplit.TRAIN,
        DatasetSplit.VALID,
        DatasetSplit.TEST,
    ]
    with pytest.raises(ConfigurationError, match="'dev' is not a dataset split: write 'train'"):
        DatasetSplit.from_str("dev")


def test_registries_create() -> None:
    DATASET_REGISTRY.register(numbers)
    TRANSFORM_REGISTRY.register(abs)
    assert len(create_dataset("numbers", 3)) == 3  # type: ignore[arg-type]
    assert create_transform("abs", -2) == 2


def test_trainer_is_unknown_before_a_run() -> None:
    with pytest.raises(AssertionError, match="once fit"):
        _ = TinyDataModule().trainer
