"""What ``import helios`` brings along."""

import ast
import importlib
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import helios

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


HEAVY = ("torch", "numpy", "pluggy", "pydantic", "rich", "helios.core", "helios.plugins")


def loaded_by(code: str, names: tuple[str, ...], option: str = "-c", *arguments: str) -> set[str]:
    """Return which of the named packages a fresh interpreter has loaded after some code."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", option, code, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    return {name for name in names if name in modules}


def test_import_loads_nothing_until_a_name_is_used() -> None:
    assert loaded_by("import helios; dir(helios)", HEAVY) == set()


def test_public_names_load_nothing_optional() -> None:
    code = "import helios; [getattr(helios, name) for name in helios.__all__]"
    names = (*OPTIONAL, "helios.trainer.loops")
    assert loaded_by(code, names) == {"helios.trainer.loops"}


def test_help_is_given_without_pytorch() -> None:
    assert loaded_by("helios.cli", (*HEAVY, "typer"), "-m", "--help") == {"typer"}


def test_names_and_packages_are_found_and_listed() -> None:
    for name in helios.__all__:
        assert getattr(helios, name) is not None
        assert name in dir(helios)
    for package in ("checkpoints", "core", "data", "errors", "model", "plugins", "trainer"):
        assert getattr(helios, package).__name__ == f"helios.{package}"
        assert package in dir(helios)
    with pytest.raises(AttributeError, match="module 'helios' has no attribute 'Trianer'"):
        helios.Trianer  # noqa: B018
    namespace: dict[str, typing.Any] = {}
    exec("from helios import *", namespace)
    assert set(helios.__all__) <= set(namespace)


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse(Path(helios.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    for name, module in seen.items():
        assert getattr(helios, name) is getattr(importlib.import_module(str(module)), name)
    listed = next(node.value for node in stub.body if isinstance(node, ast.Assign))
    assert ast.literal_eval(listed) == helios.__all__
    assert {*helios.__all__} - {*seen} == {"__version__"}


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
