"""Each plug-in of this folder resumes exactly, is short, public, and in the documentation."""

import importlib
import itertools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from pages import page
from plugins_of_authors.accumulation_schedule import AccumulationSchedulePlugin
from plugins_of_authors.batch_size_finder import BatchSizeFinderPlugin
from plugins_of_authors.best_checkpoint import BestCheckpointPlugin
from plugins_of_authors.compiler import CompilerPlugin
from plugins_of_authors.device_monitor import DeviceMonitorPlugin
from plugins_of_authors.early_stopping import EarlyStoppingPlugin
from plugins_of_authors.ema import EMAPlugin
from plugins_of_authors.learning_rate_finder import LearningRateFinderPlugin
from plugins_of_authors.learning_rate_monitor import LearningRateMonitorPlugin
from plugins_of_authors.lora import LoraPlugin
from plugins_of_authors.metric_collection import MetricCollectionPlugin
from plugins_of_authors.nan_guard import NanGuardPlugin
from plugins_of_authors.plateau import PlateauPlugin
from plugins_of_authors.prediction_writer import PredictionWriterPlugin
from plugins_of_authors.profiler import ProfilerPlugin
from plugins_of_authors.pruning import PruningPlugin
from plugins_of_authors.quantisation import QuantisationPlugin
from plugins_of_authors.remote_metrics import RemoteMetricsPlugin
from plugins_of_authors.sample_logger import SampleLoggerPlugin
from plugins_of_authors.swa import SWAPlugin
from plugins_of_authors.throughput import ThroughputPlugin
from plugins_of_authors.timer import TimerPlugin
from plugins_of_authors.unfreezing import UnfreezingPlugin
from plugins_of_authors.warm_up import WarmUpPlugin
from variants import TinyDataWithSize, TinyModelWithLogits, TinyModelWithRate

from helios import Plugin
from helios.plugins.hooks import HOOKS
from helios.testing import check_conformance

FOLDER = pathlib.Path(__file__).parent
MODULES = sorted(
    path for path in FOLDER.glob("*.py") if not path.name.startswith(("test_", "conftest"))
)


def _metric_collection() -> MetricCollectionPlugin:
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    return MetricCollectionPlugin(
        torchmetrics.MetricCollection(
            {"f1": torchmetrics.F1Score(task="multiclass", num_classes=2, average="macro")}
        )
    )


PLUGINS: dict[str, Callable[[], Any]] = {
    "accumulation_schedule": AccumulationSchedulePlugin,
    "batch_size_finder": BatchSizeFinderPlugin,
    "best_checkpoint": BestCheckpointPlugin,
    "compiler": lambda: CompilerPlugin("eager"),
    "device_monitor": DeviceMonitorPlugin,
    "early_stopping": EarlyStoppingPlugin,
    "ema": EMAPlugin,
    "learning_rate_finder": LearningRateFinderPlugin,
    "learning_rate_monitor": LearningRateMonitorPlugin,
    "lora": LoraPlugin,
    "metric_collection": _metric_collection,
    "nan_guard": NanGuardPlugin,
    "plateau": PlateauPlugin,
    "prediction_writer": PredictionWriterPlugin,
    "profiler": ProfilerPlugin,
    "pruning": PruningPlugin,
    "quantisation": QuantisationPlugin,
    "remote_metrics": lambda: RemoteMetricsPlugin("http://127.0.0.1:9"),  # nobody listens
    "sample_logger": SampleLoggerPlugin,
    "swa": SWAPlugin,
    "throughput": ThroughputPlugin,
    "timer": lambda: TimerPlugin(10.0, clock=itertools.count().__next__),  # each batch takes 1 s
    "unfreezing": UnfreezingPlugin,
    "warm_up": WarmUpPlugin,
}
"""Functions that make the plug-in of each module, by the module's name."""
OBJECTS: dict[str, dict[str, Any]] = {
    "batch_size_finder": {"datamodule": TinyDataWithSize},
    "compiler": {"plugins": [QuantisationPlugin(), LoraPlugin()]},  # three in one chain
    "learning_rate_finder": {"model": TinyModelWithRate},
    "metric_collection": {"model": TinyModelWithLogits},
}
"""The arguments of plug-ins that need other models, data, or plug-ins before them."""


@pytest.mark.parametrize("name", PLUGINS)
def test_resumes_exactly(name: str) -> None:
    check_conformance(PLUGINS[name], **OBJECTS.get(name, {}))


def test_every_module_is_checked() -> None:
    assert [path.stem for path in MODULES] == sorted(PLUGINS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_is_short_and_public(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert not re.search(r"(?<!self)\._[a-z]", text), "a private name of another object"
    assert not re.search(r"from helios\.(core|data|model|trainer|checkpoints)\.", text)


def test_the_table_names_the_hooks_of_each_kind() -> None:
    rows = re.findall(r"^\| [^|`]+ \| `(\w+)` \| (.+) \|$", page("write-a-plugin"), re.MULTILINE)
    named = {module: re.findall(r"`(\w+)`", hooks) for module, hooks in rows}
    assert named == {path.stem: _hooks(path.stem) for path in MODULES}


def _hooks(module: str) -> list[str]:
    """Return the hooks that the plug-in of a module implements, besides ``setup``."""
    name = f"plugins_of_authors.{module}"
    (plugin,) = (
        each
        for key, each in vars(importlib.import_module(name)).items()
        if key.endswith("Plugin") and each.__module__ == name
    )
    own = [hook for hook in HOOKS if getattr(plugin, hook) is not getattr(Plugin, hook)]
    return [hook for hook in own if hook != "setup"]
