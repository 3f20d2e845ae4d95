"""Random number generators: what is saved is everything, and nothing else is touched."""

import itertools
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helios.core import rng, safe_torch_load

Draw = tuple[float, ...]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the generators of this process as they were."""
    generator = rng._generator
    with rng.preserved_rng_state():
        yield
    rng._generator = generator


def draw() -> Draw:
    """Draw from each generator, and from both ways that have a memory of a second value."""
    return (
        torch.rand(()).item(),
        torch.randn(()).item(),
        random.random(),
        random.gauss(),
        np.random.rand(),
        np.random.randn(),
        rng.get_default_numpy_rng().random(),
        rng.get_default_numpy_rng().standard_normal(),
    )


def test_seeding_determines_every_generator() -> None:
    rng.seed_rngs(3)
    first = draw()
    rng.seed_rngs(3)
    assert draw() == first
    rng.seed_rngs(4)
    assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_default_seed() -> None:
    rng.seed_rngs()
    first = draw()
    rng.seed_rngs(6691)
    assert rng.DEFAULT_SEED == 6691
    assert draw() == first


def test_seed_zero_is_a_seed() -> None:
    rng.seed_rngs(0)
    first = draw()
    rng.seed_rngs(None)
    assert draw() != first


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**63])
def test_large_seeds(seed: int) -> None:
    rng.seed_rngs(seed)
    first = draw()
    rng.seed_rngs(seed)
    assert draw() == first


def test_skip_torch() -> None:
    torch.manual_seed(1)
    expected = torch.rand(()).item()
    torch.manual_seed(1)
    rng.seed_rngs(5, skip_torch=True)
    others = draw()[2:]
    torch.manual_seed(1)
    rng.seed_rngs(5, skip_torch=True)
    assert torch.rand(()).item() == expected
    torch.randn(())
    assert draw()[2:] == others


def test_numpy_generator() -> None:
    rng.seed_rngs(7)
    generator = rng.get_default_numpy_rng()
    assert isinstance(generator, np.random.Generator)
    assert generator is rng.get_default_numpy_rng()
    assert generator.random() == np.random.Generator(np.random.PCG64(7)).random()


def test_numpy_generator_before_seeding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rng, "_generator", None)
    with pytest.raises(RuntimeError, match="seed_rngs"):
        rng.get_default_numpy_rng()


def in_memory(state: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    return state


def in_a_file(state: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    torch.save(state, path)
    loaded: dict[str, Any] = safe_torch_load(path)
    return loaded


@pytest.mark.parametrize("keep", [in_memory, in_a_file])
@pytest.mark.parametrize("drawn_before", [0, 1, 2, 700])
def test_round_trip(
    tmp_path: pathlib.Path, keep: Callable[..., dict[str, Any]], drawn_before: int
) -> None:
    rng.seed_rngs(11)
    for _ in range(drawn_before):
        draw()
    np.random.randn()  # leaves its second value behind
    random.gauss()
    state = keep(rng.get_rng_state_dict(), tmp_path / "rng.pt")
    expected = [draw() for _ in range(3)]
    rng.seed_rngs(12)
    draw()
    rng.load_rng_state_dict(state)
    assert [draw() for _ in range(3)] == expected


def test_state_is_a_snapshot() -> None:
    rng.seed_rngs(1)
    state = rng.get_rng_state_dict()
    expected = draw()
    for _ in range(700):  # further than any of the generators' tables
        draw()
    rng.load_rng_state_dict(state)
    assert draw() == expected
    rng.load_rng_state_dict(state)
    assert draw() == expected


def test_state_has_the_documented_keys() -> None:
    rng.seed_rngs(1)
    assert set(rng.get_rng_state_dict()) - {"cuda"} == {"torch", "rand", "numpy"}


def test_loading_keeps_the_generator_that_users_hold() -> None:
    rng.seed_rngs(1)
    held = rng.get_default_numpy_rng()
    state = rng.get_rng_state_dict()
    expected = held.random()
    rng.load_rng_state_dict(state)
    assert rng.get_default_numpy_rng() is held
    assert held.random() == expected


def test_loading_before_seeding(monkeypatch: pytest.MonkeyPatch) -> None:
    rng.seed_rngs(1)
    state = rng.get_rng_state_dict()
    expected = draw()
    monkeypatch.setattr(rng, "_generator", None)
    rng.load_rng_state_dict(state)
    assert draw() == expected


def test_state_without_a_numpy_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rng, "_generator", None)
    state = rng.get_rng_state_dict()
    expected = random.random()
    rng.load_rng_state_dict(state)
    assert random.random() == expected
    with pytest.raises(RuntimeError):
        rng.get_default_numpy_rng()


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_state_of_gpus_is_ignored_without_one() -> None:
    rng.seed_rngs(1)
    state = {**rng.get_rng_state_dict(), "cuda": [torch.zeros(16, dtype=torch.uint8)]}
    expected = draw()
    rng.load_rng_state_dict(state)
    assert draw() == expected


def test_preserved() -> None:
    rng.seed_rngs(1)
    expected = draw()
    rng.seed_rngs(1)
    with rng.preserved_rng_state():
        assert draw() == expected
        draw()
        rng.seed_rngs(99)
        draw()
    assert draw() == expected


def test_preserved_when_the_block_fails() -> None:
    rng.seed_rngs(1)
    expected = draw()
    rng.seed_rngs(1)

    def fail() -> None:
        with rng.preserved_rng_state():
            draw()
            raise OSError("inside")

    with pytest.raises(OSError, match="inside"):
        fail()
    assert draw() == expected


def reseeded(seed: int) -> Draw:
    rng.reseed_cpu_rngs(seed)
    return draw()


def test_derived_seeds_of_neighbours_are_distinct() -> None:
    near = itertools.product(range(12), range(12), range(300))
    seeds = [rng.derive_seed(*numbers) for numbers in near]
    assert len(set(seeds)) == len(seeds) == 12 * 12 * 300
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_derived_seeds_are_spread_evenly() -> None:
    # Each bit is set half the time, and each half of the seed is as good as the whole.
    count = 20_000
    seeds = [rng.derive_seed(6691, 3, index) for index in range(count)]
    bits = np.array([[seed >> bit & 1 for bit in range(64)] for seed in seeds])
    tolerance = 5 * 0.5 * count**-0.5  # five standard deviations
    assert np.abs(bits.mean(axis=0) - 0.5).max() < tolerance
    flips = np.abs(np.diff(bits, axis=0))  # what one sample more does to each bit
    assert np.abs(flips.mean(axis=0) - 0.5).max() < tolerance
    for half in ({seed >> 32 for seed in seeds}, {seed & 2**32 - 1 for seed in seeds}):
        assert len(half) > count - 5  # 0.05 equal pairs are expected


@given(
    seed=st.integers(0, 2**64 - 1),
    one=st.integers(0, 2**63),
    other=st.integers(0, 2**63),
    last=st.integers(0, 2**63),
)
def test_derived_seeds_are_chained_and_one_to_one(
    seed: int, one: int, other: int, last: int
) -> None:
    assert (rng.derive_seed(seed, one) == rng.derive_seed(seed, other)) == (one == other)
    assert rng.derive_seed(rng.derive_seed(seed, one), last) == rng.derive_seed(seed, one, last)


def test_derived_seeds_do_not_change_from_release_to_release() -> None:
    assert rng.derive_seed(0, 0) == 0xE220A8397B1DCDAF  # the first output of splitmix64(0)
    assert rng.derive_seed(0, 1) == 0x6E789E6AA1B965F4
    assert rng.derive_seed(6691, 0, 0) == rng.derive_seed(6691 + 2**64, 0, 0)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_reseeding_determines_every_generator(seed: int) -> None:
    first = reseeded(seed)
    assert reseeded(seed) == first
    assert all(one != other for one, other in zip(reseeded(seed ^ 2**40 ^ 1), first, strict=True))


def test_reseeded_generators_of_neighbours_have_nothing_in_common() -> None:
    draws = np.array([reseeded(rng.derive_seed(0, 0, index)) for index in range(4000)])
    uniform = draws[:, [0, 2, 4, 6]]
    assert np.abs(uniform.mean(axis=0) - 0.5).max() < 5 * (1 / 12 / 4000) ** 0.5
    # Neither from sample to sample, nor from generator to generator.
    columns = np.concatenate([draws[:-1], draws[1:]], axis=1)
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(16)
    assert np.abs(correlations).max() < 5.5 * 4000**-0.5


def test_reseeding_keeps_the_generator_that_users_hold() -> None:
    rng.seed_rngs(1)
    held = rng.get_default_numpy_rng()
    rng.reseed_cpu_rngs(3)
    assert rng.get_default_numpy_rng() is held


@pytest.mark.parametrize("drawn_before", [0, 1, 2, 700])
def test_preserved_from_reseeding(drawn_before: int) -> None:
    rng.seed_rngs(1)
    for _ in range(drawn_before):
        np.random.randn()
        random.gauss()
        rng.get_default_numpy_rng().integers(9, dtype=np.int32)  # uses half of 64 bits
    with rng.preserved_rng_state():
        expected = draw()

    def fail() -> None:
        with rng.preserved_cpu_rng_state():
            reseeded(5)
            raise OSError("inside")

    with pytest.raises(OSError, match="inside"):
        fail()
    assert draw() == expected


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [5],
        list(range(40)),
        [2**63 - 1 - i for i in range(40)],
        [2**64 + i for i in range(40)],
        [-1, *range(40)],
        list(np.arange(40, dtype=np.uint8)),
    ],
)
def test_seeds_of_many_numbers_are_those_of_each(numbers: list[Any]) -> None:
    for seed in (0, 6691, rng.LARGEST_SEED):
        found = rng.derive_seeds(seed, numbers)
        assert found == [rng.derive_seed(seed, int(number)) for number in numbers]
        assert all(type(one) is int for one in found)


def test_seeds_need_whole_numbers() -> None:
    for numbers in ([1.5], [1.5] * 40):
        with pytest.raises(TypeError):
            rng.derive_seeds(1, numbers)
