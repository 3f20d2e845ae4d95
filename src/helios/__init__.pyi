"""The names of ``helios``, which ``__init__.py`` imports at their first use."""

from helios import checkpoints as checkpoints
from helios import core as core
from helios import data as data
from helios import errors as errors
from helios import finders as finders
from helios import model as model
from helios import plugins as plugins
from helios import trainer as trainer
from helios.core import TrainingState, TrainingUnit
from helios.data import DataLoaderParams, DataModule
from helios.model import Model
from helios.plugins import (
    PLUGIN_REGISTRY,
    CUDAPlugin,
    Plugin,
    UniquePluginOverrides,
    create_plugin,
    hookimpl,
    hookspec,
)
from helios.trainer import Trainer, from_command_line

__version__: str

__all__ = [
    "PLUGIN_REGISTRY",
    "CUDAPlugin",
    "DataLoaderParams",
    "DataModule",
    "Model",
    "Plugin",
    "Trainer",
    "TrainingState",
    "TrainingUnit",
    "UniquePluginOverrides",
    "__version__",
    "create_plugin",
    "from_command_line",
    "hookimpl",
    "hookspec",
]
