"""A model and data for virtual ranks, and a plain PyTorch loop that trains it by hand."""

import copy
import pathlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset, DistributedSampler

from helios import DataLoaderParams, DataModule, Model, Plugin, Trainer, TrainingState
from helios.core import rng
from helios.model.virtual.streams import Streams
from helios.testing import StopAfter

SEED = 17


class Noisy(Dataset[Any]):
    """Samples with augmentation: each is another one in each epoch."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.features = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features[index]
        return features + 0.1 * torch.randn(4), (features.sum() > 0).long()


class Data(DataModule):
    """Training and validation sets whose sizes no number of ranks divides."""

    def __init__(self, count: int = 59, workers: int = 0) -> None:
        super().__init__()
        self._count = count
        self._workers = workers

    def setup(self) -> None:
        params = DataLoaderParams(batch_size=3, shuffle=True, num_workers=self._workers)
        self._train_dataset = self._create_dataset(Noisy(self._count), params)
        self._add_valid_dataset(Noisy(19, seed=2), {"batch_size": 2})
        self._add_test_dataset(Noisy(11, seed=3), {"batch_size": 2})


class Network(nn.Module):
    """BatchNorm, dropout, a layer that not each batch uses, and a buffer that nothing changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.sometimes = nn.Linear(8, 8)
        self.last = nn.Linear(8, 2)
        self.register_buffer("mask", torch.tensor([0.1, float("-inf"), float("nan")]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.first(features)
        if features[0, 0] > 0.5:
            hidden = hidden + self.sometimes(hidden)
        return self.last(hidden)  # type: ignore[no-any-return]  # a module is untyped


def loss_of(network: nn.Module, batch: Any) -> torch.Tensor:
    """Return the loss of a batch, with noise from all generators."""
    features, labels = batch
    numbers = random.random() + np.random.randn() + rng.get_default_numpy_rng().normal()
    noise = torch.randn(4) + numbers
    return nn.functional.cross_entropy(network(features + 0.05 * noise), labels)


class Varied(Model):
    """A model for many cases.

    Args:
        options: ``clip``, ``weighted``, ``average``, ``sgd``, ``turns`` of two optimizers: what
            its steps do; ``skip`` some of them; ``bare``: no plug-ins.
    """

    def __init__(self, *options: str) -> None:
        super().__init__("varied")
        self._options = options

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(Network())
        kind = torch.optim.SGD if "sgd" in self._options else torch.optim.Adam
        self.optimizer = kind(self.net.parameters(), lr=0.02)
        if "turns" in self._options:
            self.optimizer = kind(self.net.first.parameters(), lr=0.02)
            rest = [*self.net.sometimes.parameters(), *self.net.last.parameters()]
            self.other = kind(rest, lr=0.02)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3, gamma=0.9)
        if "average" in self._options:
            decay: Any = lambda one, other, count: 0.9 * one + 0.1 * other  # noqa: E731 - short
            self.average = AveragedModel(self.net, avg_fn=decay, use_buffers=True)

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        loss = loss_of(self.net, batch)
        self._loss_items["loss"] = loss
        self.log("train", loss)
        weight = batch[0].abs().sum() if "weighted" in self._options else None
        clip = 0.3 if "clip" in self._options else None
        is_first = "turns" not in self._options or state.global_iteration % 2
        optimizer = self.optimizer if is_first else self.other
        if self.optimize(loss, optimizer, clip_norm=clip, weight=weight):
            self.scheduler.step()
            if "average" in self._options:
                self.average.update_parameters(self.net)
        return loss.detach()

    def valid_step(self, batch: Any, step: int) -> None:
        self.log("valid", loss_of(self.net, batch))

    def test_step(self, batch: Any, step: int) -> None:
        self.log("test", loss_of(self.net, batch))


class Logged(Plugin):
    """Collects what loggers get, and writes into the log in hooks of a step."""

    def __init__(self, skips: bool = False) -> None:
        super().__init__("logged")
        self.calls: list[Any] = []
        self.steps = 0
        self.skipped = 0
        self._skips = skips

    def setup(self) -> None: ...

    def on_before_optimizer_step(self) -> None:
        self.trainer.model.log("noise", torch.randn(()))

    def on_after_backward(self, loss: torch.Tensor) -> None:
        if self._skips and loss > 1:  # of one virtual rank, in one process
            self.trainer.skip_step("its loss is too large")

    def on_after_optimizer_step(self) -> None:
        self.steps += 1

    def on_optimizer_step_skipped(self) -> None:
        self.skipped += 1

    def on_log(self, metrics: dict[str, float], phase: str) -> None:
        self.calls.append((phase, metrics))


def train(
    options: tuple[str, ...] = (),
    *,
    virtual_ranks: int | None = 4,
    root: pathlib.Path | str | None = None,
    stop_after: int | None = None,
    workers: int = 0,
    more_plugins: Sequence[Any] = (),
    **arguments: Any,
) -> dict[str, Any]:
    """Train, and return what must not depend on the number of processes."""
    model, logged = Varied(*options), Logged("skip" in options)
    trainer = Trainer(
        use_cpu=True,
        valid_frequency=1,
        random_seed=SEED,
        run_root=root,
        virtual_ranks=virtual_ranks,
        plugins=[] if "bare" in options else [StopAfter(stop_after), logged, *more_plugins],
        print_banner=False,
        resume_plugins="ignore",
        **{"total_steps": 2, "print_frequency": 2, **arguments},
    )
    state = trainer.fit(model, Data(workers=workers))
    outcome: dict[str, Any] = {
        "steps": state.current_iteration,
        "model": model.state_dict(),
        "metrics": dict(model.metrics),
        "logged": logged.calls,
        "counts": (logged.steps, logged.skipped),
    }
    if stop_after is None and root is not None:
        trainer.test(model, Data())
        outcome["tested"] = model.metrics["test"]
    return outcome


def bits(value: Any) -> Any:
    """Return a value with tensors as bytes, so that 0.0 is not -0.0, and NaN is NaN."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().reshape(-1).contiguous()
        return str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


# By hand.


def added(gradients: list[Any]) -> Any:
    """Add up the gradients of 1, 2, 4 ... virtual ranks, in pairs of neighbours."""
    if len(gradients) == 1:
        return gradients[0]
    half = len(gradients) // 2
    one, other = added(gradients[:half]), added(gradients[half:])
    return one if other is None else other if one is None else one + other


def batches_of(data: Noisy, rank: int, ranks: int, epoch: int) -> list[Any]:
    """Return the batches that a rank of DDP reads."""
    sampler: Any = DistributedSampler(data, ranks, rank, shuffle=True, seed=SEED)
    sampler.set_epoch(epoch)
    order = list(sampler)
    batches = []
    for start in range(0, len(order), 3):
        samples = []
        for index in order[start : start + 3]:
            rng.reseed_cpu_rngs(rng.derive_seed(SEED, epoch, index))
            samples.append(data[index])
        batches.append(tuple(map(torch.stack, zip(*samples, strict=True))))
    return batches


def by_hand(ranks: int, accumulate: int, *, clips: bool) -> dict[str, Any]:
    """Train as many replicas as there are virtual ranks, without Helios's loop."""
    rng.seed_rngs(SEED)
    first = Network()
    optimizer = torch.optim.Adam(first.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.9)
    streams, iteration, data = Streams(SEED, torch.device("cpu")), 0, Noisy(59)
    for epoch in range(2):
        loaded = [batches_of(data, rank, ranks, epoch) for rank in range(ranks)]
        for start in range(0, len(loaded[0]), accumulate):
            replicas = [copy.deepcopy(first) for _ in range(ranks)]
            window = [batches[start : start + accumulate] for batches in loaded]
            for number in range(len(window[0])):
                iteration += 1
                for rank, replica in enumerate(replicas):
                    streams.seed(1, rank, iteration)
                    (loss_of(replica, window[rank][number]) / len(window[0])).backward()
            parameters = zip(*(replica.parameters() for replica in replicas), strict=True)
            for parameter, own in zip(first.parameters(), parameters, strict=True):
                total = added([each.grad for each in own])
                parameter.grad = None if total is None else total / ranks
            norm = replicas[0].first[1]
            norms = [replica.first[1] for replica in replicas]
            for name in ("running_mean", "running_var"):
                mean = added([getattr(each, name) for each in norms]) / ranks
                getattr(first.first[1], name).copy_(mean)
            first.first[1].num_batches_tracked.copy_(norm.num_batches_tracked)
            if clips:
                nn.utils.clip_grad_norm_(first.parameters(), 0.3)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return first.state_dict()
