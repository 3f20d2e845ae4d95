"""The plug-ins that come with Helios: the file of metrics, and leaving on a signal."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
from helpers import Make, UserError, files

from helios import Plugin, TrainingState
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.plugins.builtin.preemption import PreemptionPlugin
from helios.testing import TinyDataModule, TinyModel, equal


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


# The file of metrics.


def lines_of(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def positions(path: pathlib.Path) -> list[tuple[int, int, int, list[str]]]:
    return [
        (line["iteration"], line["batch"], line["epoch"], list(line["metrics"]))
        for line in lines_of(path)
    ]


def test_metrics_file(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    model = TinyModel()
    trainer = make_trainer(
        print_frequency=2,
        accumulation_steps=2,
        valid_frequency=2,
        run_root=tmp_path,
        plugins=[MetricsFilePlugin()],
    )
    trainer.fit(model, TinyDataModule())
    assert positions(tmp_path / "metrics.jsonl") == [
        (2, 4, 0, ["loss"]),
        (4, 8, 1, ["loss"]),
        (6, 12, 1, ["loss"]),
        (6, 12, 1, ["accuracy"]),
    ]
    assert lines_of(tmp_path / "metrics.jsonl")[-1]["metrics"] == model.metrics


def test_metrics_file_of_a_test(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    arguments = {"run_root": tmp_path, "total_steps": 1, "print_frequency": 6}
    make_trainer(plugins=[MetricsFilePlugin()], **arguments).fit(TinyModel(), TinyDataModule())
    make_trainer(plugins=[MetricsFilePlugin()], **arguments).test(TinyModel(), TinyDataModule())
    assert positions(tmp_path / "metrics.jsonl") == [
        (6, 6, 0, ["loss"]),
        (6, 6, 1, ["accuracy"]),
    ]


def test_metrics_can_be_read_while_the_run_is_going_on(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    seen: list[int] = []

    class Reader(TinyModel):
        def on_training_batch_start(self, state: TrainingState) -> None:
            path = tmp_path / "metrics.jsonl"
            seen.append(len(lines_of(path)) if path.exists() else 0)

    trainer = make_trainer(
        total_steps=1, print_frequency=2, run_root=tmp_path, plugins=[MetricsFilePlugin()]
    )
    trainer.fit(Reader(), TinyDataModule())
    assert seen == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("damage", ["", '{"iteration": 5, "ba'])
def test_resumed_run_drops_what_it_writes_again(
    make_trainer: Make, tmp_path: pathlib.Path, damage: str
) -> None:
    def arguments(folder: str) -> dict[str, Any]:
        return {
            "run_root": tmp_path / folder,
            "total_steps": 2,
            "chkpt_frequency": 1,
            "print_frequency": 1,
            "valid_frequency": 1,
            "plugins": [MetricsFilePlugin()],
        }

    class Crashing(TinyModel):
        def on_training_batch_start(self, state: TrainingState) -> None:
            if state.global_iteration == 10:
                raise UserError

    make_trainer(**arguments("whole")).fit(TinyModel(), TinyDataModule())
    whole = (tmp_path / "whole/metrics.jsonl").read_text()
    with pytest.raises(UserError):
        make_trainer(**arguments("cut")).fit(Crashing(), TinyDataModule())
    path = tmp_path / "cut/metrics.jsonl"
    assert len(lines_of(path)) == 6 + 1 + 3
    with path.open("a") as file:
        file.write(damage)  # killed in the middle of a line
    make_trainer(**arguments("cut")).fit(TinyModel(), TinyDataModule())
    assert path.read_text() == whole


def test_new_run_in_an_old_folder_writes_its_own_file(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    # the checkpoints were deleted, so the run begins again
    for _ in range(2):
        make_trainer(
            run_root=tmp_path / "run",
            chkpt_root=tmp_path / "checkpoints",
            total_steps=1,
            print_frequency=3,
            plugins=[MetricsFilePlugin()],
        ).fit(TinyModel(), TinyDataModule())
        for path in files(tmp_path / "checkpoints", "**/*.pth"):
            path.unlink()
    for name in ("metrics.jsonl", "metrics-2.jsonl"):
        assert [line["batch"] for line in lines_of(tmp_path / "run" / name)] == [3, 6]


def test_second_fit_of_one_trainer_writes_its_own_file(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    trainer = make_trainer(
        run_root=tmp_path, total_steps=1, print_frequency=3, plugins=[MetricsFilePlugin()]
    )
    for name in ("one", "two"):  # models of different names share no checkpoint
        trainer.fit(TinyModel(name), TinyDataModule())
    for name in ("metrics.jsonl", "metrics-2.jsonl"):
        assert [line["batch"] for line in lines_of(tmp_path / name)] == [3, 6]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_json_has_not(make_trainer: Make, tmp_path: pathlib.Path, value: float) -> None:
    class Diverging(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.log("diverged", value)

    trainer = make_trainer(
        total_steps=1, print_frequency=6, run_root=tmp_path, plugins=[MetricsFilePlugin()]
    )
    trainer.fit(Diverging(), TinyDataModule())

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON: jq, pandas and browsers refuse the line")

    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert "diverged" in json.loads(line, parse_constant=refuse)["metrics"]


def test_metrics_file_is_used_where_there_is_a_folder(
    monkeypatch: pytest.MonkeyPatch, make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    allowed = {"autoload": ["metrics-file"]}
    assert list(make_trainer(run_root=tmp_path, **allowed).plugins) == ["metrics-file"]
    assert list(make_trainer(chkpt_root=tmp_path, **allowed).plugins) == []


def test_metrics_file_without_a_folder_says_so(make_trainer: Make) -> None:
    with pytest.raises(Exception, match=r"metrics-file needs Trainer\(run_root="):
        make_trainer(plugins=["metrics-file"]).fit(TinyModel(), TinyDataModule())


# Leaving on a signal.


class Signalling(Plugin):
    """Sends this process a signal after a batch."""

    def __init__(self, number: signal.Signals, batch: int) -> None:
        super().__init__("signalling")
        self._number, self._batch = number, batch

    def setup(self) -> None: ...

    def on_training_batch_end(self, state: TrainingState) -> None:
        if state.running_iter == self._batch:
            signal.raise_signal(self._number)


SIGNALS = [s for s in signal.Signals if s.name in ("SIGTERM", "SIGUSR1")]


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_saves_and_exits(
    make_trainer: Make, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    before = {s: signal.getsignal(s) for s in SIGNALS}
    trainer = make_trainer(chkpt_root=tmp_path, plugins=[PreemptionPlugin(), Signalling(number, 4)])
    with pytest.raises(SystemExit) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert caught.value.code == 128 + number
    assert [path.name for path in files(tmp_path / "tiny")] == ["tiny_epoch_0_iter_4.pth"]
    assert [(r.reason, r.author) for r in trainer.stop_requests] == [
        (f"received {number.name}", "preemption")
    ]
    assert {s: signal.getsignal(s) for s in SIGNALS} == before


@pytest.mark.parametrize("failing", [False, True])
def test_handlers_are_put_back(make_trainer: Make, failing: bool) -> None:
    def own(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    during: list[Any] = []

    class Looking(FailingModel):
        def on_training_batch_start(self, state: TrainingState) -> None:
            during.append(signal.getsignal(signal.SIGTERM))

    try:
        trainer = make_trainer(total_steps=1, plugins=["preemption"])
        if failing:
            with pytest.raises(UserError):
                trainer.fit(Looking("train_step"), TinyDataModule())
        else:
            trainer.fit(Looking(""), TinyDataModule())
        assert signal.getsignal(signal.SIGTERM) is own
        assert own not in during
    finally:
        signal.signal(signal.SIGTERM, before)


def test_next_fit_does_not_exit(make_trainer: Make) -> None:
    signalling = Signalling(signal.SIGTERM, 2)
    trainer = make_trainer(total_steps=1, plugins=[PreemptionPlugin(), signalling])
    with pytest.raises(SystemExit):
        trainer.fit(TinyModel(), TinyDataModule())
    signalling._batch = 0
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 6


def test_all_plugins_and_the_model_end_their_training_before_the_exit(make_trainer: Make) -> None:
    ended: list[str] = []

    class Ending(Plugin):
        def __init__(self) -> None:
            super().__init__("ending")

        def setup(self) -> None: ...

        def on_training_end(self) -> None:
            ended.append("plug-in")

    class EndingModel(TinyModel):
        def on_training_end(self) -> None:
            ended.append("model")

    trainer = make_trainer(plugins=[PreemptionPlugin(), Signalling(signal.SIGTERM, 2), Ending()])
    with pytest.raises(SystemExit):
        trainer.fit(EndingModel(), TinyDataModule())
    assert ended == ["plug-in", "model"]


def test_exit_is_no_fault(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    plugins = [PreemptionPlugin(), Signalling(signal.SIGTERM, 2)]
    trainer = make_trainer(plugins=plugins, valid_frequency=1)
    with pytest.raises(SystemExit):
        trainer.fit(TinyModel(), TinyDataModule())
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_outside_the_main_thread_signals_are_left_alone(make_trainer: Make) -> None:
    before = signal.getsignal(signal.SIGTERM)
    during: list[Any] = []

    class Looking(TinyModel):
        def on_training_start(self) -> None:
            during.append(signal.getsignal(signal.SIGTERM))

    def train() -> None:
        trainer = make_trainer(total_steps=1, plugins=["preemption"])
        during.append(trainer.fit(Looking(), TinyDataModule()).global_iteration)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert during == [before, 6]


def test_preemption_is_not_autoloaded(monkeypatch: pytest.MonkeyPatch, make_trainer: Make) -> None:
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    assert "preemption" not in make_trainer(autoload=["preemption"]).plugins
    assert "preemption" in make_trainer(autoload=False, plugins=["preemption"]).plugins


PREEMPTED = """
    import sys
    import threading
    from helios import Trainer
    from helios.testing import TinyDataModule, TinyModel

    told = threading.Event()

    class Reporting(TinyModel):
        # Reports from inside of training, and waits there for the parent's word.
        def on_training_batch_end(self, state, should_log=False):
            super().on_training_batch_end(state, should_log)
            if state.global_iteration == 8:
                print("in training", flush=True)
                sys.stdin.readline()

    Trainer(
        total_steps=3, valid_frequency=1, print_frequency=2, use_cpu=True, autoload=False,
        print_banner=False, run_root=sys.argv[1], plugins=["metrics-file", "preemption"],
    ).fit(Reporting(), TinyDataModule())
    print("not reached")
"""


def test_preempted_process_leaves_a_run_that_goes_on(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PREEMPTED), str(tmp_path / "cut")],
        env=os.environ | {"HELIOS_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in training\n"
        # it waits for a line, so it is in training when the signal comes
        child.send_signal(signal.SIGTERM)
        output, errors = child.communicate("go on\n", timeout=60)
    assert child.returncode == 143, errors
    assert output == ""
    checkpoints = tmp_path / "cut/checkpoints/tiny"
    assert [path.name for path in files(checkpoints)] == ["tiny_epoch_1_iter_8.pth"]

    def go_on(folder: str) -> tuple[dict[str, Any], str]:
        model = TinyModel()
        make_trainer(
            total_steps=3,
            valid_frequency=1,
            print_frequency=2,
            run_root=tmp_path / folder,
            plugins=["metrics-file"],
        ).fit(model, TinyDataModule())
        return model.state_dict(), (tmp_path / folder / "metrics.jsonl").read_text()

    assert equal(go_on("whole"), go_on("cut"))
