"""``helios runs``: what its commands find in the folders of runs."""

import contextlib
import json
import math
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest
from helpers import valid_document
from typer.testing import CliRunner

from helios import Trainer
from helios.cli.app import app
from helios.cli.run_plots import sparkline
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import TinyDataModule, TinyModel

Ask = Callable[..., Any]


class Wide(TinyModel):
    """A model with a hyper-parameter."""

    def __init__(self, width: int = 1, save_name: str = "tiny") -> None:
        super().__init__(save_name)


@pytest.fixture
def ask() -> Ask:
    """Run ``helios runs``, and return its output, its valid JSON, or its error."""

    def run(*arguments: str, exit_code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["runs", *arguments])
        assert result.exit_code == exit_code, (result.output, result.exception)
        return valid_document(result.stdout) if "--json" in arguments else result.output

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Leave two runs in ``runs/a``, and one in ``runs/b``."""
    folder = tmp_path_factory.mktemp("runs")
    with contextlib.chdir(folder):
        for place, name, width in (("a", "one", 3), ("a", "two", 5), ("b", "one", 5)):
            trainer = Trainer(
                valid_frequency=1,
                total_steps=2 + width,
                run_root=f"runs/{place}",
                plugins=[MetricsFilePlugin()],
                autoload=False,
                use_cpu=True,
                print_banner=False,
            )
            model = Wide(width, name)
            trainer.fit(model, TinyDataModule())
            trainer.test(model, TinyDataModule())
    return folder


@pytest.fixture
def runs(
    trained: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """Copy the runs, and change to the folder around them."""
    shutil.copytree(trained, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_list(ask: Ask, runs: pathlib.Path) -> None:
    lines = ask("list").splitlines()
    assert lines[0].split() == ["run", "model", "epoch", "iteration", "accuracy", "loss"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["runs/a#1", "Wide", "5", "30"],
        ["runs/a#2", "Wide", "7", "42"],
        ["runs/b", "Wide", "7", "42"],
    ]
    assert ask("list", "runs/b", "--metric", "loss").splitlines()[0].split()[-1] == "loss"


def test_json(ask: Ask, runs: pathlib.Path) -> None:
    [first, second, third] = ask("list", "--json")["runs"]
    assert [each["name"] for each in (first, second, third)] == ["runs/a#1", "runs/a#2", "runs/b"]
    shown = ask("show", "runs/a#2", "--json")["run"]
    series = shown.pop("series")
    assert shown == second
    assert shown["hyper-parameters"]["model.width"] == 5
    assert shown["hyper-parameters"]["trainer.total_steps"] == 7
    assert shown["plug-ins"][0].startswith("metrics-file")
    assert list(shown["tests"]) == ["accuracy"]
    lines = (runs / "a/metrics-2.jsonl").read_text().splitlines()
    losses = [line for line in map(json.loads, lines) if "loss" in line["metrics"]]
    assert series["loss"]["values"] == [line["metrics"]["loss"] for line in losses]
    assert series["loss"]["iterations"] == [line["iteration"] for line in losses]
    assert shown["metrics"]["loss"]["smallest"] == min(series["loss"]["values"])
    compared = ask("compare", "runs/a#1", "runs/b", "--json")
    assert compared["different"] == {
        "model.width": [3, 5],
        "trainer.run_root": ["runs/a", "runs/b"],
        "trainer.total_steps": [5, 7],
    }
    assert compared["metrics"]["loss"][1] == third["metrics"]["loss"]


def test_show(ask: Ask, runs: pathlib.Path) -> None:
    text = ask("show", "runs/b")
    assert "run runs/b: epoch 7, iteration 42\n" in text
    assert "checkpoints: 1, the last checkpoints/one/one" in text
    assert any(line.split() == ["model.width", "5"] for line in text.splitlines())
    [row] = [line for line in text.splitlines() if line.split()[:1] == ["loss"]]
    assert row.rstrip()[-1] in "▁▂▃▄▅▆▇█"


def test_compare(ask: Ask, runs: pathlib.Path) -> None:
    text = ask("compare", "runs/a#1", "runs/b", "--metric", "loss")
    assert "hyper-parameter  " in text
    assert [line.split()[:3] for line in text.splitlines() if "width" in line] == [
        ["model.width", "3", "5"]
    ]
    assert "accuracy" not in text


@pytest.mark.parametrize("has_plotly", [True, False])
def test_html_is_one_page(
    ask: Ask, runs: pathlib.Path, monkeypatch: pytest.MonkeyPatch, has_plotly: bool
) -> None:
    if has_plotly:
        pytest.importorskip("plotly", reason="plotly is not installed")
    else:
        monkeypatch.setitem(sys.modules, "plotly", None)
        monkeypatch.setattr("helios.cli.run_plots.importlib.util.find_spec", lambda name: None)
    (runs / "a/hyper-parameters.json").write_text('{"model": {"arguments": {"x": "<script>"}}}')
    ask("compare", "runs/a#1", "runs/b", "--html", "page.html")
    page = pathlib.Path("page.html").read_text()
    assert "<script>&lt;" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<polyline") == (0 if has_plotly else 4)
    assert "loss" in page
    assert 'src="http' not in page
    ask("show", "runs/b", "--html", "absent/page.html", exit_code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "absent"], "absent is not a folder: name the run_root of a run"),
        (["list", "empty"], "empty holds no run: a run with Trainer(run_root=...) leaves"),
        (["show", "runs/a"], "runs/a: several runs match. Did you mean"),
        (["show", "runs/a#7"], "runs/a holds no run of the number 7."),
        (["compare", "runs/b", "runs/c"], "runs/c is not a folder"),
    ],
)
def test_errors(ask: Ask, runs: pathlib.Path, arguments: list[str], message: str) -> None:
    pathlib.Path("empty").mkdir()
    assert message in ask(*arguments, exit_code=1)
    document = ask(*arguments, "--json", exit_code=1)
    assert message in document["error"]["message"]
    assert document["command"] == f"runs {arguments[0]}"


def test_damaged_and_foreign_files(ask: Ask, runs: pathlib.Path) -> None:
    with (runs / "b/metrics.jsonl").open("a") as file:
        file.write('{"iteration": 50, "epoch": 7, "metrics": {"loss": "nan"}}\n{"iteration": 5')
    (runs / "b/hyper-parameters.json").write_text("{")
    (runs / "plan.json").write_text('{"of": "another program"}')
    text = ask("show", "runs/b")
    assert "1 lines of its metrics file are damaged" in text
    shown = ask("show", "runs/b", "--json")["run"]
    assert shown["series"]["loss"]["values"][-1] == "NaN"
    assert math.isfinite(shown["metrics"]["loss"]["smallest"])
    assert (shown["model"], shown["hyper-parameters"], shown["epoch"]) == ("", {}, 7)
    assert len(ask("list", "--json")["runs"]) == 3


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3]) == "▁▃▆█"
    assert sparkline([1, 1, math.nan]) == "▁▁!"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(1000)))) == 40
