"""Learning rates by a schedule, in ``optimize`` and by plug-ins, beside PyTorch's own loop."""

import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Logs, Make
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, ReduceLROnPlateau, StepLR

from helios import Plugin
from helios.errors import ConfigurationError, PluginConflictError, UnknownNameError
from helios.plugins.builtin.gradient_norm import GradientNormPlugin
from helios.plugins.builtin.lr_monitor import LearningRateMonitorPlugin
from helios.plugins.builtin.plateau import PlateauPlugin
from helios.plugins.builtin.scheduler import SchedulerPlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, check_conformance, equal

RATE = 0.05
BATCHES = 6  # in an epoch


class Bare(TinyModel):
    """Has no schedule of its own, and records the rate of each step."""

    losses = (0.9, 0.5, 0.6, 0.49999, 0.7, 0.2)

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.scheduler = None  # type: ignore[assignment]  # the plug-in's instead
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=RATE, momentum=0.9)
        self._rates: list[float] = []
        self.optimizer.register_step_pre_hook(
            lambda optimizer, *_: self._rates.append(optimizer.param_groups[0]["lr"])
        )

    def train_step(self, batch: Any, state: Any) -> Any:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        self.step(loss)

    def step(self, loss: torch.Tensor) -> None:
        self.optimize(loss, self.optimizer)

    def valid_step(self, batch: Any, step: int) -> Any:
        self.log("loss", self.losses[self.trainer.state.validation_cycles])


def rates(make_trainer: Make, *plugins: Any, model: Bare | None = None, **arguments: Any) -> Any:
    """Return the rate of each step of a run."""
    model = model or Bare()
    make_trainer(plugins=plugins, **arguments).fit(model, TinyDataModule())
    return model._rates


def by_hand(create: Callable[[Any], Any], steps: int, every: int = 1) -> list[float]:
    """Return the rate of each step of a loop in plain PyTorch; a scheduler advances ``every``."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, found = create(optimizer), []
    for step in range(1, steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0:
            scheduler.step()
    return found


def formula(name: str, step: int, warmup: int, length: int) -> float:
    """Return the factor of the learning rate, as transformers defines it."""
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, length - warmup)
    linear = max(0.0, (length - step) / max(1, length - warmup))
    cosine = max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)))
    return {"constant": 1.0, "linear": linear, "cosine": cosine}[name]


# Steps by optimize().


class Passing(Bare):
    """Passes its scheduler to ``optimize``."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.schedule = StepLR(self.optimizer, step_size=3, gamma=0.9)

    def step(self, loss: torch.Tensor) -> None:
        self.optimize(loss, self.optimizer, scheduler=self.schedule)


