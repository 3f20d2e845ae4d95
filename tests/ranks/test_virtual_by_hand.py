"""Virtual ranks in one process, beside a plain PyTorch loop: the same weights, bit for bit."""

import pathlib
import tempfile
from typing import Any

import pytest
import torch
from helpers import Make, ReadAhead
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from virtual_cases import bits, by_hand, train

from helios.testing import TinyDataModule, TinyModel

CASES = [(1, 1, False), (2, 1, True), (4, 1, False), (4, 2, True), (8, 3, False)]


@pytest.mark.parametrize(("ranks", "accumulate", "clips"), CASES)
def test_trains_as_replicas_do(ranks: int, accumulate: int, clips: bool) -> None:
    options = ("clip",) if clips else ("bare",)
    trained = train(options, virtual_ranks=ranks, accumulation_steps=accumulate)
    assert bits(trained["model"]["net"]) == bits(by_hand(ranks, accumulate, clips=clips))


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.integers(1, 11), st.booleans())
def test_resumes_at_any_batch(ranks: int, accumulate: int, cut: int, clips: bool) -> None:
    options = ("clip",) if clips else ()
    with tempfile.TemporaryDirectory() as folder:
        for stop_after in (cut, None):
            trained = train(
                options,
                virtual_ranks=ranks,
                root=pathlib.Path(folder),
                stop_after=stop_after,
                accumulation_steps=accumulate,
            )
    assert bits(trained["model"]["net"]) == bits(by_hand(ranks, accumulate, clips=clips))


def test_batches_read_ahead() -> None:
    trained = train(("clip",), more_plugins=[ReadAhead()])
    assert bits(trained["model"]["net"]) == bits(by_hand(4, 1, clips=True))


class Wide(TinyModel):
    """Has a BatchNorm with more statistics than Helios compares in other buffers."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.norm = nn.BatchNorm1d(2**16 + 1)
        self._means: list[torch.Tensor] = []

    def train_step(self, batch: Any, state: Any) -> torch.Tensor:
        self._means.append(batch[0].mean())
        self.norm(self._means[-1].expand(2, 2**16 + 1))
        return super().train_step(batch, state)


def test_statistics_of_a_wide_norm(make_trainer: Make) -> None:
    model = Wide()
    make_trainer(virtual_ranks=2, total_steps=1, train_unit="iteration").fit(
        model, TinyDataModule()
    )
    mean = 0.1 * torch.stack(model._means).mean()
    torch.testing.assert_close(model.norm.running_mean, mean.expand(2**16 + 1))
    assert model.norm.num_batches_tracked == 1
