"""Metrics of torchmetrics on several ranks: equal to one process, also if a rank has no batch."""

import os
import pathlib
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from torch import nn
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Plugin, Trainer, TrainingState
from helios.model.metric_objects import MetricObjects

torchmetrics: Any = pytest.importorskip(
    "torchmetrics", reason="torchmetrics, which the extra 'dev' names, is not installed"
)

STEPS = 6
TRAIN, VALID, TEST = 24, 9, 3  # samples; of 3, one of four ranks has none


class Measured(Model):
    """Logs metrics whose states are numbers, lists, and shared by a collection."""

    def __init__(self) -> None:
        super().__init__("measured")

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Linear(2, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.0)
        kinds = torchmetrics.classification
        self.of_training: Any = nn.ModuleDict(
            {
                "mean": torchmetrics.MeanMetric(),
                "largest": torchmetrics.MaxMetric(),
                "area": kinds.BinaryAUROC(thresholds=None),
            }
        )
        self.mean = torchmetrics.MeanMetric()
        self.area = kinds.BinaryAUROC(thresholds=None)  # lists, to be joined
        self.retrieval = torchmetrics.retrieval.RetrievalMRR()  # lists without a reduction
        self.correlation = torchmetrics.PearsonCorrCoef()  # numbers without a reduction
        self.several = torchmetrics.MetricCollection(
            [kinds.MulticlassPrecision(3), kinds.MulticlassRecall(3)]
        )
        self.extremes = torchmetrics.MinMaxMetric(kinds.BinaryAccuracy())

    def train_step(self, batch: Any, state: TrainingState) -> None:
        scores, labels = batch[:2]
        self.of_training["mean"].update(scores, labels + 1)
        self.of_training["largest"].update(scores)
        self.of_training["area"].update(scores, labels)
        for name, metric in self.of_training.items():
            self.log(name, metric)
        self.optimize(self.net(scores.new_zeros(len(scores), 2)).sum(), self.optimizer)

    def valid_step(self, batch: Any, step: int) -> None:
        scores, labels, groups, others = batch
        self.mean.update(scores, labels + 1)
        self.area.update(scores, labels)
        self.retrieval.update(scores, labels, groups)
        self.correlation.update(scores, others)
        classes = (scores * 3).long()
        self.several.update(classes, groups)
        self.extremes.update(scores, labels)
        for name in ("mean", "area", "retrieval", "several", "extremes"):
            self.log(name, getattr(self, name))
        if len(scores) > 1:  # torchmetrics computes NaN if each rank has one sample
            self.log("correlation", self.correlation)

    def test_step(self, batch: Any, step: int) -> None:
        self.valid_step(batch, step)


class Data(DataModule):
    def setup(self) -> None:
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        self._train_dataset = self._create_dataset(_samples(TRAIN), {"batch_size": 4 // ranks})
        self._valid_dataset = self._create_dataset(_samples(VALID), {"batch_size": 2})
        self._test_dataset = self._create_dataset(_samples(TEST), {"batch_size": 1})


def _samples(count: int) -> TensorDataset:
    scores, others = torch.rand(2, count, generator=torch.Generator().manual_seed(count))
    labels, groups = torch.arange(count) % 2, torch.arange(count) // 2 % 3
    return TensorDataset(scores, labels, groups, others)


class Logs(Plugin):
    def __init__(self, stop_at: int = STEPS) -> None:
        super().__init__("logs")
        self.stop_at = stop_at
        self.training: list[dict[str, float]] = []

    def setup(self) -> None: ...

    def on_log(self, metrics: dict[str, float], phase: str, state: TrainingState) -> None:
        if phase == "training":
            self.training.append(dict(metrics))

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        if state.current_iteration == self.stop_at:
            self.trainer.request_stop("enough")


def measure(folder: str) -> Any:
    """Return what was logged in training, in the last validation and in a test."""
    model, logs = Measured(), Logs()
    trainer = _trainer(folder, logs)
    trainer.fit(model, Data())
    validated = dict(model.metrics)
    model.metrics.clear()
    trainer.test(model, Data())
    return logs.training, validated, dict(model.metrics)


def _trainer(folder: str, logs: Logs, **arguments: Any) -> Trainer:
    return Trainer(
        total_steps=STEPS,
        train_unit="iteration",
        valid_frequency=STEPS,
        print_frequency=3,
        chkpt_frequency=1,
        chkpt_root=folder,
        use_cpu=True,
        print_banner=False,
        autoload=False,
        stall_timeout=60,
        plugins=[logs],
        **arguments,
    )


def resume(folder: str) -> Any:
    """Resume a run that has saved metrics which nobody has read."""
    logs = Logs()
    _trainer(folder, logs).fit(Measured(), Data(), resume=str(next_to_last(folder)))
    return logs.training


def next_to_last(folder: str) -> pathlib.Path:
    """Return the checkpoint of the fifth step: loggers were called at the third one."""
    [path] = pathlib.Path(folder, "measured").glob("*iter_5*")
    return path


def measure_and_resume(folder: str, saved: str) -> Any:
    return measure(folder), resume(saved)


def test_metrics_equal_those_of_one_process(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    saved = str(tmp_path / "four")
    four = [rank.result for rank in ranks(4, measure_and_resume, saved, saved)]
    (alone,) = ranks(1, measure_and_resume, str(tmp_path / "alone"), saved)
    measured, resumed = alone.result
    assert all(result == four[0] for result in four)
    for expected, found in zip(_parts(measured), _parts(four[0][0]), strict=True):
        assert found == pytest.approx(expected, abs=1e-6)
    for training in (resumed, *(each[1] for each in four)):
        assert training[0] == pytest.approx(measured[0][-1], abs=1e-6)


def _parts(result: Any) -> list[dict[str, float]]:
    training, validated, tested = result
    assert len(training) == 2
    return [*training, validated, tested]


def test_updates_that_cannot_be_added_up_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = Measured()
    model.mean, model.correlation = torchmetrics.MeanMetric(), torchmetrics.PearsonCorrCoef()
    objects = MetricObjects(model)
    model.mean.update(2.0)
    model.correlation.update(torch.rand(3), torch.rand(3))
    objects.add_state_dict(objects.state_dict())
    assert model.mean.update_count == 2
    assert model.mean.compute() == 2.0
    assert model.correlation.update_count == 1
    assert "updates (1) of the PearsonCorrCoef in correlation" in caplog.text
    assert "resume with as many ranks as before to keep them" in caplog.text
