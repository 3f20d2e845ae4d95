"""The effects of the plug-ins that guard, schedule, save and write."""

import json
import math
from typing import Any

import torch
from helpers import Make, files
from plugins_of_authors.best_checkpoint import BestCheckpointPlugin
from plugins_of_authors.lora import LoraPlugin
from plugins_of_authors.nan_guard import NanGuardPlugin
from plugins_of_authors.plateau import PlateauPlugin
from plugins_of_authors.prediction_writer import PredictionWriterPlugin
from plugins_of_authors.throughput import ThroughputPlugin
from plugins_of_authors.warm_up import WarmUpPlugin
from variants import Scripted

from helios.testing import TinyDataModule, TinyModel


class Exploding(TinyModel):
    """Has a loss that is not a number from an iteration on, or in one alone."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self._bad = range(first, last + 1)

    def train_step(self, batch: Any, state: Any) -> Any:
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        if state.current_iteration in self._bad:
            loss = loss * math.nan
        self.optimize(loss, self.optimizer)


def test_one_bad_loss_leaves_the_weights_finite(make_trainer: Make) -> None:
    model = Exploding(3, 3)
    trainer = make_trainer(plugins=[NanGuardPlugin()])
    trainer.fit(model, TinyDataModule())
    assert all(bool(each.isfinite().all()) for each in model.net.parameters())
    assert trainer.state.current_iteration == 12
    assert not trainer.stop_requests


def test_many_bad_losses_stop_the_training(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[NanGuardPlugin(patience=2)])
    trainer.fit(Exploding(3, 9), TinyDataModule())
    assert trainer.state.current_iteration == 4
    assert [each.author for each in trainer.stop_requests] == ["nan-guard"]


def test_the_best_validations_are_saved(make_trainer: Make, tmp_path: Any) -> None:
    trainer = make_trainer(
        plugins=[BestCheckpointPlugin()],
        train_unit="iteration",
        total_steps=9,
        valid_frequency=2,
        run_root=tmp_path,
    )
    trainer.fit(Scripted(), TinyDataModule())
    saved = sorted(path.stem for path in files(tmp_path, "**/*.pth"))
    assert saved == [f"tiny_epoch_{e}_iter_{i}" for e, i in [(0, 2), (0, 4), (1, 8), (1, 9)]]


def test_the_rate_falls_when_validations_do_not_improve(make_trainer: Make) -> None:
    model = Scripted()
    make_trainer(plugins=[PlateauPlugin()], total_steps=3, valid_frequency=1).fit(
        model, TinyDataModule()
    )
    (group,) = model.optimizer.param_groups
    assert group["lr"] < 0.01


def test_warm_up_lowers_the_first_steps_alone(make_trainer: Make) -> None:
    rates: list[float] = []

    class Model(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.optimizer.register_step_pre_hook(
                lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
            )

        def train_step(self, batch: Any, state: Any) -> Any:
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.optimize(loss, self.optimizer)

    make_trainer(plugins=[WarmUpPlugin(0.25)]).fit(Model(), TinyDataModule())
    assert [round(rate / 0.05, 3) for rate in rates] == [0.333, 0.667] + [1.0] * 10


def test_adapters_train_alone_and_are_tested(make_trainer: Make, tmp_path: Any) -> None:
    trainer, model = make_trainer(plugins=[LoraPlugin()], run_root=tmp_path), TinyModel()
    trainer.fit(model, TinyDataModule())
    trained = {name for name, each in model.net.named_parameters() if each.requires_grad}
    assert trained == {"0.down", "0.up", "2.down", "2.up"}
    weights = model.net[0].up.detach().clone()
    assert weights.abs().sum() > 0
    tested = TinyModel()
    make_trainer(plugins=[LoraPlugin()], run_root=tmp_path).test(tested, TinyDataModule())
    assert torch.equal(tested.net[0].up, weights)


def test_predictions_of_each_batch_are_written(make_trainer: Make, tmp_path: Any) -> None:
    trainer, model = (
        make_trainer(plugins=[PredictionWriterPlugin()], run_root=tmp_path),
        TinyModel(),
    )
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines] == [3, 3, 2]
    assert [len(line["labels"]) for line in lines] == [3, 3, 2]
    assert all(0 <= line["outputs"] <= 1 for line in lines)


def test_throughput_is_logged_with_training(make_trainer: Make) -> None:
    seen: list[set[str]] = []

    class Logger(ThroughputPlugin):
        def on_log(self, metrics: dict[str, float], phase: str) -> None:
            super().on_log(metrics, phase)
            seen.append(set(metrics))

    trainer = make_trainer(plugins=[Logger()], total_steps=1, valid_frequency=1)
    trainer.fit(TinyModel(), TinyDataModule())
    assert seen == [{"accuracy"}, {"loss", "samples/second"}]
