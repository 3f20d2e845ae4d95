"""The numbers of samples equal those of a loop that seeds every generator before each sample."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from helios import DataLoaderParams
from helios.core import rng
from helios.data import create_dataloader
from helios.data.loader import set_position

SIZE, BATCH, SEED = 22, 4, 5


def nothing() -> float:
    return 0.0


def torch_rand() -> float:
    return torch.rand(()).item()


def torch_randn() -> float:
    return torch.randn(()).item()


def python_gauss() -> float:
    return random.gauss()  # the second call returns a number that the first one has kept


def numpy_rand() -> float:
    return np.random.rand()


def numpy_randn() -> float:
    return np.random.randn()  # keeps a second number, too


def helios_random() -> float:
    return rng.get_default_numpy_rng().random()


def helios_half() -> float:
    return float(rng.get_default_numpy_rng().integers(0, 9, dtype=np.int32))  # keeps 32 bits


def forked() -> float:
    with torch.random.fork_rng():
        return torch.rand(()).item()


def own_generator() -> float:
    return random.Random(torch.initial_seed()).random()


def put_back() -> float:
    state, numpy_state = random.getstate(), np.random.get_state()
    drawn = random.random() + np.random.rand()
    random.setstate(state)
    np.random.set_state(numpy_state)
    return drawn


def preserved() -> float:
    with rng.preserved_rng_state():
        return sum(draw() for draw in PLAIN)


PLAIN = (torch_rand, torch_randn, random.random, python_gauss, numpy_rand, numpy_randn)
PLAIN += (helios_random, helios_half)
HIDDEN = (forked, own_generator, put_back, preserved)


def everything() -> float:
    return sum(draw() for draw in PLAIN)


class Drawing(Dataset[torch.Tensor]):
    """Each sample holds its index and a drawn number, from a certain index on."""

    def __init__(self, draw: Callable[[], float], since: int = 0) -> None:
        self.draw = draw
        self.since = since

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = self.draw() if index >= self.since else 0.0
        return torch.tensor([index, drawn], dtype=torch.float64)


class DrawingMany(Drawing):
    """The same, for a dataset that loads many samples at once."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class Collate:
    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw

    def __call__(self, samples: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(samples) + torch.tensor([0.0, self.draw()])


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with rng.preserved_rng_state():
        rng.seed_rngs(0)
        yield


def loader_of(
    dataset: Dataset[Any], draw: Callable[[], float], **params: Any
) -> tuple[DataLoader[Any], Any]:
    params = {"batch_size": BATCH, "collate_fn": Collate(draw), "random_seed": SEED, **params}
    return create_dataloader(dataset, DataLoaderParams(shuffle=True, **params))


def loaded(loader: DataLoader[Any], sampler: Any, epoch: int, start: int = 0) -> list[bytes]:
    set_position(loader, sampler, SEED, epoch, start)
    return [batch.numpy().tobytes() for batch in loader]


def expected(dataset: Dataset[Any], draw: Callable[[], float], epoch: int) -> list[bytes]:
    """Load an epoch in the slow and simple way."""
    generator = torch.Generator().manual_seed(SEED + epoch)
    order = torch.randperm(SIZE, generator=generator).tolist()
    batches = []
    with rng.preserved_rng_state():
        for indices in (order[i : i + BATCH] for i in range(0, SIZE, BATCH)):
            samples = []
            for index in indices:
                rng.reseed_cpu_rngs(rng.derive_seed(SEED, epoch, index))
                samples.append(dataset[index])
            batches.append(Collate(draw)(samples).numpy().tobytes())
    return batches


@pytest.mark.parametrize("since", [0, 17])
@pytest.mark.parametrize("kind", [Drawing, DrawingMany])
def test_any_generator_in_any_place(kind: type[Drawing], since: int) -> None:
    draws = (nothing, *PLAIN, *HIDDEN, everything)
    for number, draw in enumerate(draws):
        for in_collate in (nothing, draw, draws[number - 1], numpy_randn):
            dataset = kind(draw, since)
            for epoch in (0, 1):
                loader = loader_of(dataset, in_collate)
                wanted = expected(dataset, in_collate, epoch)
                case = (draw.__name__, in_collate.__name__, epoch)
                assert loaded(*loader, epoch) == wanted, case
                assert loaded(*loader, epoch, start=3) == wanted[3:], case  # it knows the draws now


@pytest.mark.parametrize("train", [nothing, numpy_randn, python_gauss, everything])
def test_training_draws_as_if_nobody_else_did(train: Callable[[], float]) -> None:
    # One odd draw at first: NumPy and Python then keep a number without moving their positions.
    for draw in (nothing, numpy_randn, python_gauss, torch_rand, helios_random, forked, everything):
        for since in (0, 17):
            dataset = Drawing(draw, since)
            rng.seed_rngs(0)
            wanted = [numpy_randn(), python_gauss(), *(train() for _ in range(6)), everything()]
            batches = expected(dataset, draw, 0)
            rng.seed_rngs(0)
            drawn, read = [numpy_randn(), python_gauss()], []
            for batch in loader_of(dataset, draw)[0]:
                read.append(batch.numpy().tobytes())
                drawn.append(train())
            assert [*drawn, everything()] == wanted, (draw.__name__, since)
            assert read == batches


class Failing(Drawing):
    """Fails for a drawn number; so whether it fails depends on the seed."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= self.since and self.draw() > 0.1:
            raise OSError(f"sample {index} cannot be read")
        return torch.tensor([index, 0.0])


def test_same_sample_fails() -> None:
    for since in (0, 10, 17):
        dataset = Failing(random.random, since)
        with pytest.raises(OSError, match="cannot be read") as wanted:
            expected(dataset, nothing, 0)
        before = random.getstate()
        with pytest.raises(OSError, match="cannot be read") as found:
            loaded(*loader_of(dataset, nothing), 0)
        assert str(found.value) == str(wanted.value)
        assert found.value.__cause__ is found.value.__context__ is None
        assert random.getstate() == before


class Counting(DrawingMany):
    def __init__(self, draw: Callable[[], float], since: int = 0) -> None:
        super().__init__(draw, since)
        self.asked: list[int] = []

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        self.asked.append(len(indices))
        return super().__getitems__(indices)


def test_samples_that_draw_nothing_are_fetched_together() -> None:
    dataset = Counting(nothing)
    loader = loader_of(dataset, random.random)
    loaded(*loader, 0)
    assert dataset.asked == [1] * 4 + [4] * 5 + [2]  # the first batch shows that they do not draw
    dataset.asked.clear()
    loaded(*loader, 1)
    assert dataset.asked == [4] * 5 + [2]


def test_a_batch_is_loaded_once_more_if_a_generator_moves_for_the_first_time() -> None:
    dataset = Counting(random.random, since=SIZE - 1)
    loader = loader_of(dataset, nothing)
    loader[1].indices = lambda: range(SIZE)
    loaded(*loader, 0)
    assert dataset.asked == [1] * 4 + [4] * 5 + [2, 1, 1]
    dataset.asked.clear()
    loaded(*loader, 1)
    assert dataset.asked == [1] * SIZE


@pytest.mark.parametrize("draw", [nothing, torch_rand])
def test_generators_that_nobody_draws_from_are_not_seeded(
    monkeypatch: pytest.MonkeyPatch, draw: Callable[[], float]
) -> None:
    seeds: list[int] = []
    loader = loader_of(Drawing(draw), nothing)
    loaded(*loader, 0)
    monkeypatch.setattr(np.random, "seed", seeds.append)
    monkeypatch.setattr(rng, "reseed_default_numpy_rng", seeds.append)
    assert len(loaded(*loader, 1)) == 6
    assert seeds == []


PLACES = [
    (kind, draw, in_collate)
    for draw in (torch_randn, python_gauss, numpy_randn, helios_half)
    for kind, in_collate in ((Drawing, False), (DrawingMany, False), (Drawing, True))
]
WORKERS = [(1, False, 0), (2, True, 2), (4, False, 3), (1, True, 3), (2, False, 1), (4, True, 0)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # more than processors
@pytest.mark.parametrize("number", range(len(PLACES)))
def test_workers_and_cuts(number: int) -> None:
    kind, draw, in_collate = PLACES[number]
    dataset = kind(nothing if in_collate else draw, since=7 * (number % 2))
    collate_draw = draw if in_collate else nothing
    wanted = [expected(dataset, collate_draw, epoch) for epoch in (0, 1, 2)]
    for case in (WORKERS[number % 6], WORKERS[(number + 1 + number // 6) % 6]):
        workers, persistent, cut = case
        loader = loader_of(
            dataset, collate_draw, num_workers=workers, persistent_workers=persistent
        )
        found = [loaded(*loader, epoch, cut if epoch == 0 else 0) for epoch in (0, 1, 2)]
        assert found == [wanted[0][cut:], *wanted[1:]], case
