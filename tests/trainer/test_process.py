"""What a run changes in its process, and restores."""

import contextlib
import logging
import os
import pathlib
import signal
import sys
from typing import Any

import pytest
import torch
import tqdm
from helpers import (
    DATA_METHODS,
    MODEL_METHODS,
    Failing,
    FailingPlugin,
    Make,
    UserError,
    is_of_testing,
    overriding,
)

from helios import Plugin
from helios.errors import ConfigurationError
from helios.plugins.builtin.preemption import PreemptionPlugin
from helios.plugins.builtin.progress import ProgressPlugin
from helios.testing import TinyDataModule, TinyModel
from helios.trainer.process import log_file


def process_state() -> dict[str, Any]:
    logger = logging.getLogger("helios")
    return {
        "handlers": list(logger.handlers),
        "level": logger.level,
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "SIGINT": signal.getsignal(signal.SIGINT),
        "gradients": torch.is_grad_enabled(),
        "bars": list(tqdm.std.tqdm._instances),  # type: ignore[attr-defined]  # tqdm's own list
    }


PROCESS_PLACES = [
    "",
    "data.prepare_data",
    "plugin.setup",
    "model.setup",
    "model.train_step",
    "model.valid_step",
    "plugin.on_validation_batch_end",
    "plugin.on_training_end",
    "model.test_step",
    "plugin.teardown",
]


class Looking(Plugin):
    """Sees what a run has changed while it is going on."""

    def __init__(self) -> None:
        super().__init__("looking")
        self._seen: dict[str, Any] = {}

    def setup(self) -> None: ...

    def on_training_batch_end(self) -> None:
        self._seen = process_state()


@pytest.mark.parametrize("place", PROCESS_PLACES)
@pytest.mark.parametrize("switch", ["enable_deterministic", "enable_cudnn_benchmark"])
def test_process_is_left_as_it_was(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    switch: str,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # or no bars would be shown
    before = process_state()
    fail = Failing(place, UserError())
    looking = Looking()
    trainer = make_trainer(
        total_steps=1,
        valid_frequency=1,
        run_root=tmp_path,
        enable_progress_bar=True,
        plugins=[FailingPlugin(fail), PreemptionPlugin(), ProgressPlugin(), looking],
        **{switch: True},
    )
    model = overriding(TinyModel, "model", fail, MODEL_METHODS)()
    data = overriding(TinyDataModule, "data", fail, DATA_METHODS)()
    expected = pytest.raises(UserError) if place else contextlib.nullcontext()
    with expected:
        if is_of_testing(place):
            trainer.test(model, data)
        else:
            trainer.fit(model, data)
    assert process_state() == before
    if place in ("", "plugin.on_training_end"):  # and it had been changed
        same = {what for what, value in looking._seen.items() if value == before[what]}
        untouched = "benchmark" if switch == "enable_deterministic" else "deterministic"
        workspace = {"workspace"} if untouched == "deterministic" else set()
        assert same == {"warn only", "gradients", untouched} | workspace


def test_deterministic_warnings_stay_warnings(make_trainer: Make) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        make_trainer(total_steps=1).fit(TinyModel(), TinyDataModule())
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_chosen_workspace_is_kept(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_trainer(total_steps=1, enable_deterministic=True).fit(TinyModel(), TinyDataModule())
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_overlapping_runs_leave_the_logger_as_it_was(
    tmp_path: pathlib.Path, first_to_end: int
) -> None:
    logger, before = logging.getLogger("helios"), process_state()
    runs = [log_file(tmp_path / name, "") for name in "ab"]
    for run in runs:
        run.__enter__()
    runs.pop(first_to_end).__exit__(None, None, None)
    logger.info("to the other one")
    runs.pop().__exit__(None, None, None)
    assert process_state() == before
    (kept,) = [p for p in tmp_path.glob("*/helios.log") if "to the other one" in p.read_text()]
    assert kept.parent.name == "ba"[first_to_end]


def test_run_root_that_cannot_be_written(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    trainer = make_trainer(run_root=tmp_path / "file/run")
    (tmp_path / "file").touch()  # later, or the trainer would refuse its argument
    with pytest.raises(ConfigurationError, match=r"cannot be written in .*: Not a directory\. Ma"):
        trainer.test(TinyModel(), TinyDataModule())