def test_a_scheduler_in_optimize_equals_a_line_in_the_model(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    for unit, count in [("epoch", 2), ("iteration", 7)]:
        passing, with_a_line, resumed = Passing(), TinyModel(), Passing()
        settings = {"train_unit": unit, "total_steps": count, "accumulation_steps": 2}
        make_trainer(**settings).fit(passing, TinyDataModule())
        make_trainer(**settings).fit(with_a_line, TinyDataModule())
        assert equal(passing.net.state_dict(), with_a_line.net.state_dict())
        root = tmp_path / unit
        for model, plugins in [(Passing(), [StopAfter(5)]), (resumed, [])]:
            make_trainer(**settings, run_root=root, plugins=plugins).fit(model, TinyDataModule())
        assert equal(passing.net.state_dict(), resumed.net.state_dict())


def test_only_steps_that_are_taken_advance_it(make_trainer: Make) -> None:
    class Skip(Plugin):
        def setup(self) -> None: ...

        def on_gradients_ready(self, state: Any) -> None:
            if state.current_iteration == 2:
                self.trainer.skip_step("a test")

    found = rates(make_trainer, Skip("skip"), model=Passing(), total_steps=1)
    assert found == by_hand(lambda optimizer: StepLR(optimizer, 3, 0.9), BATCHES - 1)


def test_each_optimizer_has_its_own_scheduler(make_trainer: Make) -> None:
    class Two(Bare):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.first = torch.optim.SGD(self.net[0].parameters(), lr=RATE)
            self.second = torch.optim.SGD(self.net[2].parameters(), lr=RATE)
            self.schedulers = [ExponentialLR(self.first, 0.5), StepLR(self.second, 2)]

        def step(self, loss: torch.Tensor) -> None:
            if self.trainer.state.dataset_iter % 2 == 0:  # not in the last batch of a window
                self.optimize(loss, [self.first, self.second], scheduler=self.schedulers)

    model = Two()
    make_trainer(accumulation_steps=2, total_steps=1).fit(model, TinyDataModule())
    assert model.first.param_groups[0]["lr"] == RATE * 0.5**3
    assert model.second.param_groups[0]["lr"] == pytest.approx(RATE * 0.1)


@pytest.mark.parametrize(
    ("create", "error", "message"),
    [
        (lambda model: ReduceLROnPlateau(model.optimizer), TypeError, 'plugins=[("plateau", {'),
        (lambda model: "cosine", TypeError, "scheduler=str: pass a scheduler of torch.optim"),
        (
            lambda model: StepLR(torch.optim.Adam(model.net.parameters()), 1),
            ConfigurationError,
            "the optimizer SGD with a StepLR of another Adam: create the scheduler with",
        ),
    ],
)
def test_what_is_no_scheduler_of_the_step_is_refused(
    make_trainer: Make, create: Any, error: Any, message: str
) -> None:
    class Wrong(Bare):
        def step(self, loss: torch.Tensor) -> None:
            self.optimize(loss, self.optimizer, scheduler=create(self))

    with pytest.raises(error) as caught:
        make_trainer().fit(Wrong(), TinyDataModule())
    assert message in str(caught.value)


# By the plug-in.


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (3, 3), (0.25, 3)])
def test_schedules_by_name(make_trainer: Make, name: str, warmup: float, steps: int) -> None:
    found = rates(make_trainer, SchedulerPlugin(name, warmup))
    expected = [RATE * formula(name, step, steps, 2 * BATCHES) for step in range(2 * BATCHES)]
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    in_iterations = rates(
        make_trainer, SchedulerPlugin(name, warmup), train_unit="iteration", total_steps=12
    )
    assert in_iterations == found


def test_it_counts_epochs(make_trainer: Make) -> None:
    found = rates(make_trainer, SchedulerPlugin("linear", unit="epoch"), total_steps=4)
    assert found[::BATCHES] == pytest.approx([RATE * (1 - epoch / 4) for epoch in range(4)])
    assert len(set(found)) == 4
    in_iterations = rates(
        make_trainer,
        SchedulerPlugin("linear", unit="epoch"),
        train_unit="iteration",
        total_steps=24,
    )
    assert in_iterations == found


@pytest.mark.parametrize(("unit", "every"), [("step", 1), ("epoch", BATCHES)])
def test_schedulers_of_pytorch(make_trainer: Make, unit: Any, every: int) -> None:
    def create(optimizer: Any) -> LRScheduler:
        return StepLR(optimizer, step_size=2, gamma=0.3)

    found = rates(make_trainer, SchedulerPlugin(create, unit=unit), total_steps=3)
    assert found == by_hand(create, 3 * BATCHES, every)


def test_one_optimizer_by_name(make_trainer: Make) -> None:
    class Two(Bare):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.other = {"bias": torch.optim.SGD([self.net[0].bias], lr=1.0)}

        def step(self, loss: torch.Tensor) -> None:
            self.optimize(loss, [self.optimizer, self.other["bias"]])

    model = Two()
    one = SchedulerPlugin("linear", optimizer="other.bias")
    assert set(rates(make_trainer, one, model=model)) == {RATE}
    assert model.other["bias"].param_groups[0]["lr"] == 0
    with pytest.raises(ConfigurationError) as caught:
        rates(make_trainer, SchedulerPlugin("linear", optimizer="optimiser"))
    assert "Did you mean 'optimizer'?" in str(caught.value)
    assert "Its optimizers: optimizer." in str(caught.value)


