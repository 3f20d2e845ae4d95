"""Techniques and plug-ins that users combine: two ranks train like one process."""

import os
import pathlib
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from test_like_one_process import Case, Data
from torch import nn
from torch.utils.data import TensorDataset

from helios import DataModule, Plugin, Trainer, TrainingState

TOLERANCE = 1e-5


class Adversarial(Case):
    """Two networks, two losses in each step, and an optimizer that skips some steps."""

    def setup(self, fast_init: bool = False) -> None:
        self.maker = self.prepare(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)))
        self.judge = self.prepare(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
        self.of_maker = torch.optim.Adam(self.maker.parameters(), lr=0.02)
        self.of_judge = torch.optim.Adam(self.judge.parameters(), lr=0.02)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        x = batch[0]
        made = self.maker(x.flip(1))
        loss = self.judge(made.detach()).sigmoid().mean() - self.judge(x).sigmoid().mean()
        self.optimize(loss, self.of_judge, clip_norm=0.05)
        if state.current_iteration % 3:
            self.optimize(-self.judge(made).sigmoid().mean(), self.of_maker)


class Together(Case):
    """One loss for two optimizers, with clipped gradients; a part is frozen at first."""

    def setup(self, fast_init: bool = False) -> None:
        self.one = nn.Linear(3, 3).requires_grad_(False)
        self.one = self.prepare(nn.Sequential(self.one, nn.Linear(3, 3)))
        self.two = self.prepare(nn.Linear(3, 1))
        self.first = torch.optim.SGD(self.one.parameters(), lr=0.1)
        self.second = torch.optim.SGD(self.two.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        loss = self.two(self.one(batch[0])).pow(2).mean()
        self.optimize(loss, [self.first, self.second], clip_norm=0.05)

    def on_training_epoch_end(self, current_epoch: int) -> None:
        self.one.requires_grad_(True)


class Compiled(Case):
    """A network that ``prepare`` compiles."""

    def setup(self, fast_init: bool = False) -> None:
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.net = self.prepare(net, compile=True)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.optimize(self.net(batch[0]).pow(2).mean(), self.optimizer)

    def valid_step(self, batch: Any, step: int) -> None:
        self.log("loss", self.net(batch[0]).pow(2).mean())


class Branching(nn.Module):
    """Sends samples whose first feature is positive through another part."""

    def __init__(self) -> None:
        super().__init__()
        self.positive, self.negative = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = ((self.positive, x[x[:, 0] > 0]), (self.negative, x[x[:, 0] <= 0]))
        return torch.cat([part(samples) for part, samples in parts if len(samples)])


class OfOneRank(Case):
    """Each part gets the samples of one rank alone."""

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(Branching())
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.optimize(self.net(batch[0]).pow(2).mean(), self.optimizer)


class Alternating(DataModule):
    """Samples whose first feature is positive and negative by turns."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self) -> None:
        x = torch.rand(48, 3, generator=torch.Generator().manual_seed(1)) + 0.1
        x[::2, 0] *= -1
        self._train_dataset = self._create_dataset(
            TensorDataset(x), {"batch_size": self.batch_size}
        )


CASES = (Adversarial, Together, Compiled, OfOneRank)
PLUGINS: dict[str, list[Any]] = {
    "freeze": [("freeze", {"parts": ["net.0"], "until": 1})],
    "rates": [
        ("scheduler", {"schedule": "cosine"}),
        "lr-monitor",
        "anomaly-detection",
        "summary",
    ],
    "plateau": [("plateau", {"metric": "loss", "patience": 0, "threshold": 1.0})],
    "swa": [("swa", {"start": 0})],
    "checkpointing": [("gradient-checkpointing", {"layers": ["net.0"]})],
    "compile": [("compile", {"backend": "eager"})],
}


class Logs(Plugin):
    def __init__(self) -> None:
        super().__init__("logs")
        self.values: list[float] = []

    def setup(self) -> None: ...

    def on_log(self, metrics: dict[str, float]) -> None:
        self.values += [metrics[name] for name in sorted(metrics)]


def train(folder: str) -> dict[str, Any]:
    compiler = torch.compile
    torch.compile = lambda module, **_: compiler(module, backend="eager")  # type: ignore[assignment, misc]  # faster
    found: dict[str, Any] = {}
    for case in CASES:
        for accumulate in (1, 4):  # an epoch has six batches
            name = f"{case.__name__}-{accumulate}"
            found[name] = _train(case(), f"{folder}/{name}", accumulate, [])
    for name, plugins in PLUGINS.items():
        found[name] = _train(Plain(), f"{folder}/{name}", 1, plugins)
    return found


class Plain(Compiled):
    """A network that nobody compiles."""

    def prepare(self, module: Any, **_: Any) -> Any:
        return super().prepare(module)


def _train(model: Case, folder: str, accumulate: int, plugins: list[Any]) -> Any:
    ranks, logs = int(os.environ.get("WORLD_SIZE", "1")), Logs()
    kind: Any = Alternating if isinstance(model, OfOneRank) else Data
    trainer = Trainer(
        total_steps=3,
        valid_frequency=1 if isinstance(model, Compiled) else None,
        use_cpu=True,
        print_banner=False,
        autoload=False,
        accumulation_steps=accumulate,
        chkpt_root=folder,
        stall_timeout=60,
        plugins=[logs, *plugins],
    )
    trainer.fit(model, kind(8 // ranks))
    path = sorted(pathlib.Path(folder).rglob("*epoch_3*"))[0]
    saved = torch.load(path, weights_only=True)["model"]
    names = sorted(
        f"{name}.{key}" for name, part in saved.items() if isinstance(part, dict) for key in part
    )
    swa = trainer.plugins.get("swa")
    average = [] if swa is None else _numbers(swa.state_dict()["networks"])
    return [*model.weights(), *logs.values, *average], names


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in _numbers(each)]
    return value.reshape(-1).tolist()  # type: ignore[no-any-return]  # a tensor


class Normalized(Case):
    """Logs what each rank computes for the same samples."""

    def setup(self, fast_init: bool = False) -> None:
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.net = self.prepare(net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.optimize(self.net(batch[0] * state.global_iteration).pow(2).mean(), self.optimizer)

    def valid_step(self, batch: Any, step: int) -> None:
        self.log(f"of rank {self.global_rank}", self.net(torch.ones(2, 3)).sum())

    def test_step(self, batch: Any, step: int) -> None:
        self.valid_step(batch, step)


class Evaluated(Data):
    def setup(self) -> None:
        super().setup()
        self._test_dataset = self._valid_dataset


def evaluate(folder: str) -> list[dict[str, Any]]:
    """Validate and test with averaged weights."""
    model = Normalized()
    trainer = Trainer(
        total_steps=1,
        valid_frequency=1,
        use_cpu=True,
        print_banner=False,
        autoload=False,
        chkpt_root=folder,
        stall_timeout=60,
        plugins=["ema"],
    )
    trainer.fit(model, Evaluated(4))
    validated = dict(model.metrics)
    trainer.test(model, Evaluated(4))
    return [validated, dict(model.metrics)]


def test_ranks_evaluate_one_network(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    first, second = (rank.result for rank in ranks(2, evaluate, str(tmp_path)))
    assert first == second
    for metrics in first:
        assert metrics["of rank 0"] == metrics["of rank 1"]


def test_techniques_are_like_one_process(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    alone = ranks(1, train, str(tmp_path / "alone"))[0].result
    first, second = (rank.result for rank in ranks(2, train, str(tmp_path / "two")))
    for name, (numbers, names) in alone.items():
        assert first[name][0] == pytest.approx(numbers, abs=TOLERANCE), name
        assert second[name][0] == first[name][0], name
        assert first[name][1] == names != [], name
        assert not [each for each in names if "module" in each or "_orig_mod" in each], name
