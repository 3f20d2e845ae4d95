"""What models log: when loggers are called, and with which metrics."""

import pathlib
from typing import Any

import pytest
import torch
from helpers import Logs, Make, Named, Recording, UserError

from helios import TrainingState
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel


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
    frequency = arguments.get("print_frequency")
    last = len(model.losses)  # what is left then is handed out at the end
    ends = sorted({*(batches if frequency else range(6, last, 6)), last})
    assert [batch for _, batch in logs.at] == ends
    sizes = [4, 4, 4, 4, 4, 2] * 3
    for begin, end, (_, _, metrics) in zip([0, *ends], ends, logs.calls, strict=False):
        losses = zip(model.losses[begin:end], sizes[begin:end], strict=True)
        mean = sum(loss * size for loss, size in losses) / sum(sizes[begin:end])
        assert metrics == {"loss": pytest.approx(mean)}  # of all samples since the last call


class Reading(TinyModel):
    """Reads before each batch what the session still keeps."""

    def on_training_batch_start(self, state: TrainingState) -> None:
        super().on_training_batch_start(state)
        self.training_log = self.session.training_log.state_dict()
        self.evaluation_log = self.session.evaluation_log.state_dict()


def test_nothing_is_kept_if_nobody_listens(make_trainer: Make) -> None:
    model = Reading()
    make_trainer(total_steps=2).fit(model, TinyDataModule())
    assert model.training_log == {"totals": {}, "weights": {}}
    assert model.evaluation_log == {"totals": {}, "weights": {}}


def test_what_is_kept_does_not_grow(make_trainer: Make) -> None:
    model = Reading()
    make_trainer(total_steps=3, print_frequency=1000).fit(model, TinyDataModule())
    kept = model.training_log
    assert kept["weights"] == {"loss": 3 * 22 - 2}
    assert kept["totals"]["loss"].shape == ()
    assert not kept["totals"]["loss"].requires_grad


def test_validation_is_logged_whatever_the_frequency(make_trainer: Make) -> None:
    logs = Logs()
    model = TinyModel()
    make_trainer(total_steps=2, valid_frequency=1, plugins=[logs]).fit(model, TinyDataModule())
    assert logs.at == [(6, 6), (6, 6), (12, 12), (12, 12)]
    metrics = [metrics for _, _, metrics in logs.calls]
    assert [list(each) for each in metrics] == [["accuracy"], ["loss"]] * 2
    assert model.metrics == metrics[2]


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

    class Logging(Named):
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
        (8, {"x": pytest.approx((4 * 5 + 2 * 6 + 4 * 7 + 4 * 8) / 14)}),
        (12, {"x": pytest.approx((4 * 9 + 4 * 10 + 4 * 11 + 2 * 12) / 14)}),
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


class Ends(TinyModel):
    """Logs in each step, and at the ends of epochs and of training."""

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        self.log("step", float(state.global_iteration), weight=1)
        loss = self.net(batch[0]).square().mean()
        self.optimize(loss, self.optimizer)

    def on_training_start(self) -> None:
        self.log("start", 1.0)

    def on_training_epoch_end(self, current_epoch: int) -> None:
        self.log("epoch", float(current_epoch))

    def on_training_end(self) -> None:
        self.log("end", 1.0)


@pytest.mark.parametrize(
    ("frequency", "logged"),
    [
        (
            4,
            [
                (4, 0, {"start": 1.0, "step": 2.5}),
                (6, 0, {"epoch": 0.0}),
                (8, 1, {"step": 6.5}),
                (10, 1, {"step": 9.5}),
                (10, 1, {"end": 1.0}),
            ],
        ),
        (
            100,
            [
                (6, 0, {"epoch": 0.0}),
                (10, 1, {"start": 1.0, "step": 5.5}),
                (10, 1, {"end": 1.0}),
            ],
        ),
        (
            None,
            [
                (6, 0, {"start": 1.0, "step": 3.5, "epoch": 0.0}),
                (10, 1, {"step": 8.5}),
                (10, 1, {"end": 1.0}),
            ],
        ),
    ],
)
def test_nothing_is_lost(make_trainer: Make, frequency: int | None, logged: list[Any]) -> None:
    class Epochs(Logs):
        def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
            received.append((state.current_iteration, state.global_epoch, metrics))

    received: list[Any] = []
    make_trainer(
        train_unit="iteration", total_steps=10, print_frequency=frequency, plugins=[Epochs()]
    ).fit(Ends(), TinyDataModule())
    assert received == logged


