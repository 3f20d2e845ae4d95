"""Augmented samples are a function of seed, epoch and index, and of nothing else."""

import pathlib
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Make, ReadAhead
from torch.utils.data import Dataset

from helios import DataLoaderParams, Trainer
from helios.core import rng
from helios.data import ResumableDistributedSampler, ResumableSampler, create_dataloader
from helios.data.loader import set_position
from helios.errors import ConfigurationError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

SIZE = 22


def draw() -> list[float]:
    """Draw from every generator; normal numbers, too, of which some generators keep a second."""
    return [
        torch.rand(()).item(),
        torch.randn(()).item(),
        random.random(),
        random.gauss(),
        np.random.rand(),
        np.random.randn(),
        rng.get_default_numpy_rng().random(),
        rng.get_default_numpy_rng().standard_normal(),
    ]


class Noise(Dataset[torch.Tensor]):
    """The index of a sample and random numbers: more of them for some samples than for others."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> torch.Tensor:
        noise = draw()
        for _ in range(index % 3):
            draw()
        return torch.tensor([float(index), *noise], dtype=torch.float64)


class FetchingMany(Noise):
    """Loads many samples at once, as datasets in files do; remembers how many."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        self.asked.append(len(indices))
        return [self[index] for index in indices]


def noisy_collate(samples: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(samples) * random.random() + torch.tensor(draw(), dtype=torch.float64).sum()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Seed the training stream, and leave it to other tests as it was."""
    generator = rng._generator
    with rng.preserved_rng_state():
        rng.seed_rngs(0)
        yield
    rng._generator = generator


def batches(
    epoch: int = 0, start_iter: int = 0, dataset: Dataset[Any] | None = None, **params: Any
) -> list[torch.Tensor]:
    """Load an epoch."""
    shuffle = "sampler" not in params  # a sampler has its own order
    params = {"batch_size": 4, "shuffle": shuffle, "random_seed": 5, **params}
    loader, sampler = create_dataloader(dataset or Noise(), DataLoaderParams(**params))
    set_position(loader, sampler, seed=5, epoch=epoch, start_iter=start_iter)
    return list(loader)


def samples(**params: Any) -> dict[float, bytes]:
    """Load an epoch; return the samples by their index."""
    return {
        sample[0].item(): sample.numpy().tobytes()
        for batch in batches(**params)
        for sample in batch
    }


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # more than processors
@pytest.mark.parametrize("seeding", ["sample", "batch"])
@pytest.mark.parametrize("dataset", [Noise, FetchingMany])
def test_same_bytes_for_any_number_of_workers(seeding: str, dataset: type[Noise]) -> None:
    epochs = []
    for workers in (0, 1, 4):
        params = {"seeding": seeding, "num_workers": workers, "collate_fn": noisy_collate}
        whole = [batches(epoch, dataset=dataset(), **params) for epoch in (0, 1)]
        epochs.append([batch.numpy().tobytes() for epoch in whole for batch in epoch])
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(set(epochs[0])) == 12


@pytest.mark.parametrize("seeding", ["sample", "batch"])
def test_same_bytes_from_any_batch_on(seeding: str) -> None:
    params = {"seeding": seeding, "num_workers": 2, "collate_fn": noisy_collate}
    whole = batches(**params)
    assert all(equal(batches(start_iter=i, **params), whole[i:]) for i in (1, 2, 5))


def test_samples_do_not_depend_on_how_they_are_batched_and_fetched() -> None:
    expected = samples()
    assert len({sample[8:] for sample in expected.values()}) == SIZE  # each has its own noise
    assert samples(batch_size=1) == expected
    assert samples(batch_size=7) == expected
    assert samples(shuffle=False) == expected
    assert samples(num_workers=2, prefetch_factor=1) == expected
    assert samples(num_workers=2, prefetch_factor=5, batch_size=3) == expected
    assert samples(dataset=FetchingMany()) == expected
    assert samples(dataset=torch.utils.data.Subset(Noise(), range(SIZE))) == expected


def test_samples_do_not_depend_on_the_number_of_processes() -> None:
    shares = {}
    for rank in (0, 1):
        sampler = ResumableDistributedSampler(Noise(), num_replicas=2, rank=rank, batch_size=4)
        shares |= samples(sampler=sampler)
    assert shares == samples()


def test_seed_and_epoch_change_every_sample() -> None:
    orders = [samples(), samples(epoch=1), samples(random_seed=6)]
    assert all(len({order[index] for order in orders}) == 3 for index in orders[0])


def test_seeding_of_batches_depends_on_the_batch_size() -> None:
    # As documented; who wants it otherwise has the default.
    assert samples(seeding="batch", batch_size=2) != samples(seeding="batch")


@pytest.mark.parametrize("seeding", ["sample", "batch"])
@pytest.mark.parametrize("drawn_before", [0, 1])
def test_training_stream_is_left_as_it_was(seeding: str, drawn_before: int) -> None:
    for _ in range(drawn_before):
        np.random.randn()  # leaves its second value behind
        random.gauss()
    with rng.preserved_rng_state():
        expected = draw()
    held = rng.get_default_numpy_rng()
    batches(seeding=seeding, collate_fn=noisy_collate)
    assert rng.get_default_numpy_rng() is held
    assert draw() == expected


class Broken(Noise):
    def __getitem__(self, index: int) -> torch.Tensor:
        draw()
        raise OSError("cannot be read")


def broken_collate(samples: list[torch.Tensor]) -> None:
    draw()
    raise OSError("cannot be read")


@pytest.mark.parametrize("seeding", ["sample", "batch"])
@pytest.mark.parametrize("what", ["sample", "collate function"])
def test_training_stream_is_left_as_it_was_by_what_fails(seeding: str, what: str) -> None:
    with rng.preserved_rng_state():
        expected = draw()
    dataset = Broken() if what == "sample" else Noise()
    with pytest.raises(OSError, match="cannot be read"):
        batches(dataset=dataset, seeding=seeding, collate_fn=broken_collate)
    assert draw() == expected


def test_samples_can_draw_before_anything_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = samples()
    monkeypatch.setattr(rng, "_generator", None)
    assert samples() == samples(num_workers=1) == expected
    assert rng._generator is None


def test_without_seeding_the_loader_is_the_plain_one() -> None:
    dataset = Noise()
    params = DataLoaderParams(seeding="none", collate_fn=noisy_collate)
    loader, _ = create_dataloader(dataset, params)
    assert loader.dataset is dataset
    assert loader.collate_fn is noisy_collate
    with rng.preserved_rng_state():
        first = batches(seeding="none")
    assert equal(batches(seeding="none"), first)
    assert not equal(batches(seeding="none"), first)  # it draws from the training stream


def test_many_samples_are_fetched_at_once_unless_each_is_seeded() -> None:
    asked = {}
    for seeding in ("sample", "batch", "none"):
        dataset = FetchingMany()
        batches(dataset=dataset, seeding=seeding)
        asked[seeding] = dataset.asked
    assert asked == {"sample": [1] * SIZE, "batch": [4] * 5 + [2], "none": [4] * 5 + [2]}


class BatchesAsTheyAre(Noise):
    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        return torch.tensor(indices)


def test_samples_that_cannot_be_told_apart() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"BatchesAsTheyAre.__getitems__ returned a Tensor.*pass seeding='batch'",
    ):
        batches(dataset=BatchesAsTheyAre())
    loaded = batches(dataset=BatchesAsTheyAre(), seeding="batch", collate_fn=torch.clone)
    assert sorted(torch.cat(loaded).tolist()) == list(range(SIZE))


class Names(ResumableSampler):
    def indices(self) -> list[Any]:
        return ["one", "two"]


@pytest.mark.parametrize("seeding", ["sample", "batch"])
def test_indices_that_are_no_numbers(seeding: str) -> None:
    sampler = Names(range(2))
    with pytest.raises(ConfigurationError, match=r"sampler of Noise yields 'one'.*seeding='none'"):
        batches(sampler=sampler, seeding=seeding)


def test_numbers_of_numpy_are_indices() -> None:
    class Sampler(ResumableSampler):
        def indices(self) -> list[Any]:
            return list(np.random.permutation(SIZE))

    assert samples(sampler=Sampler(range(SIZE))) == samples()


def test_loaders_can_be_sent_to_processes_that_are_spawned() -> None:
    loader, _ = create_dataloader(Noise(), DataLoaderParams(batch_size=4, random_seed=5))
    copied = pickle.loads(pickle.dumps(loader.dataset))
    assert equal(copied.__getitems__([3, 1]), loader.dataset.__getitems__([3, 1]))


# Whole runs.


class NoisyData(TinyDataModule):
    """Samples and batches with noise from every generator, in training and validation."""

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self._params = params

    def setup(self) -> None:
        super().setup()
        for data in (self._train_dataset, self._valid_dataset):
            assert data is not None
            data.dataset = NoisyFeatures(data.dataset)
            data.params.collate_fn = noisy_features
            for name, value in self._params.items():
                setattr(data.params, name, value)


class NoisyFeatures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, data: Dataset[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]  # it is sized

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        features, label = self._data[index]
        return features + 0.01 * sum(draw()), label


def noisy_features(samples: list[Any]) -> list[torch.Tensor]:
    features, labels = torch.utils.data.default_collate(samples)
    return [features + 0.01 * sum(draw()), labels]


class Witness(TinyModel):
    """Draws in its steps, and remembers what it was given."""

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self.seen = seen
        self.validated: list[Any] = []

    def train_step(self, batch: Any, state: Any) -> torch.Tensor:
        self.seen.append((batch[0].tolist(), draw()))
        return super().train_step(batch, state)

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self.validated.append((self.trainer.state.validation_cycles, batch[0].tolist()))
        return super().valid_step(batch, step)


def train(
    make_trainer: Make, seen: list[Any], stop_after: int | None = None, **arguments: Any
) -> tuple[Witness, dict[str, Any]]:
    data = arguments.pop("data", NoisyData())
    trainer = make_trainer(
        **{
            "train_unit": "iteration",
            "total_steps": 13,
            "valid_frequency": 3,
            "plugins": [StopAfter(stop_after)],
            **arguments,
        }
    )
    model = Witness(seen)
    trainer.fit(model, data)
    return model, {"seen": seen, "model": model.state_dict(), "rng": rng.get_rng_state_dict()}


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """Train without interruption or workers."""
    trainer = {"use_cpu": True, "print_banner": False, "autoload": False}
    return train(lambda **arguments: Trainer(**trainer, **arguments), [])[1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_after", [2, 5, 6, 9])
def test_run_that_was_cut(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    whole: dict[str, Any],
    workers: int,
    stop_after: int,
) -> None:
    seen: list[Any] = []
    train(
        make_trainer,
        seen,
        run_root=tmp_path,
        # What workers and plug-ins have read ahead does not count, and may differ from then on.
        plugins=[StopAfter(stop_after), ReadAhead()],
        data=NoisyData(num_workers=1, prefetch_factor=3),
    )
    assert len(seen) == stop_after
    _, resumed = train(make_trainer, seen, run_root=tmp_path, data=NoisyData(num_workers=workers))
    assert equal(resumed, whole)


def test_seed_of_the_trainer_reaches_the_samples(make_trainer: Make, whole: dict[str, Any]) -> None:
    data = NoisyData(shuffle=False)
    firsts = []
    for seed in (1, 2, 1):
        model, _ = train(make_trainer, [], random_seed=seed, total_steps=1, data=data)
        firsts.append(model.seen[0][0])
    assert firsts[0] == firsts[2] != firsts[1]
    model, _ = train(make_trainer, [], random_seed=rng.DEFAULT_SEED)
    assert model.seen == whole["seen"]


def test_datasets_of_the_data_module_are_the_own_ones(make_trainer: Make) -> None:
    data = NoisyData()
    train(make_trainer, [], total_steps=1, data=data)
    assert type(data.train_dataset) is type(data.valid_dataset) is NoisyFeatures


def test_each_validation_sees_the_same_samples(make_trainer: Make) -> None:
    model, _ = train(make_trainer, [])
    cycles = [[batch for cycle, batch in model.validated if cycle == i] for i in range(4)]
    assert cycles[0] == cycles[1] == cycles[2] == cycles[3]
    assert len(cycles[0]) == 3
