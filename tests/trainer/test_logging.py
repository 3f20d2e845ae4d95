"""What models log: when loggers are called, and with which metrics."""

from typing import Any

import pytest
import torch
from helpers import Logs, Make, Named, Recording, UserError

from helios import TrainingState
from helios.testing import TinyDataModule, TinyModel


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


class Reading(TinyModel):
    """Reads at the end of training what the session still keeps."""

    def on_training_end(self) -> None:
        self.training_log = self.session.training_log.state_dict()
        self.evaluation_log = self.session.evaluation_log.state_dict()


def test_nothing_is_kept_without_a_frequency(make_trainer: Make) -> None:
    model = Reading()
    make_trainer(total_steps=2).fit(model, TinyDataModule())
    assert model.training_log == {"totals": {}, "counts": {}}
    assert model.evaluation_log == {"totals": {}, "counts": {}}


def test_what_is_kept_does_not_grow(make_trainer: Make) -> None:
    model = Reading()
    make_trainer(total_steps=3, print_frequency=1000).fit(model, TinyDataModule())
    kept = model.training_log
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
