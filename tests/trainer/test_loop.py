"""The loops: how long, how often, what is accumulated, what is logged, who may stop."""

import contextlib
import logging
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helios import Model, Plugin, Trainer, TrainingState, TrainingUnit, hookimpl
from helios.plugins.hookspecs import HOOKS
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal
from helios.trainer import StopRequest

Make = Callable[..., Trainer]


class UserError(Exception):
    """What user code raises."""


class Bare(Plugin):
    """A plug-in to add hooks to."""

    def __init__(self, plug_id: str = "bare") -> None:
        super().__init__(plug_id)

    def setup(self) -> None: ...


class Logs(Bare):
    """Keeps what is logged, with the steps and batches at which it is."""

    def __init__(self) -> None:
        super().__init__("logs")
        self.calls: list[tuple[int, int, dict[str, float]]] = []

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        assert all(type(value) is float for value in metrics.values())
        self.calls.append((state.current_iteration, state.global_iteration, metrics))

    @property
    def at(self) -> list[tuple[int, int]]:
        return [(step, batch) for step, batch, _ in self.calls]


class Recording(TinyModel):
    """Keeps its losses and what the trainer says about each step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.should_log: list[bool] = []

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        loss = super().train_step(batch, state)
        self.losses.append(loss.item())
        return loss

    def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
        super().on_training_batch_end(state, should_log)
        self.should_log.append(should_log)


# How long.


@pytest.mark.parametrize("steps", [1, 5, 6, 7, 12, 13])
@pytest.mark.parametrize("accumulation", [1, 3, 4])
def test_exactly_so_many_steps(make_trainer: Make, steps: int, accumulation: int) -> None:
    model = Recording()
    trainer = make_trainer(
        train_unit="iteration", total_steps=steps, accumulation_steps=accumulation
    )
    state = trainer.fit(model, TinyDataModule())
    assert state.current_iteration == steps
    assert state.global_iteration == len(model.losses) == steps * accumulation
    assert state.running_iter == state.global_iteration
    assert state.global_epoch == state.global_iteration // 6
    assert state.dataset_iter == state.global_iteration % 6
    assert state.average_iter_time > 0


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize(("accumulation", "steps_per_epoch"), [(1, 6), (3, 2), (4, 2), (7, 1)])
def test_exactly_so_many_epochs(
    make_trainer: Make, epochs: int, accumulation: int, steps_per_epoch: int
) -> None:
    model = Recording()
    trainer = make_trainer(total_steps=epochs, accumulation_steps=accumulation)
    state = trainer.fit(model, TinyDataModule())
    assert (state.global_epoch, state.dataset_iter) == (epochs, 0)
    assert state.global_iteration == len(model.losses) == epochs * 6
    assert state.current_iteration == epochs * steps_per_epoch


@pytest.mark.parametrize("unit", ["epoch", "iteration", TrainingUnit.EPOCH, "EPOCH"])
def test_units(make_trainer: Make, unit: Any) -> None:
    state = make_trainer(train_unit=unit, total_steps=1).fit(TinyModel(), TinyDataModule())
    assert state.global_iteration == (1 if unit == "iteration" else 6)


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_until_something_stops_it(make_trainer: Make, unit: str) -> None:
    trainer = make_trainer(train_unit=unit, total_steps=math.inf, plugins=[StopAfter(20)])
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 20


class NeverBetter(TinyModel):
    """Improves in the cycles that it is told."""

    def __init__(self, improving: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._improving = improving
        self.counts: list[int] = []

    def have_metrics_improved(self) -> bool:
        state = self.trainer.state
        self.counts.append(state.early_stop_count)
        return state.validation_cycles in self._improving


@pytest.mark.parametrize("total", [9, math.inf])
@pytest.mark.parametrize(
    ("improving", "cycles", "counts"),
    [((), 2, [0, 1]), ((0, 1), 2, [0, 0, 0, 1]), ((1,), 2, [0, 1, 0, 1]), ((), 1, [0])],
)
def test_early_stopping(
    make_trainer: Make,
    total: float,
    improving: tuple[int, ...],
    cycles: int,
    counts: list[int],
) -> None:
    model = NeverBetter(improving)
    trainer = make_trainer(total_steps=total, valid_frequency=1, early_stop_cycles=cycles)
    state = trainer.fit(model, TinyDataModule())
    assert model.counts == counts
    assert state.global_epoch == state.validation_cycles == len(counts)
    assert state.early_stop_count == cycles
    assert trainer.stop_requests == []


def test_early_stopping_in_iterations(make_trainer: Make) -> None:
    model = NeverBetter()
    trainer = make_trainer(
        train_unit="iteration", total_steps=99, valid_frequency=4, early_stop_cycles=2
    )
    assert trainer.fit(model, TinyDataModule()).current_iteration == 8


def test_early_stopping_counts_cycles_without_a_validation_set(make_trainer: Make) -> None:
    trainer = make_trainer(total_steps=9, valid_frequency=1, early_stop_cycles=2)
    state = trainer.fit(NeverBetter(), TinyDataModule(valid_size=0))
    assert (state.global_epoch, state.validation_cycles) == (2, 2)


def test_no_early_stopping_by_default(make_trainer: Make) -> None:
    trainer = make_trainer(total_steps=4, valid_frequency=1)
    assert trainer.fit(NeverBetter(), TinyDataModule()).early_stop_count == 4


# Who may stop.


class StopIn(Bare):
    """Asks for a stop in one hook."""

    def __init__(self, hook: str) -> None:
        super().__init__("stopper")
        self._hook = hook

    def on_training_start(self) -> None:
        self._maybe("on_training_start")

    def on_training_batch_end(self) -> None:
        self._maybe("on_training_batch_end")

    def on_validation_end(self) -> None:
        self._maybe("on_validation_end")

    def on_training_epoch_end(self) -> None:
        self._maybe("on_training_epoch_end")

    def on_checkpoint_saved(self) -> None:
        self._maybe("on_checkpoint_saved")

    def _maybe(self, hook: str) -> None:
        if hook == self._hook and not self.trainer.stop_requests:
            self.trainer.request_stop(f"asked in {hook}")


@pytest.mark.parametrize(
    ("unit", "hook", "batches"),
    [
        ("epoch", "on_training_start", 0),
        ("epoch", "on_training_batch_end", 1),
        ("epoch", "on_validation_end", 6),
        ("epoch", "on_training_epoch_end", 6),
        ("epoch", "on_checkpoint_saved", 6),
        ("iteration", "on_training_start", 0),
        ("iteration", "on_training_batch_end", 1),
        ("iteration", "on_validation_end", 4),
        ("iteration", "on_training_epoch_end", 6),
        ("iteration", "on_checkpoint_saved", 5),
    ],
)
def test_stop_from_a_plugin(
    make_trainer: Make, tmp_path: pathlib.Path, unit: str, hook: str, batches: int
) -> None:
    trainer = make_trainer(
        train_unit=unit,
        total_steps=99,
        valid_frequency=1 if unit == "epoch" else 4,
        chkpt_frequency=1 if unit == "epoch" else 5,
        chkpt_root=tmp_path,
        plugins=[StopIn(hook)],
    )
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == batches
    assert trainer.stop_requests == [StopRequest(f"asked in {hook}", "stopper")]


def test_stop_takes_effect_where_a_step_is_complete(make_trainer: Make) -> None:
    trainer = make_trainer(accumulation_steps=4, plugins=[StopAfter(2)])
    state = trainer.fit(TinyModel(), TinyDataModule())
    assert (state.global_iteration, state.current_iteration) == (4, 1)


def test_stop_does_not_lose_the_gradients_at_the_end_of_an_epoch(make_trainer: Make) -> None:
    trainer = make_trainer(
        train_unit="iteration", total_steps=99, accumulation_steps=4, plugins=[StopAfter(5)]
    )
    state = trainer.fit(TinyModel(), TinyDataModule())
    assert (state.global_iteration, state.current_iteration) == (8, 2)


def test_stop_from_the_model(make_trainer: Make) -> None:
    class Stopping(TinyModel):
        def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
            if state.global_iteration == 3:
                self.trainer.request_stop("the loss is not finite")

    trainer = make_trainer()
    assert trainer.fit(Stopping(), TinyDataModule()).global_iteration == 3
    assert trainer.stop_requests == [StopRequest("the loss is not finite", "the model")]


def test_stop_from_outside(make_trainer: Make) -> None:
    class Data(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            outside()

    trainer = make_trainer()

    def outside() -> None:
        trainer.request_stop("enough")

    assert trainer.fit(TinyModel(), Data()).global_iteration == 0
    assert trainer.stop_requests == [StopRequest("enough", "the user")]


def test_stop_inside_a_launcher_is_not_the_launchers(make_trainer: Make) -> None:
    class Launching(Bare):
        def launch(self, target: Callable[[], Any]) -> Any:
            return target()

    class Stopping(TinyModel):
        def on_training_start(self) -> None:
            self.trainer.request_stop("by the model")

    trainer = make_trainer(plugins=[Launching("launcher")])
    trainer.fit(Stopping(), TinyDataModule())
    assert [request.author for request in trainer.stop_requests] == ["the model"]


def test_stop_in_an_authors_name(make_trainer: Make) -> None:
    class Stopping(Bare):
        def on_training_batch_end(self) -> None:
            self.trainer.request_stop("word from above", author="the scheduler")

    trainer = make_trainer(plugins=[Stopping()])
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.stop_requests == [StopRequest("word from above", "the scheduler")]


def test_many_may_ask(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "helios")

    class Plain:
        @hookimpl
        def configure_trainer(self, trainer: Trainer) -> None:
            self._trainer = trainer

        @hookimpl
        def on_training_batch_end(self) -> None:
            self._trainer.request_stop("me, too")

    trainer = make_trainer(plugins=[StopIn("on_training_batch_end"), Plain()])
    trainer.fit(TinyModel(), TinyDataModule())
    assert trainer.stop_requests == [
        StopRequest("asked in on_training_batch_end", "stopper"),
        StopRequest("me, too", "Plain"),
    ]
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("stopped:")]
    assert told == [
        "stopped: asked in on_training_batch_end (asked for by stopper)",
        "stopped: me, too (asked for by Plain)",
    ]


@pytest.mark.parametrize("who", ["plug-in", "model"])
@pytest.mark.parametrize("answer", [True, 1])
def test_should_training_stop(make_trainer: Make, who: str, answer: Any) -> None:
    class Voting(Bare):
        polls = 0

        def should_training_stop(self) -> Any:
            self.polls += 1
            return who == "plug-in" and self.polls == 3 and answer

    class VotingModel(TinyModel):
        def should_training_stop(self) -> Any:
            return who == "model" and self.trainer.state.global_iteration == 3 and answer

    trainer = make_trainer(plugins=[Voting("voter")])
    assert trainer.fit(VotingModel(), TinyDataModule()).global_iteration == 3
    author = "voter" if who == "plug-in" else "the model"
    assert trainer.stop_requests == [StopRequest("should_training_stop", author)]


def test_polls(make_trainer: Make) -> None:
    # after each batch, and after each validation
    class Polled(TinyModel):
        polls = 0

        def should_training_stop(self) -> bool:
            self.polls += 1
            return False

    model = Polled()
    make_trainer(total_steps=2, valid_frequency=2).fit(model, TinyDataModule())
    assert model.polls == 12 + 1


def test_one_request_where_the_answer_stays_the_same(make_trainer: Make) -> None:
    class Stopping(TinyModel):
        def should_training_stop(self) -> bool:
            return self.trainer.state.global_iteration >= 2

    trainer = make_trainer(accumulation_steps=4)
    assert trainer.fit(Stopping(), TinyDataModule()).global_iteration == 4
    assert trainer.stop_requests == [StopRequest("should_training_stop", "the model")]


# Accumulation.


class Linear(Model):
    """A least-squares fit without any randomness."""

    def __init__(self, **clipping: float) -> None:
        super().__init__("linear")
        self._clipping = clipping
        self.gradients: list[torch.Tensor] = []

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        features, labels = batch
        loss = ((self.net(features).squeeze(1) - labels) ** 2).mean()
        stepped = self.optimize(loss, self.optimizer, **self._clipping)
        assert stepped is self.trainer.is_optimizer_step
        return loss


class Gradients(Bare):
    """Keeps the gradients of each step, before and as it is taken."""

    def __init__(self) -> None:
        super().__init__("gradients")
        self.seen: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = optimizer.param_groups[0]["params"]
        self.seen.append(torch.cat([p.grad.flatten() for p in parameters]))
        self.weights.append(torch.cat([p.detach().flatten() for p in parameters]))

    def on_after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = optimizer.param_groups[0]["params"]
        assert all(p.grad is None for p in parameters)
        self.weights.append(torch.cat([p.detach().flatten() for p in parameters]))


def gradients_of(make_trainer: Make, batch_size: int, **arguments: Any) -> list[torch.Tensor]:
    gradients = Gradients()
    trainer = make_trainer(plugins=[gradients], **arguments)
    trainer.fit(Linear(), TinyDataModule(train_size=24, batch_size=batch_size))
    return gradients.seen


@pytest.mark.parametrize(
    "arguments",
    [{"total_steps": 2}, {"train_unit": "iteration", "total_steps": 5}],
    ids=["epoch", "iteration"],
)
def test_accumulated_batches_act_as_one(make_trainer: Make, arguments: dict[str, Any]) -> None:
    small = gradients_of(make_trainer, 4, accumulation_steps=3, **arguments)
    large = gradients_of(make_trainer, 12, **arguments)
    assert (
        len(small)
        == len(large)
        == arguments["total_steps"] * (1 if "train_unit" in arguments else 2)
    )
    for left, right in zip(small, large, strict=True):
        torch.testing.assert_close(left, right)


def test_rest_of_an_epoch_is_a_step_of_its_own(make_trainer: Make) -> None:
    # 6 batches in windows of 4: the mean of four, then the mean of two
    gradients = gradients_of(make_trainer, 4, accumulation_steps=4, total_steps=1)
    assert len(gradients) == 2

    class Halves(TinyDataModule):
        """The same samples in the same order: 16 and 8."""

        def setup(self) -> None:
            super().setup()
            assert self._train_dataset is not None
            params = self._train_dataset.params
            order = torch.randperm(24, generator=torch.Generator().manual_seed(6691)).tolist()
            params.shuffle, params.batch_size = False, 16
            self._train_dataset.dataset = torch.utils.data.Subset(
                self._train_dataset.dataset, order
            )

    wanted = Gradients()
    trainer = make_trainer(plugins=[wanted], total_steps=1)
    trainer.fit(Linear(), Halves(train_size=24))
    for left, right in zip(gradients, wanted.seen, strict=True):
        torch.testing.assert_close(left, right)


def test_windows_in_iterations_reach_over_the_end_of_an_epoch(make_trainer: Make) -> None:
    class Windows(Recording):
        steps: list[tuple[int, int]]

        def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
            if self.trainer.is_optimizer_step:
                self.steps.append((state.global_epoch, state.global_iteration))

    model = Windows()
    model.steps = []
    trainer = make_trainer(train_unit="iteration", total_steps=3, accumulation_steps=4)
    trainer.fit(model, TinyDataModule())
    assert model.steps == [(0, 4), (1, 8), (1, 12)]


def test_hooks_of_the_optimizer_only_where_a_step_is_taken(make_trainer: Make) -> None:
    steps: list[Any] = []

    class Steps(Bare):
        def on_before_optimizer_step(self, state: TrainingState) -> None:
            steps.append(("before", state.global_iteration))

        def on_after_optimizer_step(self, state: TrainingState) -> None:
            steps.append(("after", state.global_iteration))

    trainer = make_trainer(total_steps=1, accumulation_steps=4, plugins=[Steps()])
    trainer.fit(Linear(), TinyDataModule())
    assert steps == [("before", 4), ("after", 4), ("before", 6), ("after", 6)]


def test_scheduler_counts_optimizer_steps(make_trainer: Make) -> None:
    model = TinyModel()
    make_trainer(total_steps=1, accumulation_steps=4).fit(model, TinyDataModule())
    assert model.scheduler.last_epoch == 2


# Clipping.


@pytest.mark.parametrize(
    ("clipping", "clipped"),
    [
        ({}, lambda g: g),
        ({"clip_norm": 0.1}, lambda g: g * min(1.0, 0.1 / (g.norm() + 1e-6))),
        ({"clip_norm": 1e6}, lambda g: g),
        ({"clip_value": 0.05}, lambda g: g.clamp(-0.05, 0.05)),
        (
            {"clip_value": 0.05, "clip_norm": 0.04},  # first the values
            lambda g: (v := g.clamp(-0.05, 0.05)) * min(1.0, 0.04 / (v.norm() + 1e-6)),
        ),
    ],
)
def test_clipping(
    make_trainer: Make, clipping: dict[str, float], clipped: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    gradients = Gradients()
    trainer = make_trainer(total_steps=1, plugins=[gradients])
    trainer.fit(Linear(**clipping), TinyDataModule())
    befores, afters = gradients.weights[::2], gradients.weights[1::2]
    for gradient, before, after in zip(gradients.seen, befores, afters, strict=True):
        torch.testing.assert_close(before - after, 0.1 * clipped(gradient))
    changed = any(not torch.equal(clipped(gradient), gradient) for gradient in gradients.seen)
    assert changed == (min(clipping.values(), default=1e6) < 1e6)


def test_accumulated_gradients_are_clipped_once(make_trainer: Make) -> None:
    gradients = Gradients()
    trainer = make_trainer(total_steps=1, accumulation_steps=3, plugins=[gradients])
    trainer.fit(Linear(clip_norm=0.1), TinyDataModule(train_size=24))
    befores, afters = gradients.weights[::2], gradients.weights[1::2]
    for before, after in zip(befores, afters, strict=True):
        assert (before - after).norm().item() == pytest.approx(0.01, rel=1e-4)


# Logging.


@pytest.mark.parametrize(
    ("arguments", "batches"),
    [
        ({"total_steps": 2}, []),
        ({"total_steps": 2, "print_frequency": 4}, [4, 8, 12]),
        ({"total_steps": 2, "print_frequency": 1}, list(range(1, 13))),
        ({"total_steps": 2, "print_frequency": 2, "accumulation_steps": 3}, [6, 12]),
        # windows of 4 and 2 batches
        ({"total_steps": 3, "print_frequency": 3, "accumulation_steps": 4}, [10, 18]),
        (
            {
                "train_unit": "iteration",
                "total_steps": 4,
                "print_frequency": 2,
                "accumulation_steps": 4,
            },
            [8, 16],
        ),
    ],
)
def test_when_loggers_are_called(
    make_trainer: Make, arguments: dict[str, Any], batches: list[int]
) -> None:
    model, logs = Recording(), Logs()
    make_trainer(plugins=[logs], **arguments).fit(model, TinyDataModule())
    assert [number for number, should in enumerate(model.should_log, start=1) if should] == batches
    assert [batch for _, batch in logs.at] == batches
    ends = [0, *batches]
    for begin, end, (_, _, metrics) in zip(ends, ends[1:], logs.calls, strict=False):
        mean = sum(model.losses[begin:end]) / (end - begin)  # of all since the last call
        assert metrics == {"loss": pytest.approx(mean)}


def test_nothing_is_kept_without_a_frequency(make_trainer: Make) -> None:
    model = TinyModel()
    make_trainer(total_steps=2).fit(model, TinyDataModule())
    assert model._training_log.state_dict() == {"totals": {}, "counts": {}}
    assert model._evaluation_log.state_dict() == {"totals": {}, "counts": {}}


def test_what_is_kept_does_not_grow(make_trainer: Make) -> None:
    model = TinyModel()
    make_trainer(total_steps=3, print_frequency=1000).fit(model, TinyDataModule())
    kept = model._training_log.state_dict()
    assert kept["counts"] == {"loss": 18}
    assert kept["totals"]["loss"].shape == ()
    assert not kept["totals"]["loss"].requires_grad


def test_validation_is_logged_whatever_the_frequency(make_trainer: Make) -> None:
    logs = Logs()
    model = TinyModel()
    make_trainer(total_steps=2, valid_frequency=1, plugins=[logs]).fit(model, TinyDataModule())
    assert logs.at == [(6, 6), (12, 12)]
    accuracies = [metrics for _, _, metrics in logs.calls]
    assert all(list(metrics) == ["accuracy"] for metrics in accuracies)
    assert model.metrics == accuracies[-1]


def test_training_and_validation_are_kept_apart(make_trainer: Make) -> None:
    class Both(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.log("x", float(state.global_iteration))
            return super().train_step(batch, state)

        def on_validation_start(self, validation_cycle: int) -> None:
            super().on_validation_start(validation_cycle)
            self.log("begin", 1.0)

        def valid_step(self, batch: Any, step: int) -> Any:
            self.log("x", 100.0)

        def on_validation_end(self, validation_cycle: int) -> None:
            super().on_validation_end(validation_cycle)
            self.log("end", 2.0)

    class Logging(Bare):
        def on_validation_end(self) -> None:
            self.trainer.model.log("by a plug-in", 3.0)

    logs = Logs()
    trainer = make_trainer(
        total_steps=2, print_frequency=4, valid_frequency=1, plugins=[logs, Logging()]
    )
    trainer.fit(Both(), TinyDataModule())
    validation = {"begin": 1.0, "x": 100.0, "by a plug-in": 3.0, "end": 2.0}
    logged = [(batch, {n: v for n, v in m.items() if n != "loss"}) for _, batch, m in logs.calls]
    assert logged == [
        (4, {"x": 2.5}),
        (6, validation),
        (8, {"x": 6.5}),
        (12, {"x": 10.5}),
        (12, validation),
    ]


def test_logging_in_a_test(make_trainer: Make) -> None:
    logs, model = Logs(), TinyModel()
    make_trainer(plugins=[logs]).test(model, TinyDataModule())
    assert [list(metrics) for _, _, metrics in logs.calls] == [["accuracy"]]
    assert model.metrics == logs.calls[0][2]


def test_log_of_more_than_one_number(make_trainer: Make) -> None:
    class Wrong(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.log("scores", torch.zeros(2, 3))

    with pytest.raises(ValueError, match=r"log\('scores'\) .*shape \(2, 3\): log one number"):
        make_trainer(print_frequency=1).fit(Wrong(), TinyDataModule())


def test_second_run_logs_the_same(make_trainer: Make) -> None:
    # what the first run had not handed out yet is not the second one's
    trainer, model = make_trainer(print_frequency=4, total_steps=1), TinyModel()
    runs = []
    for _ in range(2):
        logs = Logs()
        trainer.plugins = {"logs": logs}
        trainer.fit(model, TinyDataModule())
        runs.append(logs.calls)
    assert runs[0] == runs[1]


def test_failed_validation_leaves_nothing_to_log(make_trainer: Make) -> None:
    class Once(TinyModel):
        fails = True

        def valid_step(self, batch: Any, step: int) -> Any:
            self.log("x", 100.0 if self.fails else 1.0)
            if self.fails:
                raise UserError

    trainer, model = make_trainer(total_steps=1, valid_frequency=1), Once()
    with pytest.raises(UserError):
        trainer.fit(model, TinyDataModule())
    model.fails = False
    trainer.fit(model, TinyDataModule())
    assert model.metrics == {"x": 1.0}


# Reading from the device.


class ScalarReads(TorchDispatchMode):
    """Notes where PyTorch reads the value of a tensor: item(), float(), bool(), in any guise."""

    def __init__(self, reads: list[str]) -> None:
        super().__init__()
        self._reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self._reads.append("scalar")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def counting_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Count what would wait for a GPU."""
    reads: list[str] = []
    with monkeypatch.context() as patch, ScalarReads(reads):
        for name in ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__"):
            real = getattr(torch.Tensor, name)

            def read(self: torch.Tensor, *args: Any, name: str = name, real: Any = real) -> Any:
                reads.append(name)
                return real(self, *args)

            patch.setattr(torch.Tensor, name, read)
        yield reads


