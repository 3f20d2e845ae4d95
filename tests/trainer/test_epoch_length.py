"""An epoch that is too short or too long is no epoch: in training, validation and tests."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Make, ReadAhead
from torch.utils.data import Dataset

from helios import DataLoaderParams, DataModule
from helios.data import ResumableSequentialSampler
from helios.errors import ConfigurationError
from helios.testing import TinyModel

SAMPLES = 12  # 6 batches


class Numbers(Dataset[Any]):
    """Samples that end too early, if they are told to."""

    def __init__(self, end: int = SAMPLES) -> None:
        self._end = end

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        if index >= self._end:
            raise StopIteration
        return torch.ones(4) * index, torch.tensor(index % 2)


class Miscounted(ResumableSequentialSampler):
    """Yields another number of samples than its length says."""

    def __init__(self, yields: int) -> None:
        super().__init__(Numbers(), batch_size=2)
        self._yields = yields

    def indices(self) -> list[int]:
        return [index % SAMPLES for index in range(self._yields)]


class Endless(Miscounted):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class Data(DataModule):
    """Good data, but for one phase."""

    def __init__(self, phase: str, dataset: Any = None, **params: Any) -> None:
        super().__init__()
        self._odd = phase, dataset, params

    def setup(self) -> None:
        phase, dataset, params = self._odd
        sets = {
            name: self._create_dataset(
                Numbers() if name != phase or dataset is None else dataset,
                DataLoaderParams(batch_size=2, **(params if name == phase else {})),
            )
            for name in ("training", "validation", "testing")
        }
        self._train_dataset = sets["training"]
        self._valid_dataset = sets["validation"]
        self._test_dataset = sets["testing"]


def run(make_trainer: Make, data: Data, **arguments: Any) -> str:
    """Train, validate or test on the odd data, and return the message of the error."""
    trainer = make_trainer(**{"valid_frequency": 1, **arguments})
    start = trainer.test if data._odd[0] == "testing" else trainer.fit
    with pytest.raises(ConfigurationError) as caught:
        start(TinyModel(), data)
    return str(caught.value)


@pytest.mark.parametrize("phase", ["training", "validation", "testing"])
@pytest.mark.parametrize("seeding", ["sample", "batch", "none"])
def test_dataset_that_raises_stop_iteration(make_trainer: Make, phase: str, seeding: Any) -> None:
    assert run(make_trainer, Data(phase, Numbers(end=7), seeding=seeding)) == (
        "Numbers yielded 3 of 6 batches, so the epoch is not complete: the dataset raised"
        " StopIteration, which ends an epoch; raise another error, or let __len__() return the"
        " number of samples that exist."
    )


@pytest.mark.parametrize("end", [0, 1, 7])
def test_no_window_of_accumulation_is_lost(make_trainer: Make, end: int) -> None:
    message = run(make_trainer, Data("training", Numbers(end)), accumulation_steps=2)
    assert message.startswith(f"Numbers yielded {end // 2} of 6 batches")


@pytest.mark.parametrize("phase", ["training", "validation", "testing"])
@pytest.mark.parametrize("yields", [0, 2, 9])
def test_sampler_that_yields_too_few(make_trainer: Make, phase: str, yields: int) -> None:
    data = Data(phase, sampler=Miscounted(yields))
    assert run(make_trainer, data) == (
        f"Numbers yielded {(yields + 1) // 2} of 6 batches, so the epoch is not complete: let"
        " __len__() of Miscounted return the number of indices that its __iter__() yields."
    )


@pytest.mark.parametrize("phase", ["training", "validation", "testing"])
@pytest.mark.parametrize("sampler", [Miscounted(13), Miscounted(40), Endless(0)])
def test_sampler_that_yields_too_many(make_trainer: Make, phase: str, sampler: Any) -> None:
    assert run(make_trainer, Data(phase, sampler=sampler)).startswith(
        "Numbers yielded more than 6 batches, its length: let __len__() of"
        f" {type(sampler).__name__} return the number of indices"
    )


@pytest.mark.parametrize("yields", [9, 13])
def test_plugin_that_reads_ahead_hides_nothing(make_trainer: Make, yields: int) -> None:
    data = Data("training", sampler=Miscounted(yields))
    assert run(make_trainer, data, plugins=[ReadAhead()]).startswith("Numbers yielded ")


def test_right_number_is_right_wherever_a_run_resumes(make_trainer: Make, tmp_path: Any) -> None:
    for steps in (4, 6, 7, 13):
        trainer = make_trainer(train_unit="iteration", total_steps=steps, chkpt_root=tmp_path)
        trainer.fit(TinyModel(), Data(""))
        assert trainer.state.global_iteration == steps


def test_workers(make_trainer: Make) -> None:
    message = run(make_trainer, Data("training", Numbers(end=7), num_workers=1))
    assert message.startswith("Numbers yielded 3 of 6 batches")
