"""What ``import helios`` brings along."""

import subprocess
import sys

import pytest

OPTIONAL = (
    "optuna",
    "rich",
    "typer",
    "tensorboard",
    "sklearn",
    "torchdata",
    "importlib_metadata",
    "packaging",
)


def loaded_by(code: str, names: tuple[str, ...]) -> set[str]:
    """Return which of the named packages a fresh interpreter has loaded after some code."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    return {name for name in names if name in modules}


def test_import_loads_nothing_optional() -> None:
    assert loaded_by("import helios", OPTIONAL) == set()


def test_import_loads_tqdm_only_if_torch_does() -> None:
    # torch.hub imports tqdm where it is installed; Helios must not be the one.
    code = "import torch, sys; bars = 'tqdm' in sys.modules; import helios;"
    code += "assert bars == ('tqdm' in sys.modules); assert 'tqdm.auto' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_loaded_package_would_be_seen() -> None:
    assert loaded_by("import packaging", OPTIONAL) == {"packaging"}


def test_optuna_plugin_is_looked_at_without_importing_optuna() -> None:
    pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")
    assert loaded_by("import helios; helios.PLUGIN_REGISTRY.get('optuna')", ("optuna",)) == set()
