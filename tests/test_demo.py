"""The main job: ``helios demo``, as a user runs it."""

import functools
import os
import pathlib
import re
import signal
import subprocess
import warnings
from collections.abc import Callable

import pytest
import torch
from helpers import files

import helios
from helios.testing import equal
from helios.trainer import find_last_checkpoint

EPOCHS = "4"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start(python: list[str]) -> Start:
    return functools.partial(_start, python)


def _start(
    python: list[str], run_root: pathlib.Path, epochs: str = EPOCHS
) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HELIOS_")}
    return subprocess.Popen(
        [*python, "-m", "helios.cli", "demo", "--run-root", run_root, "--epochs", epochs],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def final(run_root: pathlib.Path) -> dict[str, object]:
    path = find_last_checkpoint(run_root / "checkpoints" / "digits")
    assert path is not None
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """Return folder and output of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("demo")
    process = start(folder)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return folder, output


def test_header_and_result(whole: tuple[pathlib.Path, str]) -> None:
    folder, output = whole
    ours = f"progress  helios-trainer {helios.__version__}  installed"
    for row in ("ema  helios-ema 0.1.0  installed", ours):
        assert row in re.sub(r" {2,}", "  ", output)
    accuracy = re.fullmatch(r"test accuracy: (0\.\d{4})", output.splitlines()[-1])
    assert accuracy is not None
    assert len(list(files(folder / "checkpoints" / "digits", "*.pth"))) == int(EPOCHS)


def test_accuracy_of_the_whole_demo(start: Start, tmp_path: pathlib.Path) -> None:
    process = start(tmp_path, epochs="20")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    last = output.splitlines()[-1]
    assert re.fullmatch(r"test accuracy: 0\.9\d{3}", last)
    assert float(last.rpartition(" ")[2]) >= 0.975


def test_event_files_can_be_read_back(whole: tuple[pathlib.Path, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorBoard's own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(whole[0] / "tensorboard"))
        events.Reload()
    assert len(events.Scalars("valid/accuracy")) == int(EPOCHS)
    steps = [event.step for event in events.Scalars("train/loss")]
    last = 38 * int(EPOCHS)  # batches of 32 in an epoch
    assert steps == [*range(10, last, 10), last]


def test_interrupted_run_ends_with_the_same_weights(
    start: Start, whole: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    process = start(tmp_path)
    assert process.stderr is not None
    seen = ""
    while "2/4" not in seen:  # the progress bar: two epochs are over, the third is running
        character = process.stderr.read(1)
        assert character, f"the demo ended before it could be interrupted: {seen}"
        seen += character
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    interrupted = final(tmp_path)
    assert interrupted["training_state"]["global_epoch"] < int(EPOCHS)

    process = start(tmp_path)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == whole[1].splitlines()[-1]
    expected, resumed = final(whole[0]), final(tmp_path)
    for part in ("model", "plugins", "rng", "metrics"):
        assert equal(resumed[part], expected[part]), part


def test_finished_run_is_tested_again(start: Start, whole: tuple[pathlib.Path, str]) -> None:
    process = start(whole[0])
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == whole[1].splitlines()[-1]


def test_missing_data_is_explained(tmp_path: pathlib.Path, python: list[str]) -> None:
    code = "import sys; sys.modules['sklearn'] = None; sys.argv = ['helios', 'demo'];"
    code += "import helios.cli; helios.cli.main()"
    result = subprocess.run([*python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert "pip install scikit-learn" in result.stderr


def test_an_error_is_shown_with_its_notes(tmp_path: pathlib.Path, python: list[str]) -> None:
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    code = """
import sys, helios.cli, helios.cli.demo

def run(*arguments):
    error = ValueError("too hot")
    error.add_note("raised in setup of plug-in 'oven'")
    raise error

helios.cli.demo.run = run
sys.argv = ["helios", "demo"]
helios.cli.main()
"""
    result = subprocess.run([*python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.endswith("ValueError: too hot\nraised in setup of plug-in 'oven'\n")
