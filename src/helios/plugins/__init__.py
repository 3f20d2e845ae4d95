"""The plug-in framework and the built-in plug-ins."""

from helios.errors import NotApplicable
from helios.plugins.hooks import HOOKS
from helios.plugins.hookspecs import PluginSpec
from helios.plugins.markers import hookimpl, hookspec
from helios.plugins.plans.plan import PluginPlan
from helios.plugins.plugin import (
    PLUGIN_REGISTRY,
    CUDAPlugin,
    Plugin,
    UniquePluginOverrides,
    create_plugin,
)
from helios.plugins.registration.manager import PluginManager

__all__ = [
    "HOOKS",
    "PLUGIN_REGISTRY",
    "CUDAPlugin",
    "NotApplicable",
    "Plugin",
    "PluginManager",
    "PluginPlan",
    "PluginSpec",
    "UniquePluginOverrides",
    "create_plugin",
    "hookimpl",
    "hookspec",
]
