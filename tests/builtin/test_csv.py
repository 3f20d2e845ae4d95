"""The table of logged metrics: complete and without doubles, wherever a run is cut."""

import csv
import pathlib
from typing import Any

import pytest
from helpers import Make, UserError

from helios import Trainer
from helios.errors import ConfigurationError
from helios.plugins.builtin.csv_file import CSVPlugin
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, check_conformance


class Growing(TinyModel):
    """Logs more metrics later, with a difficult name, and fails where it is asked to."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self._fail_at = fail_at

    def train_step(self, batch: Any, state: Any) -> Any:
        super().train_step(batch, state)
        if state.global_iteration > 7:
            self.log('a, "b"\nc', state.global_iteration)
        if state.global_iteration == self._fail_at:
            raise UserError


def run(
    make_trainer: Make,
    root: pathlib.Path,
    model: TinyModel | None = None,
    stop: int | None = None,
    **arguments: Any,
) -> Trainer:
    plugins = [CSVPlugin(), MetricsFilePlugin(), StopAfter(stop)]
    settings = {"valid_frequency": 1, "print_frequency": 2, "chkpt_frequency": 1, "total_steps": 3}
    trainer = make_trainer(plugins=plugins, run_root=root, **{**settings, **arguments})
    trainer.fit(model or Growing(), TinyDataModule())
    return trainer


def table(root: pathlib.Path, name: str = "metrics.csv") -> list[dict[str, str]]:
    with (root / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def whole(make_trainer: Make, tmp_path: pathlib.Path) -> bytes:
    """The table of a run that nothing cuts."""
    run(make_trainer, tmp_path / "whole")
    return (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_each_moment_is_a_row(whole: bytes, tmp_path: pathlib.Path) -> None:
    rows = table(tmp_path / "whole")
    assert [(row["phase"], int(row["iteration"])) for row in rows] == [
        *(("training", 2), ("training", 4), ("training", 6), ("validation", 6)),
        *(("training", 8), ("training", 10), ("training", 12), ("validation", 12)),
        *(("training", 14), ("training", 16), ("training", 18), ("validation", 18)),
    ]
    assert [row["epoch"] for row in rows] == [*"000011112222"]
    assert list(rows[0]) == [
        *("iteration", "batch", "epoch", "phase", "loss", "accuracy", 'a, "b"\nc')
    ]
    assert [row['a, "b"\nc'] for row in rows][:8] == [
        "",
        "",
        "",
        "",
        "8.0",
        "9.5",
        "11.333333333333334",
        "",
    ]
    assert [bool(row["loss"]) for row in rows][:4] == [True, True, True, False]
    assert not list((tmp_path / "whole").glob(".*"))


def test_last_values_belong_to_the_last_epoch(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    run(make_trainer, tmp_path, print_frequency=4)
    last = table(tmp_path)[-1]
    assert (last["phase"], last["iteration"], last["epoch"]) == ("training", "18", "2")


@pytest.mark.parametrize("stop", [1, 6, 7, 8, 11, 12, 13])
def test_a_run_that_was_stopped_has_the_same_table(
    make_trainer: Make, tmp_path: pathlib.Path, whole: bytes, stop: int
) -> None:
    run(make_trainer, tmp_path / "cut", stop=stop)
    run(make_trainer, tmp_path / "cut")
    assert (tmp_path / "cut" / "metrics.csv").read_bytes() == whole


@pytest.mark.parametrize("fail_at", [8, 9, 11, 16])
def test_a_run_that_failed_has_the_same_table(
    make_trainer: Make, tmp_path: pathlib.Path, whole: bytes, fail_at: int
) -> None:
    root = tmp_path / "cut"
    with pytest.raises(UserError):
        run(make_trainer, root, Growing(fail_at))
    with (root / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("12,12,1,trai")  # as a process that was killed leaves it
    run(make_trainer, root)
    assert (root / "metrics.csv").read_bytes() == whole


def test_it_agrees_with_the_lines_of_json(whole: bytes, tmp_path: pathlib.Path) -> None:
    import json

    text = (tmp_path / "whole" / "metrics.jsonl").read_text(encoding="utf-8")
    for line, row in zip(
        map(json.loads, text.splitlines()), table(tmp_path / "whole"), strict=True
    ):
        assert {n: float(v) for n, v in row.items() if n in line["metrics"]} == line["metrics"]


def test_rows_of_tests_stay(make_trainer: Make, tmp_path: pathlib.Path, whole: bytes) -> None:
    model = Growing()
    trainer = run(make_trainer, tmp_path, model, total_steps=1)
    trainer.test(model, TinyDataModule())
    run(make_trainer, tmp_path)
    rows = table(tmp_path)
    assert [row["phase"] for row in rows].count("testing") == 1
    assert rows[4]["phase"] == "testing"
    assert [row for row in rows if row["phase"] != "testing"] == table(tmp_path / "whole")


def test_a_new_run_has_its_own_table(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    run(make_trainer, tmp_path, total_steps=1)
    before = (tmp_path / "metrics.csv").read_bytes()
    run(make_trainer, tmp_path, TinyModel("other"), total_steps=1)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert len(table(tmp_path, "metrics-2.csv")) == 4


def test_values_that_are_not_finite_can_be_read(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Odd(TinyModel):
        def valid_step(self, batch: Any, step: int) -> Any:
            self.log("nan", float("nan"))
            self.log("inf", float("-inf"))

    run(make_trainer, tmp_path, Odd(), total_steps=1)
    assert [row["nan"] for row in table(tmp_path)] == ["", "", "", "nan"]
    assert float(table(tmp_path)[3]["inf"]) == float("-inf")


def test_it_needs_a_folder(make_trainer: Make) -> None:
    with pytest.raises(
        ConfigurationError, match=r"plug-in 'csv' writes into .* pass Trainer\(run_"
    ):
        make_trainer(plugins=[CSVPlugin()]).fit(TinyModel(), TinyDataModule())


def test_a_trial_writes_no_table(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    trainer = make_trainer(plugins=[CSVPlugin()], run_root=tmp_path, fast_dev_run=True)
    trainer.fit(TinyModel(), TinyDataModule())
    assert not list(tmp_path.iterdir())


def test_resumes_exactly() -> None:
    check_conformance(CSVPlugin)
