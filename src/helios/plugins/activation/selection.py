"""The requested plug-ins, and their source: an argument, the environment, or the project file."""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from helios.errors import (
    ConfigurationError,
    UnmetRequirementError,
    kind_of,
)
from helios.plugins.discovery.configuration import Configuration
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.metadata import canonical
from helios.plugins.registration.blocks import Blocks

DISABLE_VARIABLE = "HELIOS_DISABLE_PLUGIN_AUTOLOAD"
PLUGINS_VARIABLE = "HELIOS_PLUGINS"
BLOCK_VARIABLE = "HELIOS_BLOCK_PLUGINS"
BLOCK_ARGUMENT = "Trainer(block=...)"

PluginRequest = object
"""A plug-in as an instance, as a name, or as a pair of a name and keyword arguments."""


@dataclasses.dataclass(frozen=True)
class Allowed:
    """An entry of an allow-list: a plug-in or a distribution, with optional version specifiers.

    Attributes:
        name: the name of a plug-in, ``distribution:name``, or the name of a distribution.
        requirement: the version specifiers as the user wrote them, or an empty string.
        source: the argument, variable or key that contains the entry.
    """

    name: str
    requirement: str
    source: str

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Read an entry such as ``"helios-ema>=0.1,<1"``.

        Raises:
            ConfigurationError: the entry is not a name with optional version specifiers.
        """
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        parts = re.fullmatch(r"\s*([\w.:-]*[\w])\s*(.*?)\s*", text, re.ASCII)
        try:
            if parts is not None:
                SpecifierSet(parts[2])
                return cls(parts[1], parts[2], source)
        except InvalidSpecifier:
            pass
        raise ConfigurationError(
            f"{source} contains {text!r}: write a name, with version specifiers if you want,"
            ' "helios-ema>=0.1,<1".'
        )

    def check(self, record: EntryPointRecord) -> None:
        """Refuse an installed version that the entry does not allow.

        Raises:
            UnmetRequirementError: the installed version is not allowed.
        """
        from packaging.specifiers import SpecifierSet

        if not SpecifierSet(self.requirement).contains(record.version, prereleases=True):
            wanted = f"{record.distribution}{self.requirement}"
            raise UnmetRequirementError(
                f"{self.source} requires {self.name}{self.requirement}, but {record.distribution}"
                f" {record.version} is installed in {record.location}. Install a matching version"
                f" (pip install {wanted!r}), or change the entry."
            )


@dataclasses.dataclass(frozen=True)
class Selection:
    """The requested and the blocked plug-ins, each with its source.

    Attributes:
        explicit: the requested plug-ins, each with its source.
        autoload: ``True`` for all installed plug-ins, ``False`` for none, or an allow-list.
        blocked: the names of plug-ins that are never used, each with its source.
        on_load_error: ``"raise"``, or ``"skip"`` to skip plug-ins that cannot be loaded.
        configured: the settings of the project file, including keyword arguments.
        autoload_source: the argument or key that contains the allow-list.
    """

    explicit: tuple[tuple[PluginRequest, str], ...]
    autoload: bool | tuple[str, ...]
    blocked: Mapping[str, str]
    on_load_error: Literal["raise", "skip"]
    configured: Configuration = dataclasses.field(default_factory=Configuration)
    autoload_source: str = "Trainer(autoload=[...])"

    @classmethod
    def gather(
        cls,
        plugins: Sequence[PluginRequest],
        autoload: bool | Sequence[str],
        block: Sequence[str],
        on_load_error: Literal["raise", "skip"],
        environ: Mapping[str, str] = os.environ,
        configured: Configuration | None = None,
    ) -> Self:
        """Combine the arguments of a trainer with the environment and the project file.

        Requested names from all sources are combined, and so are blocked names. Each source can
        restrict autoloading. If the environment switches it off, it is off. Otherwise the argument
        decides, unless it is ``True``. In that case, the file decides.

        Raises:
            ConfigurationError: an argument has the wrong type.
        """
        configured = configured or Configuration()
        _check_kinds(plugins, autoload, block, on_load_error)
        explicit = [(request, "Trainer(plugins=...)") for request in plugins]
        explicit += [(name, PLUGINS_VARIABLE) for name in _names(environ, PLUGINS_VARIABLE)]
        explicit += [(name, configured.key("enable")) for name in configured.enable]
        blocked = dict.fromkeys(map(str.strip, block), BLOCK_ARGUMENT)
        for name in _names(environ, BLOCK_VARIABLE):
            blocked.setdefault(name, BLOCK_VARIABLE)
        for name in map(str.strip, configured.block):
            blocked.setdefault(name, configured.key("block"))
        source = "Trainer(autoload=[...])"
        if autoload_off(environ) is not None:
            autoload = False
        elif autoload is True and configured.autoload is not None:
            autoload, source = configured.autoload, configured.key("autoload")
        return cls(
            explicit=tuple(explicit),
            autoload=autoload if isinstance(autoload, bool) else tuple(autoload),
            blocked=blocked,
            on_load_error=on_load_error,
            configured=configured,
            autoload_source=source,
        )

    @functools.cached_property
    def blocks(self) -> Blocks:
        """The blocked names, as an object that knows which plug-ins they mean."""
        return Blocks(self.blocked)

    def arguments_for(
        self, name: str, record: EntryPointRecord | None
    ) -> tuple[str, dict[str, Any]]:
        """Return the keyword arguments for a plug-in in the project file.

        Args:
            name: the name of the plug-in as the user wrote it.
            record: its entry point; ``None`` if it is not installed.

        Returns:
            The name of the table in the file, and the arguments; ``("", {})`` without a table.
        """
        for table, arguments in self.configured.plugins.items():
            if record.answers_to(table) if record else canonical(table) == canonical(name):
                return table, dict(arguments)
        return "", {}


def parse_request(request: PluginRequest) -> tuple[str | None, dict[str, Any]]:
    """Return the name and the keyword arguments of a request; no name for an instance."""
    if isinstance(request, str):
        return request, {}
    if isinstance(request, tuple | list):  # a list from a file
        match request:
            case (str(name), dict(kwargs)):
                return name, kwargs
        raise ConfigurationError(
            f"Trainer(plugins=[{request!r}]): write an instance, a name, or a pair of a name and a"
            ' dictionary of keyword arguments, ("ema", {"decay": 0.99}).'
        )
    return None, {}


def autoload_off(environ: Mapping[str, str]) -> str | None:
    """Return a message if the environment switches autoloading off, otherwise ``None``."""
    value = environ.get(DISABLE_VARIABLE, "").strip()
    off = value.lower() not in ("", "0", "false", "no")
    return f"autoloading is off: {DISABLE_VARIABLE}={value}" if off else None


def _names(environ: Mapping[str, str], variable: str) -> list[str]:
    return [name.strip() for name in environ.get(variable, "").split(",") if name.strip()]


def _check_kinds(plugins: object, autoload: object, block: object, on_load_error: object) -> None:
    for argument, value in (("plugins", plugins), ("block", block), ("autoload", autoload)):
        if isinstance(value, str):
            raise ConfigurationError(
                f"Trainer({argument}={value!r}) is a single string: write a list,"
                f" {argument}=[{value!r}]."
            )
        is_switch = argument == "autoload" and isinstance(value, bool)
        if not is_switch and not isinstance(value, list | tuple | set | frozenset):
            choices = "True, False, or a list" if argument == "autoload" else "a list"
            raise ConfigurationError(
                f"Trainer({argument}={value!r}) is a {kind_of(value)}: write {choices} of names."
            )
        for item in value if isinstance(value, list | tuple | set | frozenset) else ():
            if argument != "plugins" and not isinstance(item, str):
                raise ConfigurationError(
                    f"Trainer({argument}=[...]) contains {item!r}, which is a"
                    f" {kind_of(item)}: write the name of a plug-in or of a distribution."
                )
    if on_load_error not in ("raise", "skip"):
        raise ConfigurationError(
            f"Trainer(on_load_error={on_load_error!r}): write 'raise' or 'skip'."
        )
