"""Steps with the mean over the tokens of a whole window, bit for bit as in a plain loop."""

import pathlib
from typing import Any, ClassVar

import pytest
import torch
from beside_pytorch import BATCHES, Case, assert_as_by_hand, by_hand, trained
from helpers import Make
from torch import nn
from torch.optim import SGD

from helios.errors import ConfigurationError
from helios.testing import equal

every_accumulation = pytest.mark.parametrize("accumulation", [1, 2, 4])


class Tokens(Case):
    """Takes means over tokens, of which each batch has another number."""

    clipping: ClassVar[dict[str, float]] = {}

    def create(self) -> None:
        self.net = nn.Linear(4, 2)
        self.optimizer = SGD(self.net.parameters(), lr=0.5, momentum=0.9)

    def loss(self, features: torch.Tensor, labels: torch.Tensor, tokens: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(features[:tokens]), labels[:tokens])

    def weight(self, tokens: int) -> Any:
        return tokens

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        tokens = min(1 + batch % 4, len(labels))
        loss = self.loss(features, labels, tokens)
        self.optimize(loss, self.optimizer, weight=self.weight(tokens), **self.clipping)


class InTensors(Tokens):
    """Counts its tokens in one tensor, which it changes in place."""

    def create(self) -> None:
        super().create()
        self._count = torch.zeros(1)

    def weight(self, tokens: int) -> torch.Tensor:
        return self._count.fill_(tokens)


class Integers(Tokens):
    def weight(self, tokens: int) -> torch.Tensor:
        return torch.tensor(tokens)


class Clipped(Tokens):
    clipping: ClassVar[dict[str, float]] = {"clip_norm": 0.2, "clip_value": 0.1}


@every_accumulation
@pytest.mark.parametrize("case", [Tokens, Integers, Clipped])
def test_weighted_steps_are_those_by_hand(
    make_trainer: Make, tmp_path: pathlib.Path, case: type[Case], accumulation: int
) -> None:
    cuts = range(1, 2 * BATCHES, 2 * accumulation)
    assert_as_by_hand(make_trainer, tmp_path, case, accumulation, cuts)


@every_accumulation
def test_tensor_that_the_model_changes_later(make_trainer: Make, accumulation: int) -> None:
    model = trained(make_trainer, InTensors, accumulation_steps=accumulation)
    assert equal(model.weights(), by_hand(Tokens, accumulation))


def test_weighted_window_is_one_batch_of_all_tokens(make_trainer: Make) -> None:
    class Exact(Case):
        """Has the gradients 1, 2, 3 with the weights 1, 1, 2: their mean is 2.25."""

        def create(self) -> None:
            self.net = nn.Linear(1, 1, bias=False)
            nn.init.zeros_(self.net.weight)
            self.optimizer = SGD(self.net.parameters(), lr=1.0)
            self.moves: list[float] = []

        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            before, value = self.net.weight.item(), (batch - 1) % 3 + 1
            loss = value * self.net.weight.sum()
            if self.optimize(loss, self.optimizer, weight=max(1, value - 1)):
                self.moves.append(before - self.net.weight.item())

    model = trained(make_trainer, Exact, accumulation_steps=3)
    assert model.moves == [2.25] * 4


@pytest.mark.parametrize("weight", [0, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_window_without_tokens_changes_nothing(make_trainer: Make, weight: Any) -> None:
    class Empty(Tokens):
        def weight(self, tokens: int) -> Any:
            return weight

    start = Empty()
    start.setup()
    assert equal(trained(make_trainer, Empty, accumulation_steps=2).weights(), start.weights())


def test_weights_for_some_losses_are_refused(make_trainer: Make) -> None:
    class Mixed(Tokens):
        def weight(self, tokens: int) -> Any:
            return tokens if tokens == 2 else None

    with pytest.raises(ConfigurationError, match="a weight for some losses of a window"):
        trained(make_trainer, Mixed, accumulation_steps=2)
    trained(make_trainer, Mixed)  # each window has one loss
