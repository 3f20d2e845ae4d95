"""The hooks that a plug-in declares for other plug-ins, read from ``Plugin.hookspecs``."""

import inspect
from typing import Any

import pluggy

from helios.errors import InvalidPluginError, describe
from helios.plugins.hooks import HOOKS, HookInfo
from helios.plugins.markers import PROJECT
from helios.plugins.plugin import Plugin


def namespaces_of(plugin: object) -> list[Any]:
    """Return the classes and modules in which a plug-in declares hooks."""
    declared = plugin.hookspecs if isinstance(plugin, Plugin) else ()
    return list(declared) if isinstance(declared, tuple | list) else [declared]


def declared_by(plugin: object) -> dict[str, HookInfo]:
    """Return the hooks that a plug-in declares, by name.

    Raises:
        InvalidPluginError: a declaration is not valid; the message does not name the plug-in.
    """
    found: dict[str, HookInfo] = {}
    for namespace in namespaces_of(plugin):
        manager = pluggy.PluginManager(PROJECT)
        try:
            manager.add_hookspecs(namespace)
        except Exception as error:
            raise InvalidPluginError(
                f"hookspecs contains {namespace!r}, in which pluggy finds no hook"
                f" ({describe(error)}): write a class with functions marked @helios.hookspec."
            ) from error
        for name in [each for each in dir(namespace) if not each.startswith("_")]:
            caller = getattr(manager.hook, name, None)
            value = inspect.getattr_static(namespace, name)
            if caller is not None and caller.spec is not None:
                found[name] = HookInfo(name, tuple(caller.spec.argnames), None)
            elif inspect.isfunction(value) and not inspect.ismodule(namespace):
                raise InvalidPluginError(
                    f"hookspecs contains the function {name}, which is not marked: write"
                    " @helios.hookspec above it."
                )
    for name in found:
        if name in HOOKS or hasattr(Plugin, name):
            raise InvalidPluginError(
                f"hookspecs declares {name}, which every plug-in has already: choose another name."
            )
    return found
