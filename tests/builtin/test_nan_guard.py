"""The plug-in ``nan-guard``, beside loops of plain PyTorch that do the same."""

import copy
import math
import pathlib
import re
from typing import Any

import pytest
import torch
from helpers import Make, read
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helios import Model, TrainingState
from helios.errors import ConfigurationError
from helios.plugins.builtin.nan_guard import NanGuardPlugin
from helios.testing import StopAfter, TinyDataModule, check_conformance, equal

BATCHES = 6


class Poisoned(Model):
    """A model whose losses or gradients are not finite at some iterations."""

    def __init__(self, at: tuple[int, ...] = (), kind: str = "loss") -> None:
        super().__init__("poisoned")
        self._at, self._kind = at, kind

    def setup(self, fast_init: bool = False) -> None:
        torch.manual_seed(1)
        self.net = self.prepare(nn.Linear(4, 2))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.05)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        loss = self.loss(self.net, batch, state.current_iteration)
        self.log("loss", loss)
        self.optimize(loss, self.optimizer)

    def loss(self, net: nn.Module, batch: Any, iteration: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        if iteration not in self._at:
            return loss
        if self._kind == "loss":  # its gradients are finite
            return loss + math.nan
        factor = {"gradient": math.inf, "NaN": math.nan}[self._kind]
        return loss + (net.weight * 0.0).sum() + _Bad.apply(net.weight, factor)  # type: ignore[no-untyped-call]

    def valid_step(self, batch: Any, step: int) -> None:
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())


class _Bad(torch.autograd.Function):
    """Is 0, but its gradient is not finite."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor, ctx.shape = factor, weight.shape
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        return gradient * torch.full(ctx.shape, ctx.factor), None


def fit(make_trainer: Make, model: Poisoned, *plugins: Any, **arguments: Any) -> Any:
    trainer = make_trainer(plugins=list(plugins), **arguments)
    trainer.fit(model, TinyDataModule(shuffle=False))
    return trainer


def by_hand(at: tuple[int, ...], *, rolls_back: bool = False, every: int = BATCHES) -> Any:
    """Train in plain PyTorch, without the steps at ``at``."""
    torch.manual_seed(1)
    net = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    data = TinyDataModule(shuffle=False)
    data.setup()
    batches = [*data.train_dataloader()[0]] * 2  # type: ignore[index]  # a pair
    for iteration, (features, labels) in enumerate(batches, start=1):
        if (iteration - 1) % BATCHES == 0 or (iteration - 1) % every == 0:
            kept = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        if iteration not in at:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(features), labels).backward()
            optimizer.step()
        elif rolls_back:
            net.load_state_dict(kept[0])
            optimizer.load_state_dict(copy.deepcopy(kept[1]))
    return dict(net.state_dict()), optimizer.state_dict()["state"]


def states(model: Poisoned) -> Any:
    return dict(model.net.state_dict()), model.optimizer.state_dict()["state"]


@pytest.mark.parametrize("kind", ["loss", "gradient", "NaN"])
def test_skipped_steps(make_trainer: Make, kind: str) -> None:
    model = Poisoned((2, 5, 6, 9), kind)
    fit(make_trainer, model, NanGuardPlugin("skip", patience=3))
    assert equal(states(model), by_hand((2, 5, 6, 9)))


@pytest.mark.parametrize("every", [None, 2])
def test_roll_back(make_trainer: Make, every: int | None) -> None:
    model = Poisoned((4, 6, 9), "NaN")
    fit(make_trainer, model, NanGuardPlugin("roll-back", every=every))
    expected = by_hand((4, 6, 9), rolls_back=True, every=every or BATCHES)
    assert equal(states(model), expected)
    assert not equal(states(model), by_hand((4, 6, 9)))


@pytest.mark.parametrize("action", ["skip", "roll-back"])
@pytest.mark.parametrize("stop", [1, 3, 4, 5, 6, 8])
def test_resumed_run_equals_the_uninterrupted_one(
    make_trainer: Make, tmp_path: pathlib.Path, action: Any, stop: int
) -> None:
    def guard() -> NanGuardPlugin:
        return NanGuardPlugin(action, every=4)

    whole, cut = Poisoned((4, 8, 9), "gradient"), Poisoned((4, 8, 9), "gradient")
    fit(make_trainer, whole, guard())
    fit(make_trainer, cut, guard(), StopAfter(stop), chkpt_root=tmp_path)
    fit(make_trainer, cut, guard(), chkpt_root=tmp_path)
    assert equal(cut.state_dict(), whole.state_dict())


@pytest.mark.parametrize("kind", ["loss", "gradient", "NaN"])
def test_stop_saves_nothing_that_followed(
    make_trainer: Make, tmp_path: pathlib.Path, kind: str
) -> None:
    arguments = {"chkpt_root": tmp_path, "train_unit": "iteration", "total_steps": 12}
    arguments |= {"chkpt_frequency": 2, "print_frequency": 12}
    with pytest.raises(FloatingPointError) as caught:
        fit(make_trainer, Poisoned((5,), kind), NanGuardPlugin(), **arguments)
    assert "was not finite in the iterations 5 to 6. No checkpoint holds what followed" in str(
        caught.value
    )
    assert "resume_overrides=['lr']" in str(caught.value)
    newest = read(tmp_path / "poisoned" / "last.pth")
    assert newest["training_state"]["current_iteration"] == 4
    model = Poisoned()  # whose code is mended
    fit(make_trainer, model, NanGuardPlugin(), **arguments)
    assert equal(states(model), by_hand(()))


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        ({"print_frequency": 4}, 4),
        ({"valid_frequency": 1}, 6),
        ({"valid_frequency": 0.5}, 3),
        ({}, 6),
    ],
)
def test_stop_at_the_cadence(make_trainer: Make, arguments: dict[str, Any], last: int) -> None:
    with pytest.raises(FloatingPointError, match=f"in the iterations 1 to {last}\\."):
        fit(make_trainer, Poisoned((2,)), NanGuardPlugin(), **arguments)


class Reads(TorchDispatchMode):
    """Counts how often the value of a tensor is read."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("action", "expected"), [("stop", 2), ("skip", 12), ("roll-back", 12)])
