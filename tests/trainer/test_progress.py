"""Progress on a terminal, in a notebook and in a log file, and the table at its end."""

import io
import os
import pathlib
import re
import sys
from typing import Any, ClassVar

import pytest
import tqdm.std
from helpers import Make, UserError
from torch.utils.data import IterableDataset

from helios import DataModule, TrainingState
from helios.plugins.builtin import bar
from helios.plugins.builtin.progress import ProgressPlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel


class FailingModel(TinyModel):
    """Fails in one method."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        if self._where == "train_step" and state.global_iteration == 4:
            raise UserError
        return super().train_step(batch, state)

    def valid_step(self, batch: Any, step: int) -> Any:
        if self._where == "valid_step":
            raise UserError
        return super().valid_step(batch, step)

    def test_step(self, batch: Any, step: int) -> Any:
        raise UserError


class Terminal:
    """The captured standard error, which plug-ins take for a terminal, 120 columns wide."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    @property
    def text(self) -> str:
        """Everything that was written so far."""
        self._text += self._capsys.readouterr().err
        return self._text

    @property
    def shown(self) -> list[str]:
        """The states that bars were drawn in, and the lines, without control characters."""
        drawn = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.text))
        return [line.strip() for line in drawn if line.strip()]

    @property
    def positions(self) -> list[str]:
        """The different positions of the bar, in order."""
        found = [re.match(r"(.*?) +(?:\d+%\||\[)", line) for line in self.shown]
        return list(dict.fromkeys(match[1] for match in found if match))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Let the standard error be a terminal, and each state of a bar be drawn."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(tqdm.std.tqdm, "monitor_interval", 0)
    monkeypatch.setattr("helios.plugins.builtin.progress._SECONDS", -1)
    real = tqdm.std.tqdm.__init__

    def eager(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **{**kwargs, "dynamic_ncols": False, "ncols": 120}, **EAGER)

    monkeypatch.setattr(tqdm.std.tqdm, "__init__", eager)
    monkeypatch.setattr(bar, "is_terminal", lambda stream: True)
    return Terminal(capsys)


EAGER = {"mininterval": 0, "miniters": 1}


def bars() -> list[Any]:
    return list(tqdm.std.tqdm._instances)  # type: ignore[attr-defined]  # tqdm's own list


def test_epochs(make_trainer: Make, terminal: Terminal) -> None:
    trainer = make_trainer(total_steps=2, valid_frequency=2, plugins=[ProgressPlugin()])
    trainer.fit(TinyModel(), TinyDataModule())
    first = [f"epoch 1/2, batch {number}/6" for number in range(7)]
    second = [f"epoch 2/2, batch {number}/6" for number in range(1, 7)]
    assert [at for at in terminal.positions if "batch" in at] == first + second
    validation = [f"epoch 2/2, validation {number}/3" for number in range(1, 4)]
    assert [at for at in terminal.positions if "validation" in at] == validation
    assert any("100%|" in line for line in terminal.shown)
    assert bars() == []
    assert not isinstance(sys.stderr, bar._Above)


def test_batches_that_are_accumulated(make_trainer: Make, terminal: Terminal) -> None:
    trainer = make_trainer(total_steps=1, accumulation_steps=4, plugins=[ProgressPlugin()])
    trainer.fit(TinyModel(), TinyDataModule())
    assert terminal.positions == [f"epoch 1/1, batch {number}/6" for number in range(7)]


def test_iterations(make_trainer: Make, terminal: Terminal) -> None:
    trainer = make_trainer(
        train_unit="iteration", total_steps=4, accumulation_steps=2, plugins=[ProgressPlugin()]
    )
    trainer.fit(TinyModel(), TinyDataModule())
    epochs = [1, 1, 1, 1, 2]
    assert terminal.positions == [f"step {n}/4, epoch {epochs[n]}" for n in range(5)]


def test_endless_run(make_trainer: Make, terminal: Terminal) -> None:
    trainer = make_trainer(
        train_unit="iteration",
        total_steps=float("inf"),
        plugins=[ProgressPlugin(), StopAfter(3)],
    )
    trainer.fit(TinyModel(), TinyDataModule())
    assert "step 3, epoch 1" in terminal.positions


class Endless(IterableDataset[Any]):
    """A stream of known samples."""

    def __iter__(self) -> Any:
        data = TinyDataModule(train_size=8)
        data.setup()
        return iter([data.train_dataset[i] for i in range(8)])


def test_stream(make_trainer: Make, terminal: Terminal) -> None:
    pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    data = DataModule.of(train=Endless(), batch_size=4)
    make_trainer(total_steps=2, plugins=[ProgressPlugin()]).fit(TinyModel(), data)
    assert "epoch 2/2, batch 2" in terminal.positions


