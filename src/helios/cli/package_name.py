"""The name of a new package, and the names that follow from it."""

import dataclasses
import importlib.util
import keyword
import os
import pathlib
import re
import sys
import unicodedata
from typing import Self

from helios.errors import ConfigurationError
from helios.plugins import PLUGIN_REGISTRY
from helios.plugins.discovery.metadata import canonical

_PREFIX = "helios-"
_LONGEST = 40  # characters: longer ones do not fit in the lines of the templates
_SPELLING = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class PackageName:
    """The name of a package with one plug-in.

    Attributes:
        distribution: the name for pip, which is the name of the folder, too: ``helios-hello``.
    """

    distribution: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check the spelling of a name.

        Raises:
            ConfigurationError: the name is not spelt in the way of all packages, is too long, or is
                a name of Python; the message suggests another spelling.
        """
        if not _SPELLING.fullmatch(text) or text.startswith(_PREFIX * 2):
            suggestion = _respell(text)
            hint = f" Write {suggestion!r}." if suggestion else " Write a name like 'helios-hello'."
            raise ConfigurationError(
                f"{text!r} cannot be the name of a package: use small letters from a to z, digits,"
                f" and single hyphens between them, with a letter first.{hint}"
            )
        if len(text) > _LONGEST:
            raise ConfigurationError(
                f"{text!r} has {len(text)} characters: write a name of at most {_LONGEST}."
            )
        name = cls(text)
        if (kind := _kind_in_python(name.module)) is not None:
            raise ConfigurationError(
                f"{name.module!r} is {kind} of Python, so nobody could import the package: write"
                f" {_PREFIX + text!r}."
            )
        return name

    @property
    def module(self) -> str:
        """The name for ``import``: ``helios_hello``."""
        return self.distribution.replace("-", "_")

    @property
    def plugin(self) -> str:
        """The name and id of the plug-in: ``hello``."""
        return self.distribution.removeprefix(_PREFIX)

    @property
    def class_name(self) -> str:
        """The name of the class of the plug-in: ``HelloPlugin``."""
        words = self.plugin if self.plugin[0].isalpha() else self.distribution
        camel = "".join(word.capitalize() for word in words.split("-"))
        return f"{camel.removesuffix('Plugin')}Plugin"

    def require_free(self, folder: pathlib.Path) -> None:
        """Refuse a name that something else has.

        Args:
            folder: the folder in which the package will be.

        Raises:
            ConfigurationError: the name is in use; the message says by what.
        """
        user = self._user(folder)
        if user is not None:
            raise ConfigurationError(f"{user}: write another name.")

    def _user(self, folder: pathlib.Path) -> str | None:
        if os.path.lexists(folder / self.distribution):
            return f"{folder / self.distribution} exists already"
        if (version := _installed_version(self.distribution)) is not None:
            return f"a distribution {self.distribution!r} is installed ({version})"
        for record in PLUGIN_REGISTRY.refresh():
            if record.name == self.plugin:
                return (
                    f"{record.distribution} {record.version} offers a plug-in {self.plugin!r}, so"
                    f" that of a package {self.distribution!r} could not have this name"
                )
        for name in PLUGIN_REGISTRY.keys():  # noqa: SIM118 - iteration yields pairs
            if canonical(name) == self.plugin:
                return f"a class is registered as {name!r}"
        spec = importlib.util.find_spec(self.module)
        if spec is not None:
            place = spec.origin or ", ".join(spec.submodule_search_locations or ())
            return f"a module {self.module!r} can be imported already ({place})"
        return None


def _kind_in_python(module: str) -> str | None:
    """Return the kind of thing that Python itself calls so, or ``None``."""
    if keyword.iskeyword(module):
        return "a keyword"
    return "a module" if module in sys.stdlib_module_names else None


def _installed_version(distribution: str) -> str | None:
    from importlib_metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _respell(text: str) -> str:
    """Return the right spelling of a name; empty if nothing of it can be used."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", plain)
    spelt = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    while spelt.startswith(_PREFIX * 2):
        spelt = spelt.removeprefix(_PREFIX)
    if spelt and (not spelt[0].isalpha() or _kind_in_python(spelt)):
        spelt = _PREFIX + spelt
    return spelt[:_LONGEST].strip("-")
