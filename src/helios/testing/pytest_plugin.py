"""Fixtures for tests of plug-ins.

Ask for them in a test module, or in the uppermost ``conftest.py``::

    pytest_plugins = ["helios.testing.pytest_plugin"]

No entry point loads the module, so a pytest that does not ask for it is not changed. PyTorch is
imported when a test uses a fixture.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helios.plugins.discovery.entry_points import EntryPointRecord
    from helios.testing import TinyDataModule, TinyModel


@pytest.fixture
def helios_model() -> "TinyModel":
    """A tiny model, which has not been set up."""
    from helios.testing import TinyModel

    return TinyModel()


@pytest.fixture
def helios_datamodule() -> "TinyDataModule":
    """A data module for the tiny model."""
    from helios.testing import TinyDataModule

    return TinyDataModule()


@pytest.fixture
def helios_run_root(tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder of the runs of ``helios_trainer``; it does not exist before the first one."""
    return tmp_path / "run"


@pytest.fixture
def helios_trainer(helios_run_root: pathlib.Path) -> Callable[..., Any]:
    """A function that creates trainers, which train for two epochs on the CPU.

    They use no installed plug-ins; all arguments of ``helios.Trainer`` override the defaults.
    """
    from helios import Trainer

    def create(**arguments: Any) -> Any:
        defaults = {
            "total_steps": 2,
            "valid_frequency": 1,
            "use_cpu": True,
            "print_banner": False,
            "autoload": False,
            "run_root": helios_run_root,
        }
        return Trainer(**{**defaults, **arguments})

    return create


@pytest.fixture
def helios_installed() -> "Mapping[str, EntryPointRecord]":
    """The installed plug-ins by name, read from metadata: nothing is imported.

    If several distributions offer one name, it is ``distribution:name``.
    """
    from helios.plugins.discovery.entry_points import discover

    records = discover()
    names = [record.name for record in records]
    return {
        record.name if names.count(record.name) == 1 else record.qualified_name: record
        for record in records
    }
