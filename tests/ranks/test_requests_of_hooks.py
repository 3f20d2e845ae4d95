"""Requests that one rank alone makes in a hook act as those of one process."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest
from started_ranks import StartRanks

from helios import Plugin, Trainer, TrainingState
from helios.testing import TinyDataModule, TinyModel

SHORT = (
    ("setup", "request_stop"),
    ("on_validation_end", "request_stop"),
    ("on_training_epoch_end", "request_stop"),
    ("on_training_epoch_end", "request_save"),
    ("on_training_end", "raise_at_end"),
    ("on_testing_batch_end", "request_stop"),
)
LONG = (
    *((hook, "request_stop") for hook in ("on_model_ready", "on_training_start", "on_log")),
    *((hook, "request_stop") for hook in ("on_validation_start", "on_validation_results")),
    *((hook, "request_stop") for hook in ("on_checkpoint_saved", "on_training_end")),
    ("on_validation_end", "request_save"),
    ("on_training_epoch_end", "raise_at_end"),
    ("on_testing_end", "raise_at_end"),
)


class Asks(Plugin):
    """Makes a request in one hook, at its first call, in the last rank."""

    def __init__(self, hook: str, request: str) -> None:
        super().__init__("asks")
        self.hook, self.request = hook, request
        self.saved: list[str] = []
        self.validated: list[int] = []

    def ask(self, hook: str) -> None:
        is_last = self.global_rank == self.world_size - 1
        if hook == self.hook and self.request and is_last:
            request, self.request = self.request, ""
            if request == "raise_at_end":
                self.trainer.raise_at_end(SystemExit(7))
            else:
                getattr(self.trainer, request)("asked for")

    def setup(self) -> None:
        self.ask("setup")

    def on_model_ready(self) -> None:
        self.ask("on_model_ready")

    def on_training_start(self) -> None:
        self.ask("on_training_start")

    def on_training_epoch_end(self, state: TrainingState) -> None:
        self.ask("on_training_epoch_end")

    def on_validation_start(self, validation_cycle: int) -> None:
        self.ask("on_validation_start")

    def on_validation_end(self, validation_cycle: int) -> None:
        self.validated.append(self.trainer.state.current_iteration)
        self.ask("on_validation_end")

    def on_validation_results(self, improved: bool) -> None:
        self.ask("on_validation_results")

    def on_log(self, metrics: dict[str, float], phase: str) -> None:
        if phase == "training":
            self.ask("on_log")

    def on_checkpoint_saved(self, path: pathlib.Path) -> None:
        self.saved.append(path.name)
        self.ask("on_checkpoint_saved")

    def on_training_end(self) -> None:
        self.ask("on_training_end")

    def on_testing_batch_end(self, outputs: Any, step: int) -> None:
        self.ask("on_testing_batch_end")

    def on_testing_end(self) -> None:
        self.ask("on_testing_end")


def ask(folder: str, cases: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return what each request has led to."""
    return {f"{hook} {request}": _outcome(folder, hook, request) for hook, request in cases}


def _outcome(folder: str, hook: str, request: str) -> Any:
    asks = Asks(hook, request)
    trainer = Trainer(
        total_steps=4,
        print_frequency=2,
        valid_frequency=1,
        chkpt_frequency=3,
        chkpt_root=f"{folder}/{hook}-{request}",
        use_cpu=True,
        print_banner=False,
        autoload=False,
        stall_timeout=60,
        plugins=[asks],
    )
    size = 3 * int(os.environ.get("WORLD_SIZE", "1"))
    model, data = TinyModel(), TinyDataModule(3 * size, 3, valid_size=size)
    try:
        trainer.test(model, data) if "testing" in hook else trainer.fit(model, data)
        end = ""
    except SystemExit as error:
        end = f"exit {error.code}"
    reasons = [(each.reason, each.author) for each in trainer.stop_requests]
    metrics = bool(model.metrics)
    return trainer.state.current_iteration, asks.saved, asks.validated, reasons, metrics, end


@pytest.mark.parametrize("cases", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
def test_requests_of_one_rank_act_as_in_one_process(
    ranks: StartRanks, tmp_path: pathlib.Path, cases: tuple[tuple[str, str], ...]
) -> None:
    (alone,) = ranks(1, ask, str(tmp_path / "alone"), cases)
    for rank in ranks(2, ask, str(tmp_path / "two"), cases):
        for name, expected in alone.result.items():
            assert rank.result[name] == expected, name
    if cases is SHORT:
        assert alone.result["setup request_stop"][0] == 0
        assert alone.result["on_training_epoch_end request_stop"][0] == 3
        assert alone.result["on_training_end raise_at_end"][-1] == "exit 7"