class Reads(Bare):
    """Notes how many reads there have been by the end of each batch."""

    def __init__(self, reads: list[str]) -> None:
        super().__init__("reads")
        self._reads = reads
        self.at: list[int] = []

    def on_training_batch_start(self) -> None:
        self.at.append(len(self._reads))


def test_the_counter_of_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with counting_reads(monkeypatch) as reads:
        value = torch.tensor(1.0)
        value.item(), value.tolist(), float(value), bool(value), int(value), value.cpu()
    assert set(reads) == {"item", "tolist", "__float__", "__bool__", "__int__", "cpu", "scalar"}


def test_the_counter_of_reads_sees_a_model_that_reads(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counting_reads(monkeypatch) as reads:
        make_trainer(total_steps=1).fit(Recording(), TinyDataModule(shuffle=False))
    assert reads.count("item") == 6 + 1  # each step, and the loader: its seed, on the CPU


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize(
    "clipping", [{}, {"clip_norm": 1.0, "clip_value": 1.0}], ids=["plain", "clipped"]
)
def test_no_step_reads_from_the_device(
    make_trainer: Make,
    monkeypatch: pytest.MonkeyPatch,
    accumulation: int,
    clipping: dict[str, float],
) -> None:
    class Quiet(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            features, labels = batch
            loss = nn.functional.cross_entropy(self.net(features), labels)
            self.log("loss", loss)
            self._loss_items["loss"] = loss
            if self.optimize(loss, self.optimizer, **clipping):
                self.scheduler.step()
            return loss

    with counting_reads(monkeypatch) as reads:
        counter = Reads(reads)
        trainer = make_trainer(
            train_unit="iteration",
            total_steps=18 // accumulation,
            print_frequency=12 // accumulation,
            accumulation_steps=accumulation,
            plugins=[counter, Logs()],
        )
        # batches 1 to 6 are one epoch; fetching an epoch's order is not a step
        trainer.fit(Quiet(), TinyDataModule(shuffle=False))
    between = [after - before for before, after in zip(counter.at, counter.at[1:], strict=False)]
    steps_alone = [between[i] for i in range(17) if (i + 1) % 6]  # the others begin an epoch
    assert steps_alone == [0] * 15
    assert between[11] >= 1  # the cadence, at the end of the second epoch


# Nobody calls what nobody implements.


def test_hooks_that_nobody_implements_are_none(make_trainer: Make) -> None:
    class Two(Bare):
        def on_training_batch_end(self) -> None: ...

        def on_log(self) -> None: ...

    trainer = make_trainer(total_steps=1, plugins=[Two(), *(Bare(str(n)) for n in range(3))])
    trainer.fit(TinyModel(), TinyDataModule())
    bound = {name for name in HOOKS if getattr(trainer.hooks, name) is not None}
    assert bound == {"setup", "on_training_batch_end", "on_log"}


def test_no_hook_is_called_in_vain(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    trainer = make_trainer(total_steps=1, plugins=[Bare()])
    real = trainer.plugin_manager._inner_hookexec

    def execute(name: str, *arguments: Any) -> Any:
        called.append(name)
        return real(name, *arguments)

    monkeypatch.setattr(trainer.plugin_manager, "_inner_hookexec", execute)
    trainer.fit(TinyModel(), TinyDataModule())
    per_step = [name for name in called if "batch" in name or "step" in name or "epoch" in name]
    assert per_step == []


# More than one run.


def test_second_fit_begins_anew(make_trainer: Make) -> None:
    trainer, model = make_trainer(total_steps=1, valid_frequency=1, print_frequency=2), TinyModel()
    first = trainer.fit(model, TinyDataModule())
    weights = model.state_dict()["net"]["0.weight"].clone()
    second = trainer.fit(model, TinyDataModule())
    assert first is not second
    assert second is trainer.state
    assert second.global_iteration == 6
    assert torch.equal(model.state_dict()["net"]["0.weight"], weights)


def test_second_fit_forgets_the_stop(make_trainer: Make) -> None:
    stop = StopAfter(3)
    trainer = make_trainer(total_steps=1, plugins=[stop])
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 3
    stop._batches = None
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 6
    assert trainer.stop_requests == []


@pytest.mark.parametrize("stop_after", [2, 6])
def test_fit_after_a_stop_inside_a_window(make_trainer: Make, stop_after: int) -> None:
    class Failing(TinyModel):
        fails = True

        def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
            if self.fails and state.global_iteration == stop_after:
                raise UserError

    trainer, model = make_trainer(total_steps=1, accumulation_steps=4), Failing()
    with pytest.raises(UserError):
        trainer.fit(model, TinyDataModule())
    model.fails = False
    trainer.fit(model, TinyDataModule())
    other = TinyModel()
    make_trainer(total_steps=1, accumulation_steps=4).fit(other, TinyDataModule())
    assert equal(model.state_dict(), other.state_dict())


# Testing.


def test_test_after_fit_keeps_the_weights(make_trainer: Make) -> None:
    model = TinyModel()
    trainer = make_trainer()
    trainer.fit(model, TinyDataModule())
    trained = {name: value.clone() for name, value in model.net.state_dict().items()}
    trainer.test(model, TinyDataModule())
    assert equal(dict(model.net.state_dict()), trained)
    assert not model.net.training


def test_plugins_are_asked_for_their_state_while_they_are_set_up(make_trainer: Make) -> None:
    class Releasing(Bare):
        def setup(self) -> None:
            self._counts = [0]

        def on_training_batch_end(self) -> None:
            self._counts[0] += 1

        def on_testing_start(self) -> None:
            self.at_the_test = self._counts[0]

        def state_dict(self) -> dict[str, Any]:
            return {"count": self._counts[0]}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._counts[0] = state_dict["count"]

        def teardown(self) -> None:
            del self._counts

    plugin, model = Releasing(), TinyModel()
    trainer = make_trainer(total_steps=1, plugins=[plugin])
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert plugin.at_the_test == 6


def test_test_of_another_model_loads_its_own_weights(make_trainer: Make) -> None:
    class Loading(TinyModel):
        loaded = 0

        def load_for_testing(self) -> None:
            self.loaded += 1
            nn.init.ones_(self.net[0].weight)

    trainer = make_trainer(total_steps=1)
    trainer.fit(TinyModel(), TinyDataModule())
    model = Loading()
    trainer.test(model, TinyDataModule())
    assert model.loaded == 1
    assert torch.equal(model.net[0].weight, torch.ones(8, 4))


def test_test_of_a_checkpoint(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Loading(TinyModel):
        def load_for_testing(self) -> None:
            raise AssertionError("there is a checkpoint")

    trained = TinyModel()
    make_trainer(chkpt_root=tmp_path, valid_frequency=1).fit(trained, TinyDataModule())
    trainer, model = make_trainer(chkpt_root=tmp_path), Loading()
    trainer.test(model, TinyDataModule())
    assert equal(dict(model.net.state_dict()), dict(trained.net.state_dict()))
    assert trainer.state.global_epoch == 2


def test_test_with_fast_init(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Fast(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup()
            if fast_init:
                del self.optimizer, self.scheduler

    model = Fast()
    trainer = make_trainer(chkpt_root=tmp_path)
    trainer.fit(model, TinyDataModule())
    trained = {name: value.clone() for name, value in model.net.state_dict().items()}
    trainer.test(model, TinyDataModule())
    assert equal(dict(model.net.state_dict()), trained)


def test_test_without_a_test_set(make_trainer: Make) -> None:
    calls: list[str] = []

    class Telling(Bare):
        def on_testing_start(self) -> None:
            calls.append("start")

        def teardown(self) -> None:
            calls.append("teardown")

    trainer = make_trainer(plugins=[Telling()])
    trainer.test(TinyModel(), TinyDataModule(valid_size=0))
    assert calls == ["teardown"]


def test_no_validation_set(make_trainer: Make) -> None:
    calls: list[str] = []

    class Asked(TinyModel):
        def eval(self) -> None:
            calls.append("eval")

        def on_validation_start(self, validation_cycle: int) -> None:
            calls.append("start")

        def have_metrics_improved(self) -> bool:
            calls.append("improved?")
            return True

    trainer = make_trainer(total_steps=2, valid_frequency=1)
    state = trainer.fit(Asked(), TinyDataModule(valid_size=0))
    assert calls == ["improved?", "improved?"]
    assert state.validation_cycles == 2


def test_metrics_are_there_when_improvement_is_asked_for(make_trainer: Make) -> None:
    seen: list[dict[str, Any]] = []

    class Asked(TinyModel):
        def on_validation_end(self, validation_cycle: int) -> None:
            self.metrics["own"] = validation_cycle

        def have_metrics_improved(self) -> bool:
            seen.append(dict(self.metrics))
            return True

    make_trainer(total_steps=2, valid_frequency=1).fit(Asked(), TinyDataModule())
    assert [metrics["own"] for metrics in seen] == [0, 1]
    assert all(set(metrics) == {"own", "accuracy"} for metrics in seen)


def test_modes(make_trainer: Make) -> None:
    modes: list[tuple[str, bool, bool]] = []

    class Modes(TinyModel):
        def _note(self, where: str) -> None:
            modes.append((where, self.net.training, torch.is_grad_enabled()))

        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self._note("train")
            return super().train_step(batch, state)

        def valid_step(self, batch: Any, step: int) -> Any:
            self._note("valid")

        def test_step(self, batch: Any, step: int) -> Any:
            self._note("test")

    trainer, model = make_trainer(total_steps=2, valid_frequency=1), Modes()
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert set(modes) == {("train", True, True), ("valid", False, False), ("test", False, False)}


# The course of a run.


def test_seed_reaches_everything(make_trainer: Make) -> None:
    def train(**arguments: Any) -> Any:
        model = TinyModel()
        make_trainer(total_steps=1, **arguments).fit(model, TinyDataModule())
        return model.state_dict()

    assert equal(train(), train(random_seed=6691))
    assert equal(train(random_seed=0), train(random_seed=0))
    assert not equal(train(random_seed=0), train(random_seed=1))


def test_seed_zero_is_a_seed(make_trainer: Make) -> None:
    class Order(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.order: list[float] = []

        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.order.append(batch[0][0, 0].item())

    models = {seed: Order() for seed in (0, 6691)}
    for seed, model in models.items():
        make_trainer(total_steps=1, random_seed=seed).fit(model, TinyDataModule())
    assert models[0].order != models[6691].order


def test_facts_of_the_run(make_trainer: Make) -> None:
    class Facts(Bare):
        seen: Any = None

        def setup(self) -> None:
            self.seen = (self.is_distributed, self.rank, self.device, self.map_loc, self.trainer)

    facts, model, data = Facts(), TinyModel(), TinyDataModule()
    trainer = make_trainer(total_steps=1, plugins=[facts])
    trainer.fit(model, data)
    assert facts.seen == (False, 0, torch.device("cpu"), "cpu", trainer)
    assert (model.device, model.rank, model.trainer) == (torch.device("cpu"), 0, trainer)
    assert data.trainer is trainer


def test_header(
    make_trainer: Make, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bannered(TinyModel):
        def append_to_banner(self, banner: str) -> str:
            return banner + "\nthe model's own line"

    trainer = make_trainer(total_steps=1, print_banner=True, run_root=tmp_path, plugins=[Bare()])
    trainer.fit(Bannered(), TinyDataModule())
    shown = capsys.readouterr().out
    assert "1 active plug-in " in shown
    assert "1  bare" in shown
    assert "the model's own line" in shown
    assert shown.strip() in (tmp_path / "helios.log").read_text()
    trainer.print_banner = False
    trainer.fit(Bannered(), TinyDataModule())
    assert capsys.readouterr().out == ""


def test_log_file_of_a_resumed_run_goes_on(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    for steps in (1, 2):
        trainer = make_trainer(total_steps=steps, run_root=tmp_path, run_name="mine")
        trainer.fit(TinyModel(), TinyDataModule())
    log = (tmp_path / "mine.log").read_text()
    assert log.count(" saved ") == 2
    assert log.count(" restored ") == 1


def test_many_processes_are_refused(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"WORLD_SIZE=2.* one process"):
        make_trainer().fit(TinyModel(), TinyDataModule())


def test_launcher_does_the_work_elsewhere(make_trainer: Make) -> None:
    events: list[str] = []

    class Launching(Bare):
        def launch(self, trainer: Trainer, target: Callable[[], Any]) -> Any:
            events.append("before")
            result = target()
            events.append(f"after {result.global_iteration}")
            return result

        def setup(self) -> None:
            events.append("setup")

    trainer = make_trainer(total_steps=1, plugins=[Launching()])
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 6
    assert events == ["before", "setup", "after 6"]


def test_step_contexts_are_left_in_reverse_when_one_cannot_be_entered(make_trainer: Make) -> None:
    events: list[str] = []

    class Around(Bare):
        def __init__(self, plug_id: str, fails: bool = False) -> None:
            super().__init__(plug_id)
            self._fails = fails

        @contextlib.contextmanager
        def _around(self) -> Iterator[None]:
            if self._fails:
                raise OSError("cannot be entered")
            events.append(f"enter {self.plug_id}")
            try:
                yield
            finally:
                events.append(f"leave {self.plug_id}")

        def step_context(self, phase: str) -> Any:
            return self._around()

    plugins = [Around("a"), Around("b"), Around("c", fails=True)]
    with pytest.raises(OSError, match="cannot be entered"):
        make_trainer(plugins=plugins).fit(TinyModel(), TinyDataModule())
    assert events == ["enter a", "enter b", "leave b", "leave a"]


def test_registries_are_filled_when_a_run_starts(
    make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "scanned_by_a_run"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(
        "from helios.model import MODEL_REGISTRY\n"
        "from helios.testing import TinyModel\n"
        "\n"
        "@MODEL_REGISTRY.register\n"
        "class FoundByARun(TinyModel): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from helios.model import MODEL_REGISTRY, create_model

    assert "FoundByARun" not in MODEL_REGISTRY
    make_trainer(total_steps=1, src_root=package).fit(TinyModel(), TinyDataModule())
    assert type(create_model("FoundByARun")).__name__ == "FoundByARun"


def test_terminal_tells_from_where_a_run_goes_on_and_why_it_stops(
    make_trainer: Callable[..., Trainer],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = {"chkpt_root": tmp_path, "print_banner": True, "autoload": False}
    make_trainer(plugins=[StopAfter(2)], **arguments).fit(TinyModel(), TinyDataModule())
    printed = capsys.readouterr().out
    assert "restored" not in printed
    assert printed.endswith("stopped: enough for this test (asked for by StopAfter)\n")
    make_trainer(**arguments).fit(TinyModel(), TinyDataModule())
    file = tmp_path / "tiny" / "tiny_epoch_0_iter_2.pth"
    printed = capsys.readouterr().out
    assert f"restored {file}: epoch 0, iteration 2\n" in printed
    assert "stopped" not in printed
