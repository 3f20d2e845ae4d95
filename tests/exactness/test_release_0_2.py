"""The present code resumes a checkpoint of release 0.2 bit for bit."""

import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from release_0_2 import ARITHMETIC, CASES, FIXTURES, SAVE_NAME, arithmetic, train

from helios.testing import equal


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the fixtures were made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read(path: pathlib.Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def checkpoint(name: str) -> dict[str, Any]:
    """Return the checkpoint of a case."""
    [path] = (FIXTURES / name / SAVE_NAME).iterdir()
    return read(path)


HANDED_OUT_NOW = {
    "epochs": [9],
    "iterations": [9],
    "stream": [12, 18],
    "stream-in-workers": [12, 15],
    "absent-plug-in": [],
    "decided": [9],
}
"""The steps at which loggers receive losses that release 0.2 lost."""


def lose(lines: list[Any], expected: list[Any], name: str) -> None:
    """Remove the lines that release 0.2 lost, and check that they are the right ones."""
    added = [line for line in lines if line not in expected]
    assert [(step, list(metrics)) for step, metrics in added] == [
        (step, ["loss"]) for step in HANDED_OUT_NOW[name]
    ]
    lines[:] = [line for line in lines if line in expected]


@pytest.mark.parametrize("name", CASES)
def test_resumes_bit_for_bit(tmp_path: pathlib.Path, name: str) -> None:
    case, expected = CASES[name], read(FIXTURES / name / "expected.pth")
    if case.data.startswith("stream"):
        pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    made_with, present = expected.pop("torch"), torch.__version__.partition("+")[0]
    if made_with != present:
        pytest.skip(f"PyTorch {made_with} made the fixtures, and this is PyTorch {present}")
    if not equal(read(ARITHMETIC), arithmetic()):
        pytest.skip(
            "on this processor, PyTorch alone computes other bits than those of the fixtures"
        )
    shutil.copytree(FIXTURES / name / SAVE_NAME, tmp_path / SAVE_NAME)
    resumed, count = train(case, tmp_path)
    # A run that started anew would end with the same bits.
    assert case.resumes_after + count == expected["counters"]["global_iteration"]
    assert expected.keys() == resumed.keys()
    lose(resumed["recorder"]["lines"], expected["recorder"]["lines"], name)
    # Release 0.2 entered the means of a validation after on_validation_end, so in another order.
    assert expected["metrics"].keys() == resumed["metrics"].keys()
    resumed["metrics"] = {key: resumed["metrics"][key] for key in expected["metrics"]}
    assert [key for key in expected if not equal(expected[key], resumed[key])] == []


@pytest.mark.parametrize("name", CASES)
def test_release_0_2_wrote_the_checkpoint_inside_an_epoch(name: str) -> None:
    found = checkpoint(name)
    assert found["version"] == "0.2.0.dev0"
    assert found["format"] == 2
    assert found["training_state"]["global_iteration"] == CASES[name].resumes_after
    assert found["training_state"]["dataset_iter"] > 0


def test_the_checkpoints_cover_the_format() -> None:
    found = {name: checkpoint(name) for name in CASES}
    in_flight = {name: content["metrics"]["in_flight"]["counts"] for name, content in found.items()}
    assert in_flight["epochs"] == {"loss": 2}  # the batches of one optimizer step
    assert in_flight["iterations"] == {"loss": 3}
    assert found["iterations"]["scalers"]["optimizer"]["scale"] == 2**15  # halved by an overflow
    assert found["iterations"]["datamodule"] == {"phase": 1}
    assert found["iterations"]["metrics"]["running_losses"].keys() == {"loss"}
    assert found["epochs"]["metrics"]["newest"].keys() >= {"valid/loss", "best"}
    assert found["absent-plug-in"]["validation_due"]
    assert "guest" in found["absent-plug-in"]["plugins"][0]
    assert "guest" not in [entry["id"] for entry in found["absent-plug-in"]["plan"]["active"]]
    assert found["decided"]["stops"] == ["the model"]
    assert "num_workers" in found["stream"]["epoch"]["stream"][0]
    assert found["stream-in-workers"]["epoch"]["stream"][0]["num_workers"] == 2
