"""The summary of a model, and the speed of training."""

import logging
import types
from typing import Any

import pytest
import torch
from helpers import Logs, Make
from torch import nn

from helios import Trainer
from helios.errors import ConfigurationError
from helios.plugins.builtin import throughput
from helios.plugins.builtin.summary import SummaryPlugin
from helios.plugins.builtin.throughput import ThroughputPlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, check_conformance


class Several(TinyModel):
    """Has a frozen layer, a shared layer, a lazy layer, buffers, and weights in 16 bits."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.net[0].requires_grad_(False)
        self.head = nn.Sequential(self.net[2], nn.BatchNorm1d(2, dtype=torch.bfloat16))
        self.lazy = nn.LazyLinear(3)


TABLE = """\
Several 'tiny'
  network  class        parameters  trained  memory
  net      Sequential           58       18   232 B
    0      Linear               40        0   160 B
    1      Dropout               0        0     0 B
    2      Linear               18       18    72 B
  head     Sequential           22       22    96 B
    0      Linear               18       18    72 B
    1      BatchNorm1d           4        4    24 B
  lazy     LazyLinear            0        0     0 B
  total                         62       22   256 B
  (some layers are lazy: they get their parameters with the first batch)"""


def test_the_summary_is_below_the_header(
    make_trainer: Make, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "helios")
    for prints in (True, False):
        trainer = make_trainer(plugins=[SummaryPlugin()], total_steps=1, print_banner=prints)
        trainer.fit(Several(), TinyDataModule())
        shown = capsys.readouterr().out
        assert (TABLE in shown) is prints
        assert not prints or shown.index("1 active plug-in") < shown.index(TABLE)
    assert [record.message for record in caplog.records].count(TABLE) == 2


def test_the_summary_counts_as_pytorch_does(make_trainer: Make) -> None:
    model = Several()
    make_trainer(total_steps=1).fit(model, TinyDataModule())
    del model.lazy
    *rows, total = [line.split() for line in SummaryPlugin(depth=0).as_text(model).splitlines()[2:]]
    for row, (name, network) in zip(rows, model.networks(), strict=True):
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        size = sum(t.nbytes for t in network.state_dict().values())
        numbers = [str(sum(p.numel() for p in network.parameters())), str(trained), str(size), "B"]
        assert row == [name, type(network).__name__, *numbers]
    assert total == ["total", "62", "22", "256", "B"]
    with pytest.raises(ConfigurationError, match="depth=-1 of summary: write the number of level"):
        SummaryPlugin(depth=-1)


def test_large_numbers_are_readable() -> None:
    model: Any = types.SimpleNamespace(
        networks=lambda: [("net", nn.Linear(3000, 1000, device="meta"))], save_name="large"
    )
    assert "net      Linear   3,001,000  3,001,000  12.0 MB" in SummaryPlugin().as_text(model)


# Throughput.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the clock by one that tests advance."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(throughput, "_now", lambda: clock.now)
    return clock


class Slow(TinyModel):
    """Takes half a second for each training batch, and 10 seconds for each validation batch."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self._clock = clock

    def train_step(self, batch: Any, state: Any) -> Any:
        self._clock.now += 0.5
        return super().train_step(batch, state)

    def valid_step(self, batch: Any, step: int) -> Any:
        self._clock.now += 10
        return super().valid_step(batch, step)


def run(make_trainer: Make, clock: Any, plugin: Any, **arguments: Any) -> tuple[Logs, Trainer]:
    logs = Logs()
    trainer = make_trainer(plugins=[plugin, logs], **arguments)
    trainer.fit(Slow(clock), TinyDataModule())
    return logs, trainer


def reports(logs: Logs) -> list[tuple[int, dict[str, float]]]:
    start = "throughput/"
    found = [
        (step, {k.removeprefix(start): v for k, v in metrics.items() if k.startswith(start)})
        for step, _, metrics in logs.calls
    ]
    return [(step, values) for step, values in found if values]


def test_it_measures_training_without_validations(make_trainer: Make, clock: Any) -> None:
    logs, _ = run(make_trainer, clock, ThroughputPlugin(0), print_frequency=4, valid_frequency=1)
    found = reports(logs)
    assert [step for step, _ in found] == [4, 8, 12]
    # 4 steps of 4 samples with 4 features; then with the last batch of the epoch, of 2 samples
    assert found[0][1]["samples_per_second"] == 8
    assert found[0][1]["tokens_per_second"] == 32
    assert [values["steps_per_second"] for _, values in found] == [2, 2, 2]
    assert [values["samples_per_second"] for _, values in found] == [8, 7, 7]
    # 3 validation batches of 10 seconds after the first epoch: 34 seconds for 8 steps
    assert [values["seconds_left"] for _, values in found] == [4, 17, 0]
    assert all(values["memory_mb"] > 10 for _, values in found)


def test_it_reports_once_an_epoch_and_at_the_end(make_trainer: Make, clock: Any) -> None:
    logs, _ = run(make_trainer, clock, ThroughputPlugin(), accumulation_steps=4)
    assert [(step, values["steps_per_second"]) for step, values in reports(logs)] == [
        (2, pytest.approx(2 / 3)),
        (4, pytest.approx(2 / 3)),
    ]
    assert "tokens_per_second" not in reports(logs)[0][1]
    logs, _ = run(make_trainer, clock, ThroughputPlugin(), train_unit="iteration", total_steps=5)
    assert [step for step, _ in reports(logs)] == [5]


def test_the_time_to_the_end_needs_an_end(make_trainer: Make, clock: Any) -> None:
    logs = Logs()
    trainer = make_trainer(
        plugins=[ThroughputPlugin(lambda batch: batch[0].sum() * 0 + 3), logs, StopAfter(2)],
        train_unit="iteration",
        total_steps=float("inf"),
        print_frequency=1,
    )
    trainer.fit(Slow(clock), TinyDataModule())
    assert "seconds_left" not in reports(logs)[0][1]
    assert reports(logs)[0][1]["tokens_per_second"] == 6


def test_tokens_that_are_not_there_are_refused(make_trainer: Make, clock: Any) -> None:
    plugin = ThroughputPlugin("input_ids")
    plugin.critical = True  # type: ignore[misc]  # an error ends the run
    with pytest.raises(ConfigurationError, match="tokens='input_ids' of throughput names no tens"):
        run(make_trainer, clock, plugin)
    with pytest.raises(ConfigurationError, match=r"tokens=1.5 of throughput: write the key or"):
        ThroughputPlugin(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("create", [SummaryPlugin, ThroughputPlugin])
def test_resumes_exactly(create: Any) -> None:
    check_conformance(create, print_frequency=3)
