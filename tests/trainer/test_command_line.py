"""Runs that start from the command line or from a configuration file."""

import json
import pathlib
import re
from typing import Any

import pytest
from pages import blocks, page

import helios
from helios import DataModule, Trainer
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel

pytest.importorskip("jsonargparse", reason="the extra 'cli' is not installed")


class Sized(TinyModel):
    """A model.

    Args:
        width: the number of features.
        rate: the learning rate.
    """

    def __init__(self, width: int, rate: float = 0.1) -> None:
        super().__init__("sized")
        self.width, self.rate = width, rate


def data_of(batch_size: int = 4) -> DataModule:
    """Return the data of a batch size."""
    return TinyDataModule(batch_size=batch_size)


def start(*arguments: str, **defaults: Any) -> tuple[Trainer, Any, Any]:
    defaults = {"use_cpu": True, "print_banner": False, "total_steps": 1, **defaults}
    return helios.from_command_line(Sized, data_of, arguments, **defaults)


def test_options() -> None:
    trainer, model, data = start(
        *("--model.width=3", "--data.batch_size=5", "--trainer.best=[accuracy,max]"),
        *("--trainer.valid_frequency=1", "--trainer.plugins=[[preemption,{}]]"),
        total_steps=7,
    )
    assert (model.width, model.rate, trainer.total_steps) == (3, 0.1, 7)
    assert (trainer.valid_frequency, trainer.best) == (1, ("accuracy", "max", 0.0))
    assert type(trainer.valid_frequency) is int
    assert list(trainer.plugins) == ["preemption"]
    assert trainer.fit(model, data).global_iteration == 35


def test_file_and_options(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("trainer:\n  total_steps: 2\nmodel:\n  width: 3\n  rate: 0.5\n")
    trainer, model, _ = start("--config", str(file), "--model.rate", "0.2")
    assert (trainer.total_steps, model.width, model.rate) == (2, 3, 0.2)
    file.with_suffix(".json").write_text(json.dumps({"model": {"width": 8}}))
    assert start("--config", str(file.with_suffix(".json")))[1].width == 8


def test_printed_file_can_be_read(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        start("--model.width=3", "--trainer.run_name=mine", "--print_config")
    file = tmp_path / "run.yaml"
    file.write_text(capsys.readouterr().out)
    trainer, model, _ = start("--config", str(file))
    assert (model.width, trainer.run_name) == (3, "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model.width=wide"],
            "key \"model.width\":\n  Expected a <class 'int'>. Got value: wide",
        ),
        ([], "model.width"),
        (["--model.width=3", "--model.rat=1"], "--model.rat=1. Did you mean '--model.rate'"),
        (
            ["--model.width=3", "--trainer.max_epochs", "3"],
            "--trainer.max_epochs 3. This is a word of other trainers. Instead, pass total_steps",
        ),
        (
            ["--model.width=3", "--trainer.valid_frequency=0"],
            "valid_frequency=0: write a whole number of at least 1",
        ),
        (["--model.width=3", "--trainer.plugins=[progres]"], "Did you mean 'progress'"),
        (["--model.width=3", "--config=absent.yaml"], '"config": File does not exist'),
    ],
)
def test_error_names_the_field(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        start(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert re.search(r"For all options: \S+ --help$", error.strip())


def test_error_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> DataModule:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        helios.from_command_line(Sized, failing, ["--model.width=3"])


def test_jsonargparse_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jsonargparse", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'helios-trainer\[cli\]'"):
        start()


def test_the_program_of_the_page_runs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [program] = blocks("python", page("hyper-parameters"))
    [commands] = blocks("console", page("hyper-parameters"))
    assert len([line for line in program.splitlines() if line.strip()]) <= 22
    first, *_ = commands.splitlines()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", first.split()[1:])
    exec(compile(program, "train.py", "exec"), {"__name__": "__main__"})
    facts = json.loads(pathlib.Path("runs/wide/hyper-parameters.json").read_text())
    assert facts["model"]["arguments"] == {"width": 16, "rate": 0.1}
    assert facts["trainer"]["total_steps"] == 5
