"""Loss scalers of models with several optimizers, and of optimizers that step seldom or never."""

import logging
import pathlib
import types
from typing import Any

import pytest
import torch
from beside_pytorch import Case, by_hand, trained
from helpers import Make, files, read
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from helios.testing import TinyDataModule, equal

FIRST = 2.0**16
"""The scale that PyTorch's scaler begins with."""

SMALL = 0.01
"""A factor of losses, so that none of their gradients overflows at this scale."""


class Pair(Case):
    """Steps with two optimizers on one loss. In batch 3, the gradients of one are infinite."""

    overflowing = "first"
    clip_value: float | None = None

    def create(self) -> None:
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 1)
        self.first = SGD(self.left.parameters(), lr=0.1, momentum=0.9)
        self.second = AdamW(self.right.parameters(), lr=0.1, weight_decay=0.1)
        self.taken: list[bool] = []
        self.moved: list[set[str]] = []

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        before = self.weights()
        network = self.left if self.overflowing == "first" else self.right
        factor = float("inf") if batch == 3 else 1.0
        loss = self.left(features).float().square().mean() + self.right(features).float().mean()
        loss = SMALL * loss + SMALL * factor * network.weight.sum()
        self.taken.append(
            self.optimize(loss, [self.first, self.second], clip_value=self.clip_value)
        )
        after = self.weights()
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        self.moved.append({name.partition(".")[0] for name in moved})


@pytest.mark.parametrize("overflowing", ["first", "second"])
@pytest.mark.parametrize("clip_value", [None, 0.1])
def test_pair_skips_a_step_together(
    make_trainer: Make, tmp_path: pathlib.Path, overflowing: str, clip_value: float | None
) -> None:
    kind = type("Kind", (Pair,), {"overflowing": overflowing, "clip_value": clip_value})
    model = trained(make_trainer, kind, tmp_path, precision="fp16")
    assert model.taken == [batch != 3 for batch in range(1, 13)]
    assert [bool(moved) for moved in model.moved] == model.taken
    assert all(moved in (set(), {"left", "right"}) for moved in model.moved)
    assert {state["step"].item() for state in model.second.state.values()} == {11}
    (path,) = files(tmp_path / "case")
    assert {name: each["scale"] for name, each in read(path)["scalers"].items()} == {
        "first+second": FIRST / 2
    }


