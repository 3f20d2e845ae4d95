"""The arguments of model and data module: saved, shown, and compared on resume."""

import copy
import enum
import json
import logging
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Make

from helios import DataLoaderParams
from helios.core.arguments import arguments_of, plain
from helios.testing import StopAfter, TinyDataModule, TinyModel


class Color(enum.Enum):
    RED = "red"


class Sized(TinyModel):
    """A model with hyper-parameters."""

    def __init__(self, width: int, *, rate: float = 0.1, layers: Any = (1, 2)) -> None:
        super().__init__("sized")
        self.width = width


class Open(Sized):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class Silent(Sized):
    """Inherits the constructor."""


def test_arguments_and_defaults() -> None:
    expected = {"width": 3, "rate": 0.5, "layers": [1, 2]}
    assert arguments_of(Sized(3, rate=0.5)) == arguments_of(Silent(3, rate=0.5)) == expected
    assert arguments_of(Open(3, rate=0.5)) == {"args": [3], "rate": 0.5}
    assert arguments_of(Open(width=3)) == {"width": 3}
    assert arguments_of(TinyDataModule(4))["train_size"] == 4


def test_copies_have_the_same() -> None:
    model = Sized(3)
    for again in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert arguments_of(again) == arguments_of(model)
        assert again.width == 3


def test_wrong_arguments_are_an_error_of_the_constructor() -> None:
    with pytest.raises(TypeError, match=r"__init__\(\) missing 1 required positional argument"):
        Sized()  # type: ignore[call-arg]  # on purpose


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.tensor(2), 2),
        (torch.ones(2), "<Tensor>"),
        (Color.RED, "red"),
        (pathlib.Path("here"), "here"),
        (torch.float16, "torch.float16"),
        (torch.nn.ReLU, "torch.nn.modules.activation.ReLU"),
        (torch.relu, "None.relu"),
        (torch.nn.ReLU(), "<ReLU>"),
        ({1: {2, 1}}, {"1": [1, 2]}),
        (range(1000), "<range>"),
        ([0] * 1000, "<list>"),
        (DataLoaderParams(batch_size=2).sampler, None),
    ],
)
def test_plain_values(value: Any, expected: Any) -> None:
    if value is torch.relu:
        expected = f"{value.__module__}.{value.__qualname__}"
    assert plain(value) == expected
    assert json.loads(json.dumps(plain(value))) == expected


def fit(make_trainer: Make, root: pathlib.Path, model: Any, data: Any, **arguments: Any) -> None:
    make_trainer(run_root=root, **arguments).fit(model, data)


def test_saved_in_the_folder(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    fit(make_trainer, tmp_path, Sized(3), TinyDataModule(batch_size=2), total_steps=1)
    facts = json.loads((tmp_path / "hyper-parameters.json").read_text())
    arguments = {"width": 3, "rate": 0.1, "layers": [1, 2]}
    assert facts["model"] == {"class": "Sized", "arguments": arguments}
    assert facts["data"]["arguments"]["batch_size"] == 2
    given = {"total_steps", "run_root", "use_cpu", "print_banner"}
    assert facts["trainer"].keys() == given  # not the defaults
    assert facts["trainer"]["total_steps"] == 1
    fit(make_trainer, tmp_path, TinyModel(), TinyDataModule(), chkpt_root=tmp_path / "other")
    second = json.loads((tmp_path / "hyper-parameters-2.json").read_text())
    assert second["model"] == {"class": "TinyModel", "arguments": {}}
    assert json.loads((tmp_path / "hyper-parameters.json").read_text()) == facts


def test_shown_in_the_header(make_trainer: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(print_banner=True, total_steps=1).fit(Sized(3), TinyDataModule())
    assert "\nmodel Sized(width=3, rate=0.1, layers=[1, 2])\n" in capsys.readouterr().out
    make_trainer(print_banner=True, total_steps=1).fit(TinyModel(), TinyDataModule())
    assert "\nmodel" not in capsys.readouterr().out


def test_difference_is_said_on_resume(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(make_trainer, tmp_path, Sized(3), TinyDataModule(), plugins=[StopAfter(3)])
    with caplog.at_level(logging.WARNING, "helios"):
        fit(make_trainer, tmp_path, Sized(3), TinyDataModule(), plugins=[StopAfter(4)])
        assert "other arguments" not in caplog.text
        data = TinyDataModule(valid_size=4)
        fit(make_trainer, tmp_path, Sized(5, layers=[1]), data, plugins=[StopAfter(5)])
    assert (
        "Sized was created with other arguments than the run that saved the checkpoint:"
        " layers is [1], and was [1, 2]; width is 5, and was 3. If you do not mean this"
    ) in caplog.text
    assert "TinyDataModule was created with other arguments than" in caplog.text
    assert "valid_size is 4, and was 8." in caplog.text


def test_new_and_removed_arguments(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    class First(TinyModel):
        def __init__(self, depth: int = 1, rate: float = float("nan")) -> None:
            super().__init__()

    class Second(TinyModel):
        def __init__(self, width: int = 2, rate: float = float("nan")) -> None:
            super().__init__()

    fit(make_trainer, tmp_path, First(), TinyDataModule(), plugins=[StopAfter(3)])
    fit(make_trainer, tmp_path, Second(), TinyDataModule())
    assert ": depth is gone, and was 1; width is new, with 2. If" in caplog.text
