"""No training step reads from the device, except to log."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Logs, Make, Named, Recording
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helios import TrainingState
from helios.testing import TinyDataModule, TinyModel

BUILT_IN = ("progress", "metrics-file", "preemption")


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


class Reads(Named):
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


def optuna_plugin(metric_name: str = "loss") -> Any:
    optuna = pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")
    from helios.plugins.optuna import OptunaPlugin

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return OptunaPlugin(optuna.create_study().ask(), metric_name)


@pytest.mark.parametrize("others", [(), (optuna_plugin,)], ids=["built-in", "with optuna"])
def test_built_in_plugins_read_once_at_each_cadence(
    make_trainer: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    others: tuple[Callable[[], Any], ...],
) -> None:
    class Quiet(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> None:
            features, labels = batch
            loss = nn.functional.cross_entropy(self.net(features), labels)
            for name in ("loss", "again", "and again"):
                self.log(name, loss)
            self.optimize(loss, self.optimizer)

    with counting_reads(monkeypatch) as reads:
        counter = Reads(reads)
        trainer = make_trainer(
            train_unit="iteration",
            total_steps=18,
            print_frequency=4,
            run_root=tmp_path,
            plugins=[counter, *BUILT_IN, *(create() for create in others)],
        )
        trainer.fit(Quiet(), TinyDataModule(shuffle=False))
    assert set(BUILT_IN) <= set(trainer.plugins)
    steps, epochs, cadences = 17, 3, 5  # the cadence at 4, 8, 12, 16, and at the end of the run
    assert reads.count("tolist") == cadences
    assert reads.count("scalar") == reads.count("item") == epochs  # the loader's seed, on the CPU
    between = [after - before for before, after in zip(counter.at, counter.at[1:], strict=False)]
    inside = [i for i in range(steps) if (i + 1) % 6]  # the others begin an epoch
    assert {i + 1: between[i] for i in inside if between[i]} == {4: 1, 8: 1, 16: 1}


def test_optuna_plugin_reads_no_more_at_a_validation(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value that it reports is on the host already."""
    found = []
    for plugins in ([], [optuna_plugin("accuracy")]):
        with counting_reads(monkeypatch) as reads:
            counter = Reads(reads)
            trainer = make_trainer(
                train_unit="iteration",
                total_steps=12,
                valid_frequency=4,
                plugins=[counter, *plugins],
            )
            trainer.fit(TinyModel(), TinyDataModule(shuffle=False))
        found.append((list(reads), counter.at))
    assert plugins[0].trial.study.trials[0].intermediate_values.keys() == {0, 1, 2}
    assert found[0] == found[1]
