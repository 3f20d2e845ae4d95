"""Runs on a GPU beside plain PyTorch: the same weights, whole and resumed, and no hidden wait."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Make, Named
from torch import nn

from helios import CUDAPlugin, Model, TrainingState
from helios.testing import StopAfter, TinyDataModule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a real CUDA device")

EPOCHS = 4
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def network() -> nn.Module:
    """Return a network with dropout, which draws from the generator of the GPU."""
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 2))


class OnGPU(Model):
    """Clips, and changes the learning rate."""

    def __init__(self) -> None:
        super().__init__("on-gpu")

    def setup(self) -> None:
        self.net = self.prepare(network())
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3, gamma=0.9)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        features, labels = batch
        loss = nn.functional.cross_entropy(self.net(features), labels)
        self.log("loss", loss)
        if self.optimize(loss, self.optimizer, clip_norm=1.0):
            self.scheduler.step()

    def valid_step(self, batch: Any, step: int) -> None:
        features, labels = batch
        self.log("accuracy", (self.net(features).argmax(dim=1) == labels).float().mean())


def plain_loop(precision: str, seed: int = 6691) -> nn.Module:
    """Train as :class:`OnGPU` does, without Helios."""
    data = TinyDataModule(shuffle=False)
    data.setup()
    torch.manual_seed(seed)
    net = network().cuda()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.9)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    samples = data.train_dataset
    for _ in range(EPOCHS):
        for features, labels in torch.utils.data.DataLoader(
            samples, batch_size=4, generator=torch.Generator()
        ):
            features, labels = features.cuda(), labels.cuda()
            with torch.autocast("cuda", TYPES.get(precision), enabled=precision in TYPES):
                loss = nn.functional.cross_entropy(net(features), labels)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() >= before:
                scheduler.step()
            optimizer.zero_grad()
    return net


def train(make_trainer: Make, prefetch: int = 0, stop_after: int | None = None, **arguments: Any):
    """Train on the GPU, and return the network."""
    model = OnGPU()
    trainer = make_trainer(
        total_steps=EPOCHS,
        use_cpu=False,
        plugins=[CUDAPlugin(prefetch=prefetch), StopAfter(stop_after)],
        **arguments,
    )
    trainer.fit(model, TinyDataModule(shuffle=False))
    return model.net


def assert_same(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert all(tensor.is_cuda for tensor in ours.values())
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_weights_of_the_plain_loop(make_trainer: Make, precision: str, prefetch: int) -> None:
    trained = train(make_trainer, prefetch, precision=precision, valid_frequency=1)
    assert_same(trained, plain_loop(precision))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("stop_after", [1, 6, 9, 17])
def test_resumed_run(
    make_trainer: Make, tmp_path: pathlib.Path, precision: str, prefetch: int, stop_after: int
) -> None:
    arguments = {"precision": precision, "chkpt_root": tmp_path, "valid_frequency": 1}
    train(make_trainer, prefetch, stop_after, **arguments)
    assert_same(train(make_trainer, prefetch, **arguments), plain_loop(precision))


def test_checkpoint_of_a_gpu_is_read_on_the_cpu(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    trained = train(make_trainer, chkpt_root=tmp_path)
    model = OnGPU()
    trainer = make_trainer(total_steps=EPOCHS, use_cpu=True, chkpt_root=tmp_path)
    trainer.fit(model, TinyDataModule(shuffle=False))
    for name, tensor in model.net.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, trained.state_dict()[name].cpu())


class NoWaits(Named):
    """Lets PyTorch raise an error for each wait for the GPU, from one batch's end to another's."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__("no-waits")
        self._modes = {first: "error", last: "default"}
        self.seen: list[str] = []

    def on_training_batch_end(self, state: TrainingState) -> None:
        if (mode := self._modes.get(state.global_iteration)) is not None:
            torch.cuda.set_sync_debug_mode(mode)
            self.seen.append(mode)


@pytest.fixture
def waits_are_allowed_again() -> Iterator[None]:
    """Restore PyTorch's mode after a test."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.usefixtures("waits_are_allowed_again")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("waits", [False, True])
def test_no_step_waits_for_the_gpu(
    make_trainer: Make, tmp_path: pathlib.Path, precision: str, prefetch: int, waits: bool
) -> None:
    class Waiting(OnGPU):
        def train_step(self, batch: Any, state: TrainingState) -> None:
            super().train_step(batch, state)
            if waits and state.global_iteration == 10:
                batch[0].sum().item()

    watch = NoWaits(4, 16)
    trainer = make_trainer(
        train_unit="iteration",
        total_steps=20,
        print_frequency=20,
        run_root=tmp_path,
        precision=precision,
        use_cpu=False,
        plugins=[CUDAPlugin(prefetch=prefetch), "progress", "metrics-file", "preemption", watch],
    )
    expected = contextlib.nullcontext()
    if waits:
        expected = pytest.raises(RuntimeError, match="synchronizing CUDA operation")
    with expected:
        trainer.fit(Waiting(), TinyDataModule(train_size=100, shuffle=False))
    assert watch.seen == (["error"] if waits else ["error", "default"])