@pytest.mark.parametrize("unit", ["iteration", "epoch"])
def test_resumed_run_begins_where_it_was_cut(
    make_trainer: Make, terminal: Terminal, tmp_path: pathlib.Path, unit: str
) -> None:
    arguments = {"train_unit": unit, "total_steps": 2, "chkpt_root": tmp_path}
    arguments["total_steps"] = 12 if unit == "iteration" else 2
    make_trainer(plugins=[StopAfter(9)], **arguments).fit(TinyModel(), TinyDataModule())
    make_trainer(plugins=[ProgressPlugin()], **arguments).fit(TinyModel(), TinyDataModule())
    in_steps = [f"step {n}/12, epoch 2" for n in range(9, 13)]
    in_epochs = [f"epoch 2/2, batch {n}/6" for n in range(3, 7)]
    assert terminal.positions == (in_steps if unit == "iteration" else in_epochs)


def test_newest_values_of_training_and_validation(make_trainer: Make, terminal: Terminal) -> None:
    trainer = make_trainer(
        total_steps=2, print_frequency=4, valid_frequency=1, plugins=[ProgressPlugin()]
    )
    trainer.fit(TinyModel(), TinyDataModule())
    last = [line for line in terminal.shown if line.startswith("epoch 2/2, batch 6/6")][-1]
    assert re.search(r"loss=0\.\d+, accuracy=[01]", last)


def test_several_validation_sets_have_one_total(make_trainer: Make, terminal: Terminal) -> None:
    tiny = TinyDataModule()
    tiny.setup()
    sets = {"one": tiny.valid_dataset, "two": tiny.test_dataset}
    data = DataModule.of(train=tiny.train_dataset, valid=sets, batch_size=4)
    make_trainer(total_steps=1, valid_frequency=1, plugins=[ProgressPlugin()]).fit(
        TinyModel(), data
    )
    assert "epoch 1/1, validation 4/4" in terminal.positions


def test_test(make_trainer: Make, terminal: Terminal) -> None:
    make_trainer(plugins=[ProgressPlugin()]).test(TinyModel(), TinyDataModule())
    assert terminal.positions == [f"testing {number}/3" for number in range(4)]
    assert re.fullmatch(r"testing: 3 batches, accuracy=[0-9.]+", terminal.shown[-1])
    assert bars() == []


