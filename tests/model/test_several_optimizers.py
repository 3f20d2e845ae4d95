"""Models with several optimizers, bit for bit as in a plain PyTorch loop."""

import gc
import pathlib
import types
import weakref
from typing import Any

import pytest
import torch
from beside_pytorch import BATCHES, Case, assert_as_by_hand, batches, by_hand, trained
from helpers import Make
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from helios.testing import equal

softplus = nn.functional.softplus
every_accumulation = pytest.mark.parametrize("accumulation", [1, 2, 4])


class Gan(Case):
    """Trains its discriminator and then its generator, whose loss reaches the discriminator."""

    order = "dg"

    def create(self) -> None:
        self.generator, self.discriminator = nn.Linear(4, 4), nn.Linear(4, 1)
        self.g = SGD(self.generator.parameters(), lr=0.1)
        self.d = SGD(self.discriminator.parameters(), lr=0.1)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        for network in self.order:
            fake = self.generator(features)
            if network == "g":
                self.optimize(softplus(-self.discriminator(fake)).mean(), self.g)
            else:  # not detached: this loss reaches the generator
                real = softplus(-self.discriminator(features)).mean()
                self.optimize(real + softplus(self.discriminator(fake)).mean(), self.d)


class GeneratorFirst(Gan):
    order = "gd"


@every_accumulation
@pytest.mark.parametrize("case", [Gan, GeneratorFirst])
def test_gan(
    make_trainer: Make, tmp_path: pathlib.Path, case: type[Gan], accumulation: int
) -> None:
    cuts = range(1, 2 * BATCHES, accumulation)
    assert_as_by_hand(make_trainer, tmp_path, case, accumulation, cuts)


@pytest.mark.parametrize("order", ["dg", "gd"])
def test_gan_is_a_literal_loop(make_trainer: Make, order: str) -> None:
    """Compare with the loop of a tutorial, which calls zero_grad() before each backward pass."""
    torch.manual_seed(1)
    generator, discriminator = nn.Linear(4, 4), nn.Linear(4, 1)
    g = SGD(generator.parameters(), lr=0.1)
    d = SGD(discriminator.parameters(), lr=0.1)
    for features, _ in [*batches(), *batches()]:
        for network in order:
            fake = generator(features)
            optimizer = g if network == "g" else d
            optimizer.zero_grad()
            if network == "g":
                softplus(-discriminator(fake)).mean().backward()
            else:
                real = softplus(-discriminator(features)).mean()
                (real + softplus(discriminator(fake)).mean()).backward()
            optimizer.step()
    model = trained(make_trainer, Gan if order == "dg" else GeneratorFirst)
    assert equal(dict(model.generator.state_dict()), dict(generator.state_dict()))
    assert equal(dict(model.discriminator.state_dict()), dict(discriminator.state_dict()))


class Sometimes(Case):
    """Trains its generator only in every fifth batch: after a resume, its optimizer is unused."""

    def create(self) -> None:
        self.generator, self.critic = nn.Linear(4, 4), nn.Linear(4, 1)
        self.hold(SGD(self.generator.parameters(), lr=0.1))
        self.c = SGD(self.critic.parameters(), lr=0.1)

    def hold(self, optimizer: Optimizer) -> None:
        self.g = optimizer
        self._get = lambda: self.g

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        fake = self.generator(features)
        self.optimize((self.critic(fake) - self.critic(features)).mean(), self.c)
        if batch % 5 == 0:
            self.optimize(-self.critic(self.generator(features)).mean(), self._get())


@every_accumulation
def test_optimizer_that_is_seldom_used(
    make_trainer: Make, tmp_path: pathlib.Path, accumulation: int
) -> None:
    # With accumulation, batches 5 and 10 are the last ones of no window.
    cuts = range(1, 2 * BATCHES, accumulation)
    assert_as_by_hand(make_trainer, tmp_path, Sometimes, accumulation, cuts)


class InList(Sometimes):
    def hold(self, optimizer: Optimizer) -> None:
        self.lists = {"all": [[optimizer]]}
        self._get = lambda: self.lists["all"][0][0]


