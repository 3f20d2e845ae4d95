"""The fixtures for authors, and that nobody has them without asking."""

import pathlib
import subprocess
import sys
import tomllib
from collections.abc import Callable

import pytest

import helios
from helios.testing import TinyDataModule, TinyModel

pytest_plugins = ["helios.testing.pytest_plugin"]

ROOT = pathlib.Path(__file__).parents[2]


def test_a_run_of_fixtures(
    helios_trainer: Callable[..., helios.Trainer],
    helios_model: TinyModel,
    helios_datamodule: TinyDataModule,
    helios_run_root: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    assert not helios_run_root.exists()
    trainer = helios_trainer(plugins=["metrics-file"])
    trainer.fit(helios_model, helios_datamodule)
    assert list(trainer.plugins) == ["metrics-file"]
    assert trainer.state.global_iteration == 12
    assert (helios_run_root / "metrics.jsonl").is_file()
    assert helios_model.metrics["accuracy"] > 0
    assert capsys.readouterr().out == ""
    assert helios_trainer(total_steps=7, autoload=True).total_steps == 7


def test_installed_plug_ins_are_seen(helios_installed: dict[str, object]) -> None:
    assert helios_installed["progress"].value == "helios.plugins.builtin.progress:ProgressPlugin"
    assert helios_installed["progress"].version == helios.__version__


def test_one_name_of_two_distributions_is_qualified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    from packages import write_distribution

    for name in ("one", "two"):
        write_distribution(tmp_path, name, offers={"same": "module:Plug"})
    monkeypatch.syspath_prepend(tmp_path)
    installed = request.getfixturevalue("helios_installed")
    assert {"one:same", "two:same"} < set(installed)
    assert "same" not in installed


def test_a_pytest_that_does_not_ask_is_not_changed() -> None:
    # pytest would load such an entry point in the suites of all users, and rewrite the asserts of
    # each module of the distribution.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "pytest11" not in project["entry-points"]


def test_a_pytest_that_asks_loads_pytorch_when_a_test_needs_it() -> None:
    code = "import sys, helios.testing.pytest_plugin; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_names_are_found_and_listed() -> None:
    assert all(getattr(helios.testing, name) for name in helios.testing.__all__)
    with pytest.raises(AttributeError, match=r"'helios.testing' has no attribute 'TinyMod'"):
        helios.testing.TinyMod  # noqa: B018
