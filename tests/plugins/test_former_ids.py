"""Plug-ins that had another id in earlier releases, and states of another version."""

from typing import Any

import pytest
from helpers import Keeping, Make, files, read

from helios.errors import InvalidPluginError
from helios.testing import TinyDataModule, TinyModel


class Renamed(Keeping):
    former_ids = ("oldest", "old")

    def __init__(self, plug_id: str = "new") -> None:
        super().__init__({"mine": 0})
        self._plug_id = plug_id


class Old(Keeping):
    def __init__(self, plug_id: str = "old", state: Any = None) -> None:
        super().__init__(state or {"mine": 7})
        self._plug_id = plug_id


def fit(make_trainer: Make, root: Any, steps: int, *plugins: Any, **arguments: Any) -> Any:
    make_trainer(total_steps=steps, plugins=plugins, run_root=root, **arguments).fit(
        TinyModel(), TinyDataModule()
    )
    return read(max(files(root, "**/*.pth"), key=lambda path: path.stat().st_mtime_ns))["plugins"][
        0
    ]


def test_a_state_under_a_former_id_is_restored_and_saved_under_the_new_one(
    make_trainer: Make, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fit(make_trainer, tmp_path, 1, Old())
    renamed = Renamed()
    states = fit(make_trainer, tmp_path, 2, renamed)
    assert states == {"new": {"mine": 7}}
    (line,) = [m for m in caplog.messages if "are not those" in m]
    assert "> 'old' is now called 'new' (not installed)" in line
    assert "keep its state" not in line


def test_the_present_id_comes_first_and_the_other_state_is_kept(
    make_trainer: Make, tmp_path: Any
) -> None:
    fit(make_trainer, tmp_path, 1, Old(), Old("new", {"mine": 8}))
    assert fit(make_trainer, tmp_path, 2, Renamed()) == {
        "old": {"mine": 7},
        "new": {"mine": 8},
    }


def test_a_former_id_that_another_plugin_has_is_not_taken(
    make_trainer: Make, tmp_path: Any
) -> None:
    fit(make_trainer, tmp_path, 1, Old())
    other = Old(state={"mine": 1})
    assert fit(make_trainer, tmp_path, 2, Renamed(), other) == {
        "new": {"mine": 0},
        "old": {"mine": 7},
    }


def test_a_single_string_is_refused(make_trainer: Make) -> None:
    class Wrong(Renamed):
        former_ids = "old"  # type: ignore[assignment]

    with pytest.raises(InvalidPluginError, match=r"former_ids = \('old',\)"):
        make_trainer(plugins=[Wrong()])


def test_a_plugin_reads_a_state_of_an_earlier_version(make_trainer: Make, tmp_path: Any) -> None:
    class Versioned(Keeping):
        """Counts in steps since version 2; version 1 had no number and counted batches."""

        def state_dict(self) -> dict[str, Any]:
            return {"version": 2, "steps": self.state["steps"]}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            version = state_dict.get("version", 1)
            steps = state_dict["steps"] if version > 1 else state_dict["batches"] // 4
            self.state = {"steps": steps}

    fit(make_trainer, tmp_path, 1, Keeping({"batches": 12}))
    states = fit(make_trainer, tmp_path, 2, Versioned({"steps": 0}))
    assert states == {"keeping": {"version": 2, "steps": 3}}
