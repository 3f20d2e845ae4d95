"""Metrics of torchmetrics: updated by the model, computed when loggers are called, and saved."""

import pathlib
from typing import Any

import pytest
import torch
from helpers import Logs, Make

from helios import TrainingState
from helios.errors import ConfigurationError
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel

torchmetrics: Any = pytest.importorskip(
    "torchmetrics", reason="torchmetrics, which the extra 'dev' names, is not installed"
)


class Measured(TinyModel):
    """Logs metrics in several ways."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        classification = torchmetrics.classification
        self.mean = torchmetrics.MeanMetric()
        self.late = torchmetrics.MeanMetric()
        self.several = torchmetrics.MetricCollection(
            {
                "accuracy": classification.MulticlassAccuracy(2),
                "precision": classification.MulticlassPrecision(2),
                "area": classification.MulticlassAUROC(2, thresholds=None),
            }
        )
        self._of_validation = torchmetrics.MeanMetric()

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        loss = super().train_step(batch, state)
        scores = self.net(batch[0]).detach().softmax(dim=1)
        self.mean(loss, weight=len(batch[0]))  # a forward pass, which updates, too
        self.late.update(loss, weight=len(batch[0]))
        self.several.update(scores, batch[1])
        self.log("mean", self.mean)
        self.log("several", self.several)
        return loss

    def on_training_epoch_end(self, current_epoch: int) -> None:
        self.log("late", self.late)

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        accuracy = super().valid_step(batch, step)
        self._of_validation.update(accuracy, weight=len(batch[0]))
        self.log("valid", self._of_validation)
        return accuracy

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        assert self.metrics["valid"] == self._of_validation.compute().item()
        self.metrics["best"] = max(self.metrics["valid"], self.metrics.get("best", 0.0))


@pytest.mark.parametrize("frequency", [1, 4, None])
def test_metrics_are_computed_at_the_cadence_and_reset(
    make_trainer: Make, frequency: int | None
) -> None:
    logs = Logs()
    make_trainer(total_steps=2, valid_frequency=1, print_frequency=frequency, plugins=[logs]).fit(
        Measured(), TinyDataModule()
    )
    training = [metrics for _, _, metrics in logs.calls if "mean" in metrics]
    assert len(training) == {1: 12, 4: 3, None: 2}[frequency]
    for metrics in training:
        assert metrics["mean"] == pytest.approx(metrics["loss"])
        names = ("several/accuracy", "several/precision", "several/area")
        assert all(0 <= metrics[name] <= 1 for name in names)
    assert sum("late" in metrics for _, _, metrics in logs.calls) == 2
    evaluations = [metrics for _, _, metrics in logs.calls if "valid" in metrics]
    assert len(evaluations) == 2
    assert all(each["valid"] == pytest.approx(each["accuracy"]) for each in evaluations)


@pytest.mark.parametrize("frequency", [1, 4, None])
@pytest.mark.parametrize("stop", [1, 3, 6, 9])
def test_resumed_run_computes_the_same(
    make_trainer: Make, tmp_path: pathlib.Path, frequency: int | None, stop: int
) -> None:
    def fit(folder: str, *plugins: Any) -> str:
        root = tmp_path / folder
        make_trainer(
            train_unit="iteration",
            total_steps=13,
            valid_frequency=5,
            print_frequency=frequency,
            chkpt_root=root,
            run_root=root,
            plugins=[MetricsFilePlugin(), *plugins],
        ).fit(Measured(), TinyDataModule())
        path = root / "metrics.jsonl"
        return path.read_text() if path.exists() else ""

    fit("cut", StopAfter(stop))
    assert fit("cut") == fit("whole")


def test_metrics_do_not_grow_if_nobody_listens(make_trainer: Make) -> None:
    class Watched(Measured):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            assert self.late.update_count == self.mean.update_count == 0

    make_trainer(total_steps=2).fit(Watched(), TinyDataModule())


@pytest.mark.parametrize(
    ("log", "error", "text"),
    [
        (
            lambda m: m.log("x", torchmetrics.MeanMetric()),
            ConfigurationError,
            r"log\('x'\) got a MeanMetric that no attribute of Wrong holds",
        ),
        (lambda m: m.log("x", m.one, weight=2), ConfigurationError, "a MeanMetric and a weight"),
        (lambda m: (m.log("x", m.one), m.log("x", 1.0)), ValueError, "a metric and something else"),
        (lambda m: (m.log("x", 1.0), m.log("x", m.one)), ValueError, "a metric and something else"),
        (lambda m: (m.log("x", m.one), m.log("x", m.two)), ValueError, "and something else"),
        (lambda m: m.log("x", m.matrix), ValueError, r"computed a Tensor of shape \(2, 2\)"),
    ],
)
def test_metrics_that_cannot_be_logged(make_trainer: Make, log: Any, error: Any, text: str) -> None:
    class Wrong(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.one, self.two = torchmetrics.MeanMetric(), torchmetrics.MeanMetric()
            self.matrix = torchmetrics.classification.MulticlassConfusionMatrix(2)

        def train_step(self, batch: Any, state: TrainingState) -> Any:
            for metric in (self.one, self.two):
                metric.update(1.0)
            self.matrix.update(batch[1], batch[1])
            log(self)

    with pytest.raises(error, match=text):
        make_trainer(print_frequency=1, plugins=[Logs()]).fit(Wrong(), TinyDataModule())