def test_resumed_pair(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    whole = trained(make_trainer, Pair, precision="fp16").weights()
    for cut in (2, 3, 4, 7):
        root = tmp_path / str(cut)
        trained(make_trainer, Pair, root, cut, precision="fp16")
        assert equal(trained(make_trainer, Pair, root, precision="fp16").weights(), whole)


def test_sparse_and_dense(make_trainer: Make) -> None:
    class Sparse(Case):
        def create(self) -> None:
            self.embedding, self.head = nn.Embedding(5, 4, sparse=True), nn.Linear(4, 2)
            self.sparse = torch.optim.SparseAdam(self.embedding.parameters(), lr=0.05)
            self.dense = AdamW(self.head.parameters(), lr=0.05)
            self.taken: list[bool] = []

        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            outputs = self.head(self.embedding(labels)).float()
            loss = nn.functional.cross_entropy(outputs, labels)
            loss = loss * float("nan") if batch == 2 else loss
            self.taken.append(self.optimize(loss, [self.sparse, self.dense]))

    model = trained(make_trainer, Sparse, precision="fp16")
    assert model.taken == [batch != 2 for batch in range(1, 13)]
    assert all(weights.isfinite().all() for weights in model.weights().values())


class Never(Case):
    """Always has infinite losses."""

    def create(self) -> None:
        self.net = nn.Linear(4, 1)
        self.optimizer = SGD(self.net.parameters(), lr=0.1)
        self.taken = 0

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        for _ in range(20):
            loss = self.net(features).float().mean() * float("nan")
            self.taken += self.optimize(loss, self.optimizer)


def test_scale_of_0_is_no_step(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = Never()
    start.setup()
    with caplog.at_level(logging.WARNING):
        model = trained(make_trainer, Never, tmp_path, precision="fp16")
    assert model.taken == 0
    assert equal(model.weights(), start.weights())
    (path,) = files(tmp_path / "case")
    assert read(path)["scalers"]["optimizer"]["scale"] == 0
    assert [r.message for r in caplog.records if "its loss scale became 0" in r.message] == [
        "every step of optimizer in fp16 has overflowed until its loss scale became 0, so it no"
        " longer trains: look for NaN or infinite losses, or use precision='bf16'."
    ]


class Counting(SGD):
    """Counts its steps, also those without gradients."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        type(self).steps += 1
        return super().step(closure)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("alone", [True, False])
def test_optimizer_without_gradients_steps_as_in_fp32(
    make_trainer: Make, precision: str, alone: bool
) -> None:
    class Detached(Case):
        def create(self) -> None:
            self.net, self.unused = nn.Linear(4, 1), nn.Linear(4, 1)
            self.optimizer = SGD(self.net.parameters(), lr=0.1)
            self.other = Counting(self.unused.parameters(), lr=0.1)
            self.taken: list[bool] = []

        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            loss = SMALL * self.net(features).float().square().mean()
            given: Any = self.other if alone else [self.optimizer, self.other]
            self.taken.append(self.optimize(loss, given))

    Counting.steps = 0
    model = trained(make_trainer, Detached, precision=precision)
    assert model.taken == [True] * 12
    assert Counting.steps == 12


# Each optimizer has its own scaler, wherever the model keeps it.


class Places(Case):
    """Keeps optimizers in five places. The losses of the first overflow in the first batch."""

    def create(self) -> None:
        self.nets = nn.ModuleList(nn.Linear(4, 1) for _ in range(5))
        made = [SGD(net.parameters(), lr=0.1) for net in self.nets]
        self.public, self._private = made[:2]
        self._lists = {"some": [made[2]]}
        self.helper = types.SimpleNamespace(optimizer=made[3])
        self.nets[4].optimizer = made[4]
        self._all = tuple(made)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        for number, (net, optimizer) in enumerate(zip(self.nets, self._all, strict=True)):
            factor = float("inf") if batch <= number else 1.0
            self.optimize(net(features).float().mean() * SMALL * factor, optimizer)


def test_each_optimizer_has_its_own_scaler(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    trained(make_trainer, Places, tmp_path / "whole", precision="fp16")
    for stop_after in (2, None):
        trained(make_trainer, Places, tmp_path / "cut", stop_after, precision="fp16")
    wanted = {
        "public": FIRST,
        "_private": FIRST / 2,
        "_lists.some.0": FIRST / 4,
        "helper.optimizer": FIRST / 8,
        "nets.4.optimizer": FIRST / 16,
    }
    for folder in ("whole", "cut"):
        newest = max(files(tmp_path / folder / "case"), key=lambda p: p.stat().st_mtime_ns)
        scalers = read(newest)["scalers"]
        assert {name: each["scale"] for name, each in scalers.items()} == wanted


class OnePrivate(Case):
    """Keeps its only optimizer in a private attribute; its first two losses overflow."""

    def create(self) -> None:
        self.net = nn.Linear(4, 1)
        self._optimizer: Optimizer = SGD(self.net.parameters(), lr=0.1)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        factor = float("inf") if batch <= 2 else 1.0
        self.optimize(self.net(features).float().mean() * SMALL * factor, self._optimizer)


def test_name_of_a_private_optimizer_in_older_checkpoints(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    trained(make_trainer, OnePrivate, tmp_path, 4, precision="fp16")
    (path,) = files(tmp_path / "case")
    states = read(path)["scalers"]
    trainer = make_trainer(precision="fp16")
    seen: list[float] = []

    class Restored(OnePrivate):
        def on_training_start(self) -> None:
            self.session.precision.load_state_dict({"": states["_optimizer"]})

        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            self.optimize(self.net(features).float().mean(), self._optimizer)
            seen.append(self.session.precision.state_dict()["_optimizer"]["scale"])

    trainer.fit(Restored(), TinyDataModule(train_size=22, shuffle=False))
    assert seen == [FIRST / 4] * 12


def test_accumulated_pair_is_near_to_fp32(make_trainer: Make) -> None:
    class Calm(Pair):
        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            loss = self.left(features).float().square().mean()
            loss = loss + self.right(features).float().square().mean()
            self.optimize(loss, [self.first, self.second], clip_norm=0.5)

    exact = by_hand(Calm, 4)
    near = trained(make_trainer, Calm, precision="fp16", accumulation_steps=4).weights()
    assert all(torch.allclose(near[name], exact[name], atol=2e-2) for name in exact)
