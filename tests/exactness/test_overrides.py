"""A learning rate or a schedule given anew on resume, beside a loop of plain PyTorch."""

import copy
import logging
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make
from torch import nn
from torch.optim import lr_scheduler

from helios import Model, TrainingState
from helios.errors import ConfigurationError
from helios.testing import StopAfter, TinyDataModule, equal

Schedule = Callable[[torch.optim.Optimizer], Any]

SCHEDULES: dict[str, tuple[Schedule, Schedule]] = {
    "step": (
        lambda optimizer: lr_scheduler.StepLR(optimizer, 3, 0.5),
        lambda optimizer: lr_scheduler.StepLR(optimizer, 5, 0.5),
    ),
    "cosine": (
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 12, 0.01),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 40, 0.01),
    ),
    "milestones": (
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 4]),
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 9]),
    ),
    "warm-up, then cosine": (
        lambda optimizer: _warm_up(optimizer, 12),
        lambda optimizer: _warm_up(optimizer, 30),
    ),
    "chain": (
        lambda optimizer: lr_scheduler.ChainedScheduler(
            [lr_scheduler.LinearLR(optimizer, total_iters=4), lr_scheduler.StepLR(optimizer, 3)]
        ),
        lambda optimizer: lr_scheduler.ChainedScheduler(
            [lr_scheduler.LinearLR(optimizer, total_iters=9), lr_scheduler.StepLR(optimizer, 3)]
        ),
    ),
    "one cycle, with momentum": (
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.3, 18),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.3, 40),
    ),
}


