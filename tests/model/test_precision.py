"""Computing in 16 bits, compared with what is written by hand in PyTorch."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Make, files
from torch import nn

from helios import Plugin, TrainingState
from helios.errors import ConfigurationError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Looking(TinyModel):
    """Notes in which types its steps compute."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, torch.dtype] = {}

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self.types["training"] = self.net(batch[0]).dtype
        return super().train_step(batch, state)

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self.types["validation"] = self.net(batch[0]).dtype
        return super().valid_step(batch, step)

    def test_step(self, batch: Any, step: int) -> torch.Tensor:
        accuracy = super().test_step(batch, step)
        self.types["testing"] = self.net(batch[0]).dtype
        return accuracy


class Gradients(Plugin):
    """Keeps the gradients that its hooks see, and in which of them autocast is on."""

    def __init__(self) -> None:
        super().__init__("gradients")
        self.seen: list[torch.Tensor] = []
        self.steps = 0

    def setup(self) -> None: ...

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        assert not torch.is_autocast_enabled("cpu")
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.seen.append(torch.cat([g.flatten().clone() for g in gradients]))

    def on_after_optimizer_step(self) -> None:
        assert not torch.is_autocast_enabled("cpu")
        self.steps += 1


@pytest.mark.parametrize("precision", TYPES)
def test_steps_compute_in_the_precision(make_trainer: Make, precision: str) -> None:
    model = Looking()
    trainer = make_trainer(total_steps=1, valid_frequency=1, precision=precision)
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    wanted = TYPES[precision]
    assert model.types == {"training": wanted, "validation": wanted, "testing": wanted}
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_contexts_of_plugins_are_inside(make_trainer: Make) -> None:
    class Without(Plugin):
        def __init__(self) -> None:
            super().__init__("without")

        def setup(self) -> None: ...

        def step_context(self, phase: str) -> Any:
            return torch.autocast("cpu", enabled=False) if phase == "training" else None

    model = Looking()
    make_trainer(total_steps=1, valid_frequency=1, precision="bf16", plugins=[Without()]).fit(
        model, TinyDataModule()
    )
    assert model.types == {"training": torch.float32, "validation": torch.bfloat16}


def test_unknown_precision_is_refused(make_trainer: Make) -> None:
    message = (
        r"precision='bf61' is not a precision: write 'fp32', 'bf16', 'fp16'\. Did you mean 'bf16'\?"
    )
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(precision="bf61")


CLIPS = {"clip_norm": 0.3, "clip_value": 0.1}


class Clipped(TinyModel):
    """Steps with gradients clipped both ways; no dropout, so that it can be written by hand."""

    def setup(self, fast_init: bool = False) -> None:
        torch.manual_seed(1)
        self.net = self.prepare(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.05)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        features, labels = batch
        loss = nn.functional.cross_entropy(self.net(features).float(), labels)
        self.optimize(loss, self.optimizer, **CLIPS)


def batches() -> Iterator[Any]:
    data = TinyDataModule(shuffle=False)
    data.setup()
    loader = data.train_dataloader()
    assert loader is not None
    yield from loader[0]


def by_hand(precision: str) -> tuple[nn.Module, list[torch.Tensor]]:
    """Train as Clipped, in the order that PyTorch's documentation gives."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    seen = []
    for features, labels in batches():
        with torch.autocast("cpu", TYPES[precision], enabled=precision != "fp32"):
            loss = nn.functional.cross_entropy(net(features).float(), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        seen.append(torch.cat([p.grad.flatten().clone() for p in net.parameters()]))
        nn.utils.clip_grad_value_(net.parameters(), CLIPS["clip_value"])
        nn.utils.clip_grad_norm_(net.parameters(), CLIPS["clip_norm"])
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return net, seen


@pytest.mark.parametrize("precision", TYPES)
def test_clipped_steps_are_those_written_by_hand(make_trainer: Make, precision: str) -> None:
    model, gradients = Clipped(), Gradients()
    trainer = make_trainer(total_steps=1, precision=precision, plugins=[gradients])
    trainer.fit(model, TinyDataModule(shuffle=False))
    net, seen = by_hand(precision)
    assert equal(dict(model.net.state_dict()), dict(net.state_dict()))
    assert equal(gradients.seen, seen)
    assert gradients.steps == 6


class Overflowing(Clipped):
    """Has an infinite loss in its third batch."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[bool] = []
        self.moved: list[bool] = []

    def train_step(self, batch: Any, state: TrainingState) -> None:
        features, labels = batch
        before = self.net[0].weight.detach().clone()
        loss = nn.functional.cross_entropy(self.net(features).float(), labels)
        if state.global_iteration == 3:
            loss = loss * float("inf")
        self.taken.append(self.optimize(loss, self.optimizer))
        self.moved.append(not torch.equal(before, self.net[0].weight))
        assert self.net[0].weight.grad is None


