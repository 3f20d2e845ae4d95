"""Ranks stop at the same step, save once, and count each sample once, whoever asks for what."""

import os
import pathlib
import signal
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from torch import nn
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Plugin, Trainer, TrainingState
from helios.errors import RanksDifferError
from helios.testing import TinyDataModule, TinyModel

ARGUMENTS = {"train_unit": "iteration", "use_cpu": True, "print_banner": False}


class Asks(Plugin):
    """Asks for something in one rank at one step."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__("asks")
        self.what, self.step = what, step
        self.saved: list[str] = []
        self.validated: list[int] = []

    def setup(self) -> None: ...

    def configure_trainer(self, trainer: Trainer) -> None:
        trainer.interruptible = self.what == "signal in validation"

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        if self.global_rank == 1 and state.current_iteration == self.step:
            if self.what == "stop":
                self.trainer.request_stop("enough")
            elif self.what == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            elif self.what == "validation":
                self.trainer.request_validation("curious")

    def on_validation_batch_end(self, outputs: Any, step: int) -> None:
        is_now = self.trainer.state.current_iteration == self.step
        if self.what == "signal in validation" and self.global_rank == 1 and is_now and step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_end(self, validation_cycle: int) -> None:
        self.validated.append(self.trainer.state.current_iteration)

    def on_checkpoint_saved(self, path: pathlib.Path) -> None:
        self.saved.append(path.name)


class Verdicts(TinyModel):
    """Wants to stop in one rank only."""

    def should_training_stop(self) -> bool:
        return self.global_rank == 1 and self.trainer.state.current_iteration >= 5


def ask(folder: str, what: str, steps: list[int], total: int) -> list[Any]:
    stories = []
    for step in steps:
        asks = Asks(what, step)
        model = Verdicts() if what == "verdict" else TinyModel()
        trainer = Trainer(
            total_steps=total,
            valid_frequency=None if what == "validation" else 5,
            run_root=f"{folder}/{what}-{step}",
            plugins=[asks],
            **ARGUMENTS,  # type: ignore[arg-type]  # a dictionary of several types
        )
        code = None
        try:
            trainer.fit(model, TinyDataModule(64, 4, valid_size=40))
        except SystemExit as error:
            code = error.code
        state = trainer.state
        requests = [(each.reason, each.author) for each in trainer.stop_requests]
        stories.append((state.current_iteration, asks.saved, asks.validated, requests, code))
    return stories


@pytest.mark.parametrize(
    "steps", [[1, 6, 11], pytest.param([*range(1, 41, 2)], marks=pytest.mark.long)]
)
def test_stop_of_one_rank_ends_all_at_one_step(
    ranks: StartRanks, tmp_path: pathlib.Path, steps: list[int]
) -> None:
    first, second = ranks(2, ask, str(tmp_path), "stop", steps, 400)
    assert first.result == second.result
    for step, (stopped, saved, _, requests, code) in zip(steps, first.result, strict=True):
        assert step <= stopped < 400
        assert len(saved) == 1
        assert requests == [("enough", "asks")]
        assert code is None


def test_signal_verdict_and_request_of_one_rank(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    first, second = ranks(2, several, str(tmp_path))
    assert first.result == second.result
    signalled, in_validation, verdict, asked = first.result
    assert len(signalled[1]) == len(in_validation[1]) == len(verdict[1]) == 1
    assert signalled[4] == in_validation[4] == 143
    assert in_validation[0] == 5
    assert in_validation[2] == []  # a resumed run repeats the validation
    assert verdict[3] == [("should_training_stop", "the model")]
    assert len(asked[2]) == 1
    assert asked[2][0] >= 3


def several(folder: str) -> list[Any]:
    return [
        ask(folder, what, [step], total)[0]
        for what, step, total in [
            ("signal", 7, 400),
            ("signal in validation", 5, 400),
            ("verdict", 5, 400),
            ("validation", 3, 40),
        ]
    ]


# Ranks that differ.


class Drifting(TinyModel):
    """Changes a weight in one rank only."""

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        loss = super().train_step(batch, state)
        if self.global_rank == 1 and state.current_iteration == 3:
            with torch.no_grad():
                self.net[2].bias.add_(1)
        return loss


class Judging(TinyModel):
    """Finds its metrics better in one rank only."""

    def have_metrics_improved(self) -> bool:
        return self.global_rank == 1


def drift(folder: str, virtual_ranks: int | None) -> str:
    trainer = Trainer(
        total_steps=4,
        run_root=f"{folder}/drifting",
        virtual_ranks=virtual_ranks,
        **ARGUMENTS,  # type: ignore[arg-type]  # a dictionary of several types
    )
    try:
        trainer.fit(Drifting(), TinyDataModule())
    except RanksDifferError as error:
        return str(error)
    return ""


def differ(folder: str) -> list[Any]:
    message, virtual = drift(folder, None), drift(folder, 2)
    judged = Trainer(
        total_steps=100,
        valid_frequency=2,
        early_stop_cycles=3,
        **ARGUMENTS,  # type: ignore[arg-type]  # a dictionary of several types
    )
    judged.fit(Judging(), TinyDataModule())
    timed = Trainer(
        total_steps=10**9,
        max_time=0.3,
        **ARGUMENTS,  # type: ignore[arg-type]  # a dictionary of several types
    )
    timed.fit(TinyModel(), TinyDataModule())
    return [message, virtual, judged.state.current_iteration, timed.state.current_iteration]


def test_ranks_that_differ(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    first, second = ranks(2, differ, str(tmp_path))
    assert first.result == second.result
    message, virtual, judged, _ = first.result
    assert virtual == message
    assert "Drifting.net.2.bias has other values in rank 1 than in rank 0" in message
    assert "self.optimize(loss, optimizer)" in message
    assert not list(tmp_path.rglob("*.pth"))
    assert judged == 6  # rank 0 judges: three validations without improvement


# Samples and metrics.


class Seen(Model):
    """Logs what it sees: sums over samples, and a name that one rank alone logs."""

    def __init__(self) -> None:
        super().__init__("seen")
        self._numbers: list[int] = []

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.0)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.log("trained", batch[0].mean())
        self.optimize(self.net(batch[0]).sum(), self.optimizer)

    def valid_step(self, batch: Any, step: int) -> None:
        self.net(batch[0])
        self._numbers += batch[0].reshape(-1).int().tolist()
        self.log("mean", batch[0].mean())
        if self.global_rank == self.world_size - 1:
            self.log("alone", batch[0].max())

    def test_step(self, batch: Any, step: int) -> None:
        self.valid_step(batch, step)


class Ten(DataModule):
    def setup(self) -> None:
        data = TensorDataset(torch.arange(10.0).reshape(-1, 1))
        self._train_dataset = self._create_dataset(data, {"batch_size": 5})
        self._valid_dataset = self._create_dataset(data, {"batch_size": 2})
        self._test_dataset = self._create_dataset(data, {"batch_size": 1})


def evaluate() -> Any:
    model, trainer = (
        Seen(),
        Trainer(
            total_steps=4,
            valid_frequency=4,
            **ARGUMENTS,  # type: ignore[arg-type]  # a dictionary of several types
        ),
    )
    trainer.fit(model, Ten())
    validated, model._numbers = model._numbers, []
    valid_metrics = dict(model.metrics)
    trainer.test(model, Ten())
    return validated, valid_metrics, model._numbers, dict(model.metrics)


def test_each_sample_counts_once(ranks: StartRanks) -> None:
    results = [rank.result for rank in ranks(4, evaluate)]
    for seen, metrics, alone in ((0, 1, 7.0), (2, 3, 5.0)):
        assert sorted(n for result in results for n in result[seen]) == [*range(10)]
        assert all(result[metrics] == results[0][metrics] for result in results)
        assert results[0][metrics]["mean"] == pytest.approx(4.5)
        assert results[0][metrics]["alone"] == alone
