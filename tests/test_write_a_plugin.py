"""The blocks of docs/write-a-plugin.md that need no installation. The others: tests/installed."""

import inspect
import json
import pathlib
import re
import sys
import types
from typing import Any

import pytest
import torch
from helpers import Make
from pages import blocks, page

import helios
from helios.testing import TinyDataModule, TinyModel, check_conformance

PAGE = page("write-a-plugin")


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """Return the names of all blocks in Python, run one after the other."""
    names: dict[str, Any] = {"__name__": "helios_largest_gradient"}
    with pytest.MonkeyPatch.context() as patch:
        module = types.ModuleType("helios_largest_gradient")
        patch.setitem(sys.modules, "helios_largest_gradient", module)
        for number, source in enumerate(blocks("python", PAGE)):
            exec(compile(source, f"docs/write-a-plugin.md, block {number}", "exec"), names)
            vars(module).update(names)
    return names


def plug_ins(names: dict[str, Any]) -> list[type[helios.Plugin]]:
    return [
        each
        for each in names.values()
        if isinstance(each, type) and issubclass(each, helios.Plugin) and each is not helios.Plugin
    ]


def test_every_plug_in_of_the_page_conforms(written: dict[str, Any]) -> None:
    assert len(plug_ins(written)) == 6
    for create in plug_ins(written):
        check_conformance(create)


def test_the_tests_of_the_page_are_those_of_its_package(written: dict[str, Any]) -> None:
    # They run in tests/installed.
    assert len([name for name in written if name.startswith("test_")]) == 3


def test_an_older_state_is_converted(written: dict[str, Any]) -> None:
    assert written["SamplesPlugin"]().migrate_state({"batches": 2}, 1) == {"samples": 64}


def test_history_has_the_numbers(
    written: dict[str, Any], make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    trainer = make_trainer(plugins=[written["HistoryPlugin"]()], run_root=tmp_path)
    trainer.fit(TinyModel(), TinyDataModule())
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [6, 12]
    assert not written["HistoryPlugin"].applies_to(make_trainer())


def test_a_loss_that_is_no_number_ends_the_run(written: dict[str, Any], make_trainer: Make) -> None:
    class Diverging(TinyModel):
        def train_step(self, batch: Any, state: helios.TrainingState) -> torch.Tensor:
            self.log("loss", float("nan"))
            return torch.zeros(())

    with pytest.raises(ValueError, match=r"patience=0\): write a number"):
        written["FinitePlugin"](patience=0)
    trainer = make_trainer(plugins=[written["FinitePlugin"]()], total_steps=9)
    with pytest.raises(FloatingPointError, match="is not finite"):
        trainer.fit(Diverging(), TinyDataModule())
    assert trainer.state.global_epoch < 9
    assert trainer.stop_requests[0].reason == "3 times a number was not finite"


def test_the_hook_of_a_plug_in_is_called(
    written: dict[str, Any], make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Level(TinyModel):
        def train_step(self, batch: Any, state: helios.TrainingState) -> torch.Tensor:
            self.log("loss", 1.0)
            return torch.zeros(())

    plugins = [written["PlateauReport"](), written["PlateauPlugin"](patience=2)]
    trainer = make_trainer(plugins=plugins, total_steps=5)
    trainer.fit(Level(), TinyDataModule())
    assert [r.message for r in caplog.records if "progress" in r.message] == [
        "no progress for 2 epochs"
    ]
    assert trainer.stop_requests[0].reason == "no progress"
    assert trainer.state.global_epoch == 3


def test_a_function_returns_several_or_none(
    written: dict[str, Any], make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry: Any = helios.PLUGIN_REGISTRY
    monkeypatch.setitem(registry._objects, "monitors", written["monitors"])
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    trainer = make_trainer(plugins=["monitors"])
    reasons = {each.reason for each in trainer.plugin_manager.inactive}
    assert "does not apply: this is no job of a cluster" in reasons
    (line,) = [i for i in trainer.plugin_manager.inactive if i.name == "monitors"]
    assert line.reason == "does not apply: this is no job of a cluster"
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert list(make_trainer(plugins=["monitors"]).plugins) == ["history", "finite"]


def test_a_module_is_a_plug_in(
    make_trainer: Make, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = types.ModuleType("helios_end")
    exec(blocks("python", PAGE)[-1], vars(module))
    trainer = make_trainer(plugins=[module], run_root=tmp_path, print_banner=True)
    trainer.fit(TinyModel(), TinyDataModule())
    assert "training has ended" in (tmp_path / "helios.log").read_text(encoding="utf-8")
    assert "says when training has ended" in capsys.readouterr().out


def test_the_project_file_of_the_page_sets_the_limit(
    written: dict[str, Any],
    make_trainer: Make,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "pyproject.toml").write_text(blocks("toml", PAGE)[-1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    registry: Any = helios.PLUGIN_REGISTRY
    monkeypatch.setitem(registry._objects, "largest-gradient", written["LargestGradientPlugin"])
    trainer = make_trainer(plugins=["largest-gradient"])
    assert trainer.plugins["largest-gradient"].limit == 5.0


def test_the_page_has_each_attribute_of_a_plug_in() -> None:
    _, _, rest = PAGE.partition("You can set these attributes on the class:")
    described = re.findall(r"^\| `(\w+)", rest.partition("\nA module")[0], re.MULTILINE)
    public = [name for name in inspect.get_annotations(helios.Plugin) if name[0] != "_"]
    assert sorted(described) == sorted([*public, "applies_to"])


def test_the_page_has_each_fixture() -> None:
    from helios.testing import pytest_plugin

    described = re.findall(r"^\| `(helios_\w+)`", PAGE, re.MULTILINE)
    assert sorted(described) == sorted(n for n in vars(pytest_plugin) if n.startswith("helios_"))


def test_no_block_has_another_language() -> None:
    assert set(re.findall(r"^```(\w+)", PAGE, re.MULTILINE)) == {
        "console",
        "python",
        "text",
        "toml",
    }
