"""A run_root that several runs use: each run has its own files, and finds them again."""

import json
import pathlib
from typing import Any

import pytest
from helpers import Make, UserError, files

from helios import Trainer, TrainingState
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import TinyDataModule, TinyModel


class Logging(TinyModel):
    def test_step(self, batch: Any, step: int) -> None:
        self.log("tested", 7.0)


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Any:
    def run(name: str = "tiny", epochs: int = 2, **arguments: Any) -> Trainer:
        defaults = {"run_root": tmp_path, "print_frequency": 3, "total_steps": epochs}
        trainer = make_trainer(plugins=[MetricsFilePlugin()], **{**defaults, **arguments})
        trainer.fit(Logging(name), TinyDataModule())
        return trainer

    return run


def batches(path: pathlib.Path) -> list[int]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [-1 if line.get("phase") == "test" else line["batch"] for line in lines]


def snapshot(root: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of all files but the log, which always grows."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_each_model_has_its_own_files(fit: Any, tmp_path: pathlib.Path) -> None:
    for number, name in enumerate(("one", "two", "three"), start=1):
        fit(name, epochs=number)
    for number, name in enumerate(("", "-2", "-3"), start=1):
        assert batches(tmp_path / f"metrics{name}.jsonl") == [3, 6, 9, 12, 15, 18][: 2 * number]
        assert json.loads((tmp_path / f"plan{name}.json").read_text())["active"]
    assert "metrics-4.jsonl" not in [path.name for path in tmp_path.iterdir()]
    assert (tmp_path / "helios.log").read_text().count("has files of another run") == 2


def test_resumed_runs_find_their_files(fit: Any, tmp_path: pathlib.Path) -> None:
    for epochs in (1, 2):
        for name in ("one", "two"):
            fit(name, epochs=epochs)
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == [
        "hyper-parameters-2.json",
        "hyper-parameters.json",
        "metrics-2.jsonl",
        "metrics.jsonl",
        "plan-2.json",
        "plan.json",
    ]
    for name in ("metrics.jsonl", "metrics-2.jsonl"):
        assert batches(tmp_path / name) == [3, 6, 9, 12]


def test_a_run_without_a_checkpoint_is_new(make_trainer: Make, fit: Any, tmp_path: Any) -> None:
    class Crashing(Logging):
        def on_training_batch_start(self, state: TrainingState) -> None:
            if state.global_iteration == 5:
                raise UserError

    arguments = {"run_root": tmp_path, "print_frequency": 1, "total_steps": 2}
    with pytest.raises(UserError):
        make_trainer(plugins=[MetricsFilePlugin()], **arguments).fit(Crashing(), TinyDataModule())
    before = snapshot(tmp_path)
    fit()
    assert before.items() <= snapshot(tmp_path).items()
    assert batches(tmp_path / "metrics-2.jsonl") == [3, 6, 9, 12]


def test_a_resumed_run_in_another_used_folder(fit: Any, tmp_path: pathlib.Path) -> None:
    roots = [{"run_root": tmp_path / name, "chkpt_root": tmp_path / "saved"} for name in "ab"]
    fit("other", **roots[1])
    before = snapshot(tmp_path / "b")
    fit(epochs=1, **roots[0])
    for epochs in (2, 3):
        fit(epochs=epochs, **roots[1])
    assert before.items() <= snapshot(tmp_path / "b").items()
    assert batches(tmp_path / "b/metrics-2.jsonl") == [9, 12, 15, 18]
    fit(epochs=4, **roots[0])
    assert batches(tmp_path / "a/metrics.jsonl") == [3, 6, 21, 24]


def test_a_moved_folder_is_still_that_of_its_run(fit: Any, tmp_path: pathlib.Path) -> None:
    fit(epochs=1, run_root=tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    fit(epochs=2, run_root=tmp_path / "after")
    assert batches(tmp_path / "after/metrics.jsonl") == [3, 6, 9, 12]


def test_metrics_of_unknown_origin_are_kept(fit: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    fit()
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"
    assert batches(tmp_path / "metrics-2.jsonl") == [3, 6, 9, 12]
    fit(epochs=3)  # resumed
    assert batches(tmp_path / "metrics-2.jsonl") == [3, 6, 9, 12, 15, 18]


def test_a_run_of_an_earlier_release_is_continued(fit: Any, tmp_path: pathlib.Path) -> None:
    from helios.checkpoints import storage

    fit(epochs=1)
    (file,) = files(tmp_path, "**/*.pth")
    payload = storage.load(file)
    del payload["run"], payload["validated"]
    storage.save(payload, file)
    plan = json.loads((tmp_path / "plan.json").read_text())
    del plan["run"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    fit(epochs=2)
    assert batches(tmp_path / "metrics.jsonl") == [3, 6, 9, 12]
    fit(epochs=3)
    assert batches(tmp_path / "metrics.jsonl") == [3, 6, 9, 12, 15, 18]


def test_a_fit_with_nothing_left_to_do_changes_no_file(
    make_trainer: Make, fit: Any, tmp_path: pathlib.Path
) -> None:
    trainer = fit(valid_frequency=1, chkpt_frequency=1)
    trainer.test(Logging(), TinyDataModule())
    assert batches(tmp_path / "metrics.jsonl") == [3, 6, 6, 9, 12, 12, -1]
    before = snapshot(tmp_path)
    fit(valid_frequency=1, chkpt_frequency=1)
    trainer.fit(Logging(), TinyDataModule())
    assert snapshot(tmp_path) == before


def test_a_resumed_run_keeps_the_lines_of_tests(fit: Any, tmp_path: pathlib.Path) -> None:
    for epochs in (1, 2):
        fit(epochs=epochs).test(Logging(), TinyDataModule())
    assert batches(tmp_path / "metrics.jsonl") == [3, 6, -1, 9, 12, -1]


def test_a_test_writes_to_the_run_that_it_tests(fit: Any, tmp_path: pathlib.Path) -> None:
    trainers = {name: fit(name, epochs=1) for name in ("one", "two")}
    plans = {path: path.read_bytes() for path in tmp_path.glob("plan*")}
    trainers["two"].test(Logging("one"), TinyDataModule())
    assert batches(tmp_path / "metrics.jsonl") == [3, 6, -1]
    assert batches(tmp_path / "metrics-2.jsonl") == [3, 6]
    assert {path: path.read_bytes() for path in tmp_path.glob("plan*")} == plans


def test_paths_of_plugins_have_the_number_of_the_run(fit: Any, tmp_path: pathlib.Path) -> None:
    names = ("notes.tar.gz", "curves", "metrics.jsonl")
    first, second = (fit(name) for name in ("one", "two"))
    assert [first.run_path(name) for name in names] == [tmp_path / name for name in names]
    own = ("notes-2.tar.gz", "curves-2", "metrics-2.jsonl")
    assert [second.run_path(name) for name in names] == [tmp_path / name for name in own]
