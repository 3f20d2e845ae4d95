"""Each plug-in of this folder resumes exactly, is short, and uses public names alone."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from plugins_of_authors.best_checkpoint import BestCheckpointPlugin
from plugins_of_authors.lora import LoraPlugin
from plugins_of_authors.nan_guard import NanGuardPlugin
from plugins_of_authors.plateau import PlateauPlugin
from plugins_of_authors.prediction_writer import PredictionWriterPlugin
from plugins_of_authors.pruning import PruningPlugin
from plugins_of_authors.throughput import ThroughputPlugin
from plugins_of_authors.unfreezing import UnfreezingPlugin
from plugins_of_authors.warm_up import WarmUpPlugin

from helios.testing import check_conformance

FOLDER = pathlib.Path(__file__).parent
MODULES = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("test_"))
PLUGINS: dict[str, Callable[[], Any]] = {
    "best_checkpoint": BestCheckpointPlugin,
    "lora": LoraPlugin,
    "nan_guard": NanGuardPlugin,
    "plateau": PlateauPlugin,
    "prediction_writer": PredictionWriterPlugin,
    "pruning": PruningPlugin,
    "throughput": ThroughputPlugin,
    "unfreezing": UnfreezingPlugin,
    "warm_up": WarmUpPlugin,
}
"""Functions that make the plug-in of each module, by the module's name."""


@pytest.mark.parametrize("name", PLUGINS)
def test_resumes_exactly(name: str) -> None:
    check_conformance(PLUGINS[name])


def test_every_module_is_checked() -> None:
    assert [path.stem for path in MODULES] == sorted(PLUGINS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_is_short_and_public(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert not re.search(r"(?<!self)\._[a-z]", text), "a private name of another object"
    assert not re.search(r"from helios\.(core|data|model|trainer|checkpoints)\.", text)