def test_a_length_is_needed_where_training_has_none(make_trainer: Make) -> None:
    endless = {"train_unit": "iteration", "total_steps": math.inf}
    plugins = [SchedulerPlugin("linear", length=4), StopAfter(4)]
    assert rates(make_trainer, *plugins, **endless) == pytest.approx(
        [RATE * f for f in (1, 0.75, 0.5, 0.25)]
    )
    with pytest.raises(ConfigurationError, match=r"the number of steps .* unknown: pass length="):
        rates(make_trainer, SchedulerPlugin("linear"), **endless)


def test_a_second_schedule_for_an_optimizer_is_told(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "helios")
    make_trainer(plugins=[SchedulerPlugin("linear")]).fit(TinyModel(), TinyDataModule())
    assert (
        "plug-in 'scheduler' and TinyModel.scheduler both change the learning rate of optimizer:"
        " remove one of them." in caplog.text
    )


def test_two_plug_ins_for_two_optimizers(make_trainer: Make) -> None:
    class Two(Bare):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.second = torch.optim.SGD([self.net[0].bias], lr=1.0)

        def step(self, loss: torch.Tensor) -> None:
            self.optimize(loss, [self.optimizer, self.second])

    model = Two()
    by_name = [
        ("scheduler", {"schedule": "linear", "optimizer": o}) for o in ("second", "optimizer")
    ]
    assert rates(make_trainer, *by_name, model=model)[-1] == pytest.approx(RATE / 12)
    assert model.second.param_groups[0]["lr"] == 0


# Plateau.


def test_the_rate_falls_when_pytorch_would_lower_it(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "helios")
    options: dict[str, Any] = {"factor": 0.5, "patience": 0, "cooldown": 1, "threshold": 0.01}
    found = rates(make_trainer, PlateauPlugin("loss", **options), total_steps=6, valid_frequency=1)
    losses = iter(Bare.losses)

    def create(optimizer: Any) -> Any:
        scheduler = ReduceLROnPlateau(optimizer, **options)
        real = scheduler.step
        scheduler.step = lambda: real(next(losses))  # type: ignore[method-assign,assignment]
        return scheduler

    assert found == by_hand(create, 6 * BATCHES, BATCHES)
    assert len(set(found)) == 3
    assert (
        "plug-in 'plateau' lowers the learning rate of optimizer from 0.05 to 0.025, because loss"
        " no longer improves" in caplog.text
    )


def test_plateau_needs_validations_with_the_metric(make_trainer: Make) -> None:
    with pytest.raises(ConfigurationError, match="this run does not validate: pass Trainer"):
        rates(make_trainer, PlateauPlugin("loss"))
    with pytest.raises(UnknownNameError, match="Did you mean 'loss'"):
        rates(make_trainer, PlateauPlugin("los"), valid_frequency=1)


# The monitor.


def test_the_rate_of_the_newest_step_is_logged(make_trainer: Make) -> None:
    for frequency, steps in [(4, [4, 8, 12]), (5, [5, 10, 12]), (None, [6, 12])]:
        model, logs = Bare(), Logs()
        plugins = [LearningRateMonitorPlugin(), SchedulerPlugin("cosine"), logs]
        rates(make_trainer, *plugins, model=model, print_frequency=frequency)
        logged = [(step, m["lr/optimizer"]) for step, _, m in logs.calls if "lr/optimizer" in m]
        assert logged == [(step, model._rates[step - 1]) for step in steps]


