"""Looking at what is installed imports none of it."""

import importlib.metadata
import json
import pathlib
from typing import Any

import pytest

SCRIPT = """
import json, os, sys
import helios

imported = []

def trace(what, result):
    imported.append([what, result, os.path.exists(os.environ["SAMPLE_WITNESS"])])

registry = helios.PLUGIN_REGISTRY
trace("import helios", None)
trace("in", "witness" in registry)
trace("in, canonically", "MIX.UP" in registry and "sample-mixup:Mix_Up" in registry)
trace("not in", "witnes" not in registry)
trace("keys", {"witness", "mix-up", "needy"} <= set(registry.keys()))
trace("len", len(registry.keys()) > 3)
trace("modules", [name for name in sys.modules if name.startswith("sample_")])
plugin = helios.create_plugin("witness")
trace("create_plugin", type(plugin).__name__)
trace("create_plugin, canonically", helios.create_plugin("mix.up").plug_id)
print(json.dumps(imported))
"""


@pytest.fixture(scope="module")
def steps(peaceful: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    trace = tmp_path_factory.mktemp("discovery") / "trace"
    report = peaceful.run(SCRIPT, SAMPLE_WITNESS=str(trace))
    return {what: (result, imported) for what, result, imported in report}


@pytest.mark.parametrize("step", ["in", "in, canonically", "not in", "keys", "len"])
def test_questions_to_the_registry_import_nothing(steps: dict[str, Any], step: str) -> None:
    assert steps[step] == (True, False)
    assert steps["modules"] == ([], False)


def test_create_plugin_imports(steps: dict[str, Any]) -> None:
    assert steps["create_plugin"] == ("Witness", True)
    assert steps["create_plugin, canonically"] == ("mix-up", True)


@pytest.fixture(scope="module")
def listing(peaceful: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pathlib.Path]:
    trace = tmp_path_factory.mktemp("listing") / "trace"
    listed = peaceful.helios(
        *("plugins", "list", "--json"), SAMPLE_WITNESS=str(trace), HELIOS_BLOCK_PLUGINS="recorder"
    )
    return {(row["distribution"], row["name"]): row for row in json.loads(listed)["plugins"]}, trace


def test_the_list_imports_nothing(listing: tuple[Any, pathlib.Path]) -> None:
    rows, trace = listing
    assert rows["sample-witness", "witness"]["version"] == "4.1"
    assert not trace.exists()


@pytest.mark.parametrize("name", ["cuda", "metrics-file", "optuna", "preemption", "progress"])
def test_built_in_plug_ins_are_listed_as_any_others(
    listing: tuple[Any, pathlib.Path], name: str
) -> None:
    rows, _ = listing
    version = importlib.metadata.version("helios-trainer")
    assert rows["helios-trainer", name]["version"] == version


def test_the_list_says_what_is_missing(listing: tuple[Any, pathlib.Path]) -> None:
    rows, _ = listing
    missing = "sample-distribution-that-nobody-has>=3"
    assert missing in rows["sample-extras", "needy"]["note"]
    assert "need" not in rows["sample-extras", "content"]["note"]


def test_the_list_says_what_is_blocked(listing: tuple[Any, pathlib.Path]) -> None:
    rows, _ = listing
    assert "HELIOS_BLOCK_PLUGINS" in rows["sample-recorder", "recorder"]["note"]
    assert "HELIOS_BLOCK_PLUGINS" not in rows["sample-mixup", "mix-up"]["note"]


def test_files_of_the_current_folder_take_no_module_s_place(peaceful: Any) -> None:
    """The commands put the folder first on the path, to see what a script there would see."""
    hidden = ("rich", "packaging", "importlib_metadata", "tomllib", "csv", "email", "typer")
    files = [peaceful.work / f"{name}.py" for name in hidden]
    try:
        for file in files:
            file.write_text("raise SystemExit(f'{__name__} of the current folder runs')")
        assert "recorder" in peaceful.helios("plugins", "list")
        peaceful.helios("plugins", "doctor")
    finally:
        for file in files:
            file.unlink()