@pytest.mark.parametrize("frequency", [4, 100, None])
@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize("stop", [3, 6, 8, 10])
def test_stopped_run_and_shorter_run_log_what_the_whole_run_does(
    make_trainer: Make, tmp_path: pathlib.Path, frequency: int | None, unit: str, stop: int
) -> None:
    def fit(folder: str, total: int, *plugins: Any) -> str:
        root = tmp_path / folder
        make_trainer(
            train_unit=unit,
            total_steps=total,
            valid_frequency=1 if unit == "epoch" else 5,
            print_frequency=frequency,
            chkpt_root=root,
            run_root=root,
            plugins=[MetricsFilePlugin(), *plugins],
        ).fit(Ends(), TinyDataModule())
        path = root / "metrics.jsonl"
        return path.read_text() if path.exists() else ""

    total, shorter = (3, (stop + 5) // 6) if unit == "epoch" else (15, stop)
    whole = fit("whole", total)
    assert '"end"' in whole.splitlines()[-1]
    assert whole.startswith(fit("stopped", total, StopAfter(stop)))
    assert fit("stopped", total) == whole
    assert fit("stopped", total) == whole  # a complete run writes its last lines again
    assert '"end"' in fit("shorter", shorter).splitlines()[-1]
    assert fit("shorter", total) == whole


def test_stop_without_checkpoints_hands_out_the_rest(make_trainer: Make) -> None:
    logs = Logs()
    make_trainer(total_steps=3, print_frequency=4, plugins=[logs, StopAfter(6)]).fit(
        TinyModel(), TinyDataModule()
    )
    assert [batch for _, batch in logs.at] == [4, 6]


def test_results_are_known_when_an_evaluation_ends(make_trainer: Make) -> None:
    class Scored(TinyModel):
        def on_validation_end(self, validation_cycle: int) -> None:
            super().on_validation_end(validation_cycle)
            seen.append(("model", dict(self.metrics)))
            self.log("score", validation_cycle + 0.5)
            self.metrics["accuracy"] = -1.0

        def on_testing_end(self) -> None:
            seen.append(("test", dict(self.metrics)))

        def have_metrics_improved(self) -> bool:
            seen.append(("verdict", dict(self.metrics)))
            return True

    class Looking(Logs):
        def on_validation_end(self) -> None:
            seen.append(("plug-in", dict(self.trainer.model.metrics)))

    seen: list[tuple[str, dict[str, float]]] = []
    logs = Looking()
    trainer = make_trainer(total_steps=2, valid_frequency=1, plugins=[logs])
    model = Scored()
    trainer.fit(model, TinyDataModule())
    validations = [metrics for _, _, metrics in logs.calls if "score" in metrics]
    assert [list(metrics) for metrics in validations] == [["accuracy", "score"]] * 2
    first, second = ({"accuracy": metrics["accuracy"]} for metrics in validations)
    assert seen == [
        ("plug-in", first),
        ("model", first),
        ("verdict", {"accuracy": -1.0, "score": 0.5}),
        ("plug-in", {**second, "score": 0.5}),
        ("model", {**second, "score": 0.5}),
        ("verdict", {"accuracy": -1.0, "score": 1.5}),
    ]
    seen.clear()
    trainer.test(model, TinyDataModule())
    assert seen[0][0] == "test"
    assert seen[0][1]["accuracy"] == logs.calls[-1][2]["accuracy"]