def test_what_is_printed_appears_above_the_bar(make_trainer: Make, terminal: Terminal) -> None:
    class Printing(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            if state.global_iteration == 2:
                print("of the user", file=sys.stderr)
                print("a ", end="", file=sys.stderr)
                print("question? ", end="", file=sys.stderr)
                assert terminal.text.endswith("a question? ")
            return super().train_step(batch, state)

    make_trainer(total_steps=1, plugins=[ProgressPlugin()]).fit(Printing(), TinyDataModule())
    assert {"of the user", "a question?"} <= set(terminal.shown)


def test_process_of_a_worker_prints_as_usual(terminal: Terminal) -> None:
    shown = bar.create_bar(lambda: "here", "batch", 3)
    with bar.printing_above(shown):
        above: Any = sys.stderr
        above._process = os.getpid() + 1
        before = terminal.text
        print("of a worker", file=sys.stderr)
        assert terminal.text == f"{before}of a worker\n"
        shown.close()
        other = sys.stderr = io.StringIO()
    assert sys.stderr is other


def test_stop_is_said_above_the_bar(
    make_trainer: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stderr)
    trainer = make_trainer(print_banner=True, plugins=[ProgressPlugin(), StopAfter(3)])
    trainer.fit(TinyModel(), TinyDataModule())
    assert any(line.startswith("stopped: ") for line in terminal.shown)


def test_table(make_trainer: Make, terminal: Terminal) -> None:
    class Logging(TinyModel):
        def valid_step(self, batch: Any, step: int) -> Any:
            self.log("valid", [3.0, 1.0, 2.0][self.trainer.state.global_epoch])

    trainer = make_trainer(total_steps=3, valid_frequency=1, plugins=[ProgressPlugin()])
    trainer.fit(Logging(), TinyDataModule())
    rows = [re.sub(r" +", " ", line) for line in terminal.shown if line.startswith("valid ")]
    assert rows == ["valid 3 2 1 (epoch 2) 3 (epoch 1)"]
    assert any(re.match(r"training: epoch 3/3, iteration 18, took 0:0", s) for s in terminal.shown)


def test_graphical_bar_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Widget(tqdm.std.tqdm):  # type: ignore[type-arg]  # as tqdm.notebook has it
        def __init__(self, **options: Any) -> None:
            made.append(options["bar_format"])
            super().__init__(**options, file=io.StringIO())

    Widget.__module__ = "tqdm.notebook"
    monkeypatch.setattr("tqdm.auto.tqdm", Widget)
    bar.create_bar(lambda: "here", "batch", 3).close()
    assert "{bar}" in made[0]  # what tqdm replaces by its widget


def test_plain_bar_in_a_notebook(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        config: ClassVar = {"IPKernelApp": {}}

    class IPython:
        @staticmethod
        def get_ipython() -> Shell:
            return Shell()

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    error = io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    assert bar.in_notebook()
    make_trainer(total_steps=1, plugins=[ProgressPlugin()]).fit(TinyModel(), TinyDataModule())
    assert "epoch 1/1, batch 6/6 100%" in error.getvalue()


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            {"total_steps": 2, "valid_frequency": 2, "print_frequency": 4},
            [
                "training: epoch 1/2, iteration 4, loss",
                "training: epoch 1/2",
                "training: epoch 2/2, iteration 8, loss",
                "training: epoch 2/2, iteration 12, loss",
                "validation: 3 batches, after epoch 2/2, accuracy",
                "training: epoch 2/2",
            ],
        ),
        ({"total_steps": 2}, ["training: epoch 1/2, loss", "training: epoch 2/2, loss"]),
        (
            {"train_unit": "iteration", "total_steps": 7, "print_frequency": 4},
            ["training: iteration 4/7, loss", "training: iteration 7/7, loss"],
        ),
        (
            {"train_unit": "iteration", "total_steps": 7, "valid_frequency": 5},
            [
                "validation: 3 batches, after iteration 5/7, accuracy",
                "training: iteration 6/7, loss",
                "training: iteration 7/7, loss",
            ],
        ),
    ],
)
def test_log_file(
    make_trainer: Make,
    capsys: pytest.CaptureFixture[str],
    arguments: dict[str, Any],
    lines: list[str],
) -> None:
    trainer, model = make_trainer(plugins=[ProgressPlugin()], **arguments), TinyModel()
    trainer.fit(model, TinyDataModule())
    written = capsys.readouterr().err
    assert "\r" not in written
    assert re.sub(r"=[0-9.]+", "", written).splitlines()[: len(lines)] == lines
    _, header, *rows = written.splitlines()[len(lines) :]
    assert header.split() == ["metric", "first", "last", "smallest", "largest"]
    assert {row.split()[0] for row in rows} <= {"loss", "accuracy"}
    trainer.test(model, TinyDataModule())
    assert re.fullmatch(r"testing: 3 batches, accuracy=[0-9.]+\n", capsys.readouterr().err)
    assert bars() == []


@pytest.mark.parametrize("where", ["train_step", "valid_step", "test_step"])
def test_bars_of_a_failed_run_are_closed(
    make_trainer: Make, terminal: Terminal, where: str
) -> None:
    trainer = make_trainer(valid_frequency=1, plugins=[ProgressPlugin()])
    run = trainer.test if where == "test_step" else trainer.fit
    with pytest.raises(UserError):
        run(FailingModel(where), TinyDataModule())
    assert terminal.shown
    assert bars() == []


def test_used_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, make_trainer: Make) -> None:
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    allowed = {"autoload": ["progress", "metrics-file"]}
    assert list(make_trainer(enable_progress_bar=True, **allowed).plugins) == ["progress"]
    assert list(make_trainer(**allowed).plugins) == []


def test_predictions(make_trainer: Make, terminal: Terminal) -> None:
    class Predicting(TinyModel):
        def predict_step(self, batch: Any, step: int) -> Any:
            return self.net(batch[0])

    trainer, model = make_trainer(plugins=[ProgressPlugin()]), Predicting()
    trainer.fit(model, TinyDataModule())
    trainer.predict(model, TinyDataModule())
    shown = [at for at in terminal.positions if at.startswith("predicting")]
    assert shown == [f"predicting {number}/3" for number in range(4)]
    assert terminal.shown[-1] == "predicting: 3 batches"


def test_speed_comes_last(make_trainer: Make, terminal: Terminal) -> None:
    class Fast(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.log("throughput/steps_per_second", 3.0)
            return super().train_step(batch, state)

    trainer = make_trainer(total_steps=1, print_frequency=3, plugins=[ProgressPlugin()])
    trainer.fit(Fast(), TinyDataModule())
    assert re.search(r"loss=0\.\d+, steps_per_second=3\]", terminal.text)