def _warm_up(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    parts = [
        lr_scheduler.LinearLR(optimizer, total_iters=3),
        lr_scheduler.CosineAnnealingLR(optimizer, steps),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [3])


class Scheduled(Model):
    """Takes its learning rate, its decay and its schedule from outside."""

    def __init__(self, lr: float, schedule: Schedule | None, weight_decay: float = 0.0) -> None:
        super().__init__("scheduled")
        self._arguments = lr, weight_decay, schedule
        self._rates: list[float] = []

    def setup(self, fast_init: bool = False) -> None:
        lr, weight_decay, schedule = self._arguments
        self.net = self.prepare(nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr, momentum=0.9, weight_decay=weight_decay
        )
        self.scheduler = None if schedule is None else schedule(self.optimizer)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self._rates.append(self.optimizer.param_groups[0]["lr"])
        self.optimize(nn.functional.cross_entropy(self.net(batch[0]), batch[1]), self.optimizer)
        if self.scheduler is not None:
            self.scheduler.step()

    @property
    def rates(self) -> list[float]:
        return self._rates


def fit(make_trainer: Make, root: Any, model: Scheduled, stop: Any = None, **given: Any) -> None:
    plugins = [] if stop is None else [StopAfter(stop)]
    trainer = make_trainer(chkpt_root=root, plugins=plugins, total_steps=3, random_seed=1)
    trainer.fit(model, TinyDataModule(shuffle=False), **given)


def by_hand(cut: Scheduled, lr: float, schedule: Schedule | None, steps: int) -> Scheduled:
    """Continue an interrupted run in plain PyTorch, with a schedule that begins at its position."""
    plain = Scheduled(lr, schedule)
    plain.net = copy.deepcopy(cut.net)
    plain.optimizer = torch.optim.SGD(plain.net.parameters(), lr, momentum=0.9)
    scheduler = None if schedule is None else schedule(plain.optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch expects a step of the optimizer in between
        for _ in range(steps if scheduler else 0):
            scheduler.step()
    group = plain.optimizer.param_groups[0]
    kept = {key: value for key, value in group.items() if key != "params"}
    state = copy.deepcopy(cut.optimizer.state_dict())
    state["param_groups"][0] |= kept
    plain.optimizer.load_state_dict(state)
    data = TinyDataModule(shuffle=False)
    data.setup()
    batches = [*data.train_dataloader()[0]] * 3  # type: ignore[index]  # a pair
    for features, labels in batches[steps:]:
        plain.rates.append(plain.optimizer.param_groups[0]["lr"])
        plain.optimizer.zero_grad()
        nn.functional.cross_entropy(plain.net(features), labels).backward()
        plain.optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return plain


@pytest.mark.parametrize("overridden", ["lr", "scheduler"])
@pytest.mark.parametrize("what", SCHEDULES)
@pytest.mark.parametrize("stop", [1, 7])
def test_schedule_given_anew(
    make_trainer: Make, tmp_path: pathlib.Path, what: str, overridden: str, stop: int
) -> None:
    before, after = SCHEDULES[what]
    lr, schedule = (0.02, before) if overridden == "lr" else (0.1, after)
    cut, resumed = Scheduled(0.1, before), Scheduled(lr, schedule)
    fit(make_trainer, tmp_path, cut, stop)
    expected = by_hand(cut, lr, schedule, stop)
    fit(make_trainer, tmp_path, resumed, resume_overrides=[overridden])
    assert resumed.rates == expected.rates
    assert equal(dict(resumed.net.state_dict()), dict(expected.net.state_dict()))


@pytest.mark.parametrize("second_overrides", [["lr"], []])
def test_overridden_run_resumes_exactly(
    make_trainer: Make, tmp_path: pathlib.Path, second_overrides: list[str]
) -> None:
    """Also if the run changes the rate after that, and the script still has the argument."""

    class Halving(Scheduled):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            self.optimizer.param_groups[0]["lr"] /= 2

    def train(root: pathlib.Path, *stops: int | None) -> Scheduled:
        fit(make_trainer, root, Halving(0.1, None), 3)
        for number, stop in enumerate(stops):
            model = Halving(0.02, None)
            names = second_overrides if number else ["lr"]
            fit(make_trainer, root, model, stop, resume_overrides=names)
        return model

    whole = train(tmp_path / "whole", None)
    cut = train(tmp_path / "cut", 5, None)
    assert cut.rates == whole.rates[5:]
    assert equal(cut.state_dict(), whole.state_dict())


def test_other_values_stay_those_of_the_checkpoint(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    schedule = SCHEDULES["step"]
    fit(make_trainer, tmp_path, Scheduled(0.1, schedule[0]), 3)
    model = Scheduled(0.02, schedule[1], weight_decay=0.5)
    with caplog.at_level(logging.INFO, "helios"):
        fit(make_trainer, tmp_path, model, 5, resume_overrides=["optimizer.weight_decay"])
    assert model.rates[0] == 0.05
    assert model.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert "resume_overrides: weight_decay is 0.5, but was 0.0 (optimizer)" in caplog.text
    assert "scheduler.step_size is 5, but was 3. The run uses those of the" in caplog.text
    assert "lr is 0.02, but was 0.1" in caplog.text
    assert "pass fit(..., resume_overrides=['lr'])" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "helios"):
        fit(make_trainer, tmp_path, model, resume_overrides=["lr", "weight_decay"])
    assert "resume_overrides: lr is 0.02, but was 0.1; scheduler.step_size is 5" in caplog.text
    assert "weight_decay is" not in caplog.text  # it is that of the checkpoint by now
    assert "The run uses those" not in caplog.text


def test_plateau_keeps_its_progress(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Plateau(Scheduled):
        def train_step(self, batch: Any, state: TrainingState) -> None:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.optimize(loss, self.optimizer)
            self.scheduler.step(1.0)

    def schedule(patience: int) -> Schedule:
        return lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=patience)

    fit(make_trainer, tmp_path, Plateau(0.1, schedule(100)), 4)
    model = Plateau(0.2, schedule(6))
    fit(make_trainer, tmp_path, model, 4, resume_overrides=["scheduler"])
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
    assert (model.scheduler.patience, model.scheduler.best) == (6, 1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learning_rate", "no such value after setup(). It has: dampening, differentiable"),
        ("schedule", "Did you mean 'scheduler'?"),
        ("other.lr", "those of one optimizer are optimizer.lr and so on"),
    ],
)
def test_unknown_name(make_trainer: Make, tmp_path: pathlib.Path, name: str, message: str) -> None:
    model = Scheduled(0.1, SCHEDULES["step"][0])
    with pytest.raises(ConfigurationError) as caught:
        fit(make_trainer, tmp_path, model, resume_overrides=[name])
    assert f"resume_overrides names {name!r}, but Scheduled has no" in str(caught.value)
    assert message in str(caught.value)
