"""Random number generators: what is saved is everything, and nothing else is touched."""

import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

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