def test_reads_of_the_device(make_trainer: Make, action: Any, expected: int) -> None:
    counts = []
    for plugins in ([], [NanGuardPlugin(action)]):
        model = Poisoned()
        with Reads() as reads:
            fit(make_trainer, model, *plugins)
        counts.append(reads.count)
    assert counts[1] - counts[0] == expected


@pytest.mark.parametrize(
    ("action", "at", "message"),
    [
        ("skip", (3, 4, 5), "3 times in a row, up to iteration 5"),
        ("roll-back", (3, 5, 6), "3 times since the last copy of the model, up to iteration 6"),
    ],
)
def test_patience_ends(make_trainer: Make, action: Any, at: Any, message: str) -> None:
    with pytest.raises(FloatingPointError, match=message):
        fit(make_trainer, Poisoned(at), NanGuardPlugin(action, patience=3))
    fit(make_trainer, Poisoned((5, 6, 7, 8)), NanGuardPlugin("roll-back", patience=3))


def test_overflow_in_fp16_is_none_of_its_business(make_trainer: Make) -> None:
    trainer = fit(
        make_trainer, Poisoned((3,), "gradient"), NanGuardPlugin("stop"), precision="fp16"
    )
    assert trainer.state.current_iteration == 12
    with pytest.raises(FloatingPointError):
        fit(make_trainer, Poisoned((3,)), NanGuardPlugin("stop"), precision="fp16")


@pytest.mark.parametrize("action", ["stop", "skip", "roll-back"])
def test_conformance(action: Any) -> None:
    check_conformance(lambda: NanGuardPlugin(action))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action": "ignore"}, "action='ignore' of nan-guard: write 'stop', 'skip' or 'roll-back'"),
        ({"patience": 0}, "patience=0 of nan-guard: write a whole number of at least 1"),
        ({"every": 1.5}, "every=1.5 of nan-guard: write a whole number of at least 1, or"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        NanGuardPlugin(**arguments)