def test_step_that_overflows_is_left_out(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    model, gradients = Overflowing(), Gradients()
    trainer = make_trainer(
        total_steps=1, precision="fp16", plugins=[gradients], chkpt_root=tmp_path
    )
    trainer.fit(model, TinyDataModule())
    assert model.taken == model.moved == [True, True, False, True, True, True]
    assert (len(gradients.seen), gradients.steps) == (6, 5)
    (path,) = files(tmp_path / "tiny")
    scalers = torch.load(path, weights_only=True)["scalers"]
    assert list(scalers) == ["optimizer"]
    assert (scalers["optimizer"]["scale"], scalers["optimizer"]["_growth_tracker"]) == (2.0**15, 3)


class Two(TinyModel):
    """Steps with two optimizers in each batch; the first has an infinite loss in the third."""

    def setup(self, fast_init: bool = False) -> None:
        torch.manual_seed(1)
        self.nets = [self.prepare(nn.Linear(4, 1)) for _ in range(2)]
        self.optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in self.nets]

    def train_step(self, batch: Any, state: TrainingState) -> None:
        for number, (net, optimizer) in enumerate(zip(self.nets, self.optimizers, strict=True)):
            loss = net(batch[0]).float().mean()
            if number == 0 and state.global_iteration == 3:
                loss = loss * float("inf")
            self.optimize(loss, optimizer)


def test_optimizers_are_scaled_apart(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    arguments = {"total_steps": 1, "accumulation_steps": 3}
    exact, scaled = Two(), Two()
    make_trainer(**arguments).fit(exact, TinyDataModule())
    make_trainer(precision="fp16", chkpt_root=tmp_path, **arguments).fit(scaled, TinyDataModule())
    (path,) = files(tmp_path / "tiny")
    scalers = torch.load(path, weights_only=True)["scalers"]
    assert {name: s["scale"] for name, s in scalers.items()} == {
        "optimizers.0": 2.0**15,
        "optimizers.1": 2.0**16,
    }
    # What the second one accumulates is not mixed from two scales.
    assert torch.allclose(scaled.nets[1].weight, exact.nets[1].weight, atol=1e-3)


def test_scale_goes_on_where_it_was(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def train(root: pathlib.Path, stop_after: int | None) -> Any:
        model = Overflowing()
        make_trainer(precision="fp16", chkpt_root=root, plugins=[StopAfter(stop_after)]).fit(
            model, TinyDataModule()
        )
        newest = max(files(root / "tiny"), key=lambda path: path.stat().st_mtime_ns)
        return model.state_dict(), torch.load(newest, weights_only=True)["scalers"]

    train(cut, 4)
    assert equal(train(cut, None), train(whole, None))


def test_next_step_in_the_same_batch_computes_with_new_weights(make_trainer: Make) -> None:
    # autocast keeps 16-bit copies of the weights until it is left
    class Twice(Clipped):
        def train_step(self, batch: Any, state: TrainingState) -> None:
            features, labels = batch
            outputs = []
            for _ in range(2):
                outputs.append(self.net(features).float())
                self.optimize(nn.functional.cross_entropy(outputs[-1], labels), self.optimizer)
            assert not torch.equal(outputs[0], outputs[1])

    make_trainer(total_steps=1, precision="bf16").fit(Twice(), TinyDataModule())