def test_each_group_has_its_rate(make_trainer: Make) -> None:
    class Groups(Bare):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            groups = [{"params": self.net[0].parameters(), "lr": torch.tensor(0.25)}]
            groups.append({"params": self.net[2].parameters(), "lr": 0.5})
            self.optimizer = torch.optim.SGD(groups)

    logs = Logs()
    rates(make_trainer, LearningRateMonitorPlugin(), logs, model=Groups(), total_steps=1)
    assert logs.calls[-1][2].items() >= {"lr/optimizer/0": 0.25, "lr/optimizer/1": 0.5}.items()


# Steps that plug-ins do not see, and plug-ins that would undo one another.


class ByHand(Bare):
    """Takes its steps without ``optimize``."""

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def test_steps_by_hand_are_told(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "helios")
    logs, model = Logs(), ByHand()
    plugins = [SchedulerPlugin("linear"), GradientNormPlugin(), LearningRateMonitorPlugin(), logs]
    assert set(rates(make_trainer, *plugins, model=model)) == {RATE}
    told = [each.message for each in caplog.records if "seen no step" in each.message]
    assert told == [
        f"plug-in {name!r} has seen no step of optimizer in this epoch, so it had no effect: let"
        " the model take its steps through self.optimize(loss, optimizer)."
        for name in ("scheduler", "gradient-norm")
    ]
    assert [metrics["lr/optimizer"] for _, _, metrics in logs.calls] == [RATE, RATE]


def test_two_schedules_of_all_optimizers_conflict(make_trainer: Make) -> None:
    with pytest.raises(PluginConflictError, match="learning-rate-of-all-optimizers"):
        make_trainer(plugins=[SchedulerPlugin("linear"), PlateauPlugin("loss")])
    of_one = [
        SchedulerPlugin("linear", optimizer="other"),
        PlateauPlugin("loss", optimizer="other"),
    ]
    with pytest.raises(PluginConflictError, match="learning-rate-of-other"):
        make_trainer(plugins=of_one)


# All of them.


@pytest.mark.parametrize(
    "create",
    [
        lambda: SchedulerPlugin("cosine", warmup=0.25),
        lambda: SchedulerPlugin(lambda optimizer: ExponentialLR(optimizer, 0.5), unit="epoch"),
        lambda: PlateauPlugin("accuracy", patience=0),
        LearningRateMonitorPlugin,
    ],
    ids=["by name", "by a function", "plateau", "monitor"],
)
def test_resumes_exactly(create: Any) -> None:
    check_conformance(
        create, train_unit="iteration", total_steps=14, valid_frequency=2, print_frequency=3
    )


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: SchedulerPlugin("cos"), "'cos' of scheduler: write 'constant', 'linear', 'cosin"),
        (lambda: SchedulerPlugin("linear", 1.5), "warmup=1.5 of scheduler: write a whole number, "),
        (lambda: SchedulerPlugin("linear", -1), "warmup=-1 of scheduler: write a whole number, or"),
        (lambda: SchedulerPlugin(StepLR, 3), "warmup=3 of scheduler: it belongs to the schedules"),
        (lambda: SchedulerPlugin("linear", length=0), "length=0 of scheduler: write a whole numb"),
        (lambda: PlateauPlugin("loss", factor=1), "factor=1 of plateau: write a number from 0 up"),
        (lambda: PlateauPlugin("loss", "max", patience=0.5), "patience=0.5 of plateau: write a w"),
    ],
)
def test_a_wrong_argument_is_refused(create: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create()
    assert message in str(caught.value)


def test_a_function_must_return_a_scheduler(make_trainer: Make) -> None:
    with pytest.raises(ConfigurationError, match=r'ReduceLROnPlateau: .* or use the plug-in "plat'):
        rates(make_trainer, SchedulerPlugin(ReduceLROnPlateau))
    with pytest.raises(
        ConfigurationError, match="returned a NoneType: return a scheduler of torch"
    ):
        rates(make_trainer, SchedulerPlugin(lambda optimizer: None))