class Private(Sometimes):
    def hold(self, optimizer: Optimizer) -> None:
        self._hidden = (optimizer,)
        self._get = lambda: self._hidden[0]


class InHelper(Sometimes):
    def hold(self, optimizer: Optimizer) -> None:
        self.helper = types.SimpleNamespace(inner=types.SimpleNamespace(optimizer=optimizer))
        self._get = lambda: self.helper.inner.optimizer


class InModule(Sometimes):
    def hold(self, optimizer: Optimizer) -> None:
        self.generator.optimizer = optimizer
        self._get = lambda: self.generator.optimizer


class InClosure(Sometimes):
    """No search finds this one before its first use."""

    def hold(self, optimizer: Optimizer) -> None:
        self._get = lambda: optimizer


@pytest.mark.parametrize("case", [InList, Private, InHelper, InModule, InClosure])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_any_attribute_may_hold_an_optimizer(
    make_trainer: Make, tmp_path: pathlib.Path, case: type[Case], accumulation: int
) -> None:
    assert_as_by_hand(make_trainer, tmp_path, case, accumulation, cuts=(3, 6))


class OneLoss(Case):
    """Steps with two optimizers on one loss, whose gradients are clipped together."""

    def create(self) -> None:
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.first = SGD(self.net[0].parameters(), lr=0.1, momentum=0.9)
        self.second = AdamW(self.net[2].parameters(), lr=0.01)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        loss = nn.functional.cross_entropy(self.net(features), labels)
        self.optimize(loss, [self.first, self.second], clip_norm=0.05, clip_value=0.04)


class SharedEncoder(Case):
    """Trains an encoder with each of two optimizers, as an adversarial autoencoder does."""

    def create(self) -> None:
        self.encoder, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
        self.first = AdamW([*self.encoder.parameters(), *self.left.parameters()], lr=0.05)
        self.second = SGD([*self.encoder.parameters(), *self.right.parameters()], lr=0.1)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        self.optimize(self.left(self.encoder(features)).square().mean(), self.first)
        if batch % 5:  # else the second step comes at the end of the window
            self.optimize((self.right(self.encoder(features)) - 1).square().mean(), self.second)


class Sparse(Case):
    """Trains an embedding with sparse gradients, and a dense layer after it."""

    def create(self) -> None:
        self.embedding, self.head = nn.Embedding(5, 4, sparse=True), nn.Linear(4, 2)
        self.sparse = torch.optim.SparseAdam(self.embedding.parameters(), lr=0.05)
        self.dense = AdamW(self.head.parameters(), lr=0.05)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        outputs = self.head(self.embedding(labels + batch % 3))
        loss = nn.functional.cross_entropy(outputs, labels)
        self.optimize(loss, [self.sparse, self.dense])


class OneGraph(Case):
    """Computes two losses from one pass, for two optimizers."""

    def create(self) -> None:
        self.trunk, self.heads = nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
        self.first, self.second = (SGD(head.parameters(), lr=0.1) for head in self.heads)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        hidden = self.trunk(features).tanh()
        losses = [head(hidden).square().mean() for head in self.heads]
        self.optimize(losses[0], self.first, retain_graph=True)
        self.optimize(losses[1], self.second)


