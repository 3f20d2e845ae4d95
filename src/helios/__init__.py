"""Helios: a small, exact PyTorch trainer that is extended by ``pip install``."""

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
)
from helios.trainer import Trainer

__version__ = "0.2.0.dev0"

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
    "hookimpl",
]
