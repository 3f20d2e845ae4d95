"""Virtual ranks in one process, beside a plain PyTorch loop: the same weights, bit for bit."""

import pathlib

import pytest
from virtual_cases import bits, by_hand, train

CASES = [(1, 1, False), (2, 1, True), (4, 1, False), (4, 2, True), (8, 3, False)]


@pytest.mark.parametrize(("ranks", "accumulate", "clips"), CASES)
def test_trains_as_replicas_do(ranks: int, accumulate: int, clips: bool) -> None:
    options = ("clip",) if clips else ("bare",)
    trained = train(options, virtual_ranks=ranks, accumulation_steps=accumulate)
    assert bits(trained["model"]["net"]) == bits(by_hand(ranks, accumulate, clips=clips))


@pytest.mark.parametrize("cut", [1, 4, 5, 9])
def test_resumes_at_any_batch(cut: int, tmp_path: pathlib.Path) -> None:
    train(("clip",), root=tmp_path, stop_after=cut, accumulation_steps=2)
    resumed = train(("clip",), root=tmp_path, accumulation_steps=2)
    assert bits(resumed["model"]["net"]) == bits(by_hand(4, 2, clips=True))