class Checkpointed(Gan):
    """Computes its activations again in the backward pass."""

    reentrant = False

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        features = features.clone().requires_grad_()

        def score(network: nn.Module, value: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = checkpoint(network, value, use_reentrant=self.reentrant)
            return result

        self.optimize(score(self.discriminator, features).square().mean(), self.d)
        fake = score(self.generator, features)
        self.optimize(softplus(-score(self.discriminator, fake)).mean(), self.g)


@every_accumulation
@pytest.mark.parametrize("case", [OneLoss, SharedEncoder, Sparse, OneGraph, Checkpointed])
def test_steps_are_those_by_hand(
    make_trainer: Make, tmp_path: pathlib.Path, case: type[Case], accumulation: int
) -> None:
    assert_as_by_hand(make_trainer, tmp_path, case, accumulation, cuts=(3, 7))


@every_accumulation
def test_reentrant_checkpoints(make_trainer: Make, accumulation: int) -> None:
    class Reentrant(Checkpointed):  # torch.autograd.grad refuses it, so the plain loop cannot
        reentrant = True

    arguments = {"accumulation_steps": accumulation}
    wanted = by_hand(Checkpointed, accumulation)
    assert equal(trained(make_trainer, Reentrant, **arguments).weights(), wanted)


# Optimizers that change during a run.


class Unfrozen(Case):
    """Adds the parameters of a layer to its optimizer, when many losses have reached them."""

    at = 0

    def create(self) -> None:
        self.back, self.head = nn.Linear(4, 4), nn.Linear(4, 1)
        self.optimizer = SGD(self.head.parameters(), lr=0.1, momentum=0.9)

    def add(self) -> None:
        self.optimizer.add_param_group({"params": list(self.back.parameters()), "lr": 0.01})

    def on_training_epoch_start(self, current_epoch: int) -> None:
        if current_epoch == 1 and not self.at:
            self.add()

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        if batch == self.at:
            self.add()
        self.optimize(self.head(self.back(features)).square().mean(), self.optimizer)


class UnfrozenInBatch(Unfrozen):
    at = 6


class Replaced(Gan):
    """Gets another optimizer for its generator after an epoch."""

    def on_training_epoch_start(self, current_epoch: int) -> None:
        if current_epoch == 1:
            self.g = AdamW(self.generator.parameters(), lr=0.05)


class CreatedLate(Gan):
    """Creates the optimizer of its generator at its first use."""

    def create(self) -> None:
        super().create()
        del self.g

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        self.optimize(self.discriminator(self.generator(features)).square().mean(), self.d)
        if batch >= 3:
            if not hasattr(self, "g"):
                self.g = SGD(self.generator.parameters(), lr=0.1)
            self.optimize(softplus(-self.discriminator(self.generator(features))).mean(), self.g)


@every_accumulation
@pytest.mark.parametrize("case", [Unfrozen, UnfrozenInBatch, Replaced, CreatedLate])
def test_optimizers_that_change(make_trainer: Make, case: type[Case], accumulation: int) -> None:
    model = trained(make_trainer, case, accumulation_steps=accumulation)
    assert equal(model.weights(), by_hand(case, accumulation))


def test_optimizers_of_one_step_are_forgotten(make_trainer: Make) -> None:
    seen: list[weakref.ref[Optimizer]] = []

    class Fresh(Gan):
        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            for _ in range(5):
                optimizer = SGD(self.generator.parameters(), lr=0.1)
                seen.append(weakref.ref(optimizer))
                self.optimize(self.generator(features).square().mean(), optimizer)

    class Alive(Fresh):
        def on_training_end(self) -> None:
            gc.collect()
            self.alive = sum(reference() is not None for reference in seen)

    assert trained(make_trainer, Alive).alive <= 16
    assert len(seen) == 5 * 2 * BATCHES


def test_wrapper_of_an_optimizer(make_trainer: Make) -> None:
    class Wrapper:
        """Has what a step needs, but is no torch.optim.Optimizer."""

        def __init__(self, inner: Optimizer) -> None:
            self.inner = inner
            self.step, self.zero_grad = inner.step, inner.zero_grad

        @property
        def param_groups(self) -> Any:
            return self.inner.param_groups

    class Wrapped(Gan):
        def create(self) -> None:
            super().create()
            self.g = Wrapper(self.g)  # type: ignore[assignment]  # what this test is about

    model = trained(make_trainer, Wrapped, accumulation_steps=2)
    assert equal(model.weights(), by_hand(Gan, 2))


def test_optimizer_that_is_given_twice_takes_one_step(make_trainer: Make) -> None:
    class Twice(OneLoss):
        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            loss = nn.functional.cross_entropy(self.net(features), labels)
            self.optimize(loss, [self.first, self.first, self.second])

    class Once(OneLoss):
        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            loss = nn.functional.cross_entropy(self.net(features), labels)
            self.optimize(loss, [self.first, self.second])

    assert equal(trained(make_trainer, Twice).weights(), by_hand(Once, 1))
