"""The table ``[tool.helios]`` in ``pyproject.toml``, which configures plug-ins."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from helios.errors import ConfigurationError, nearest, printable

FILE = "pyproject.toml"


def setting(key: str, names: Sequence[str]) -> str:
    """Return the line below ``[tool.helios]`` that sets a list of names, for remedies."""
    return printable(f"{key} = {json.dumps(list(names), ensure_ascii=False)}")


@dataclasses.dataclass(frozen=True)
class Configuration:
    """The settings of a project file for plug-ins; each of them is optional.

    Attributes:
        path: the file; ``None`` if no file applies.
        enable: the names of requested plug-ins, as in ``Trainer(plugins=[...])``.
        autoload: the same value as in ``Trainer(autoload=...)``.
        block: the same names as in ``Trainer(block=[...])``.
        plugins: the keyword arguments by the name of the plug-in. Helios uses them when it
            autoloads the plug-in or creates it by name; they do not make it active.
    """

    path: pathlib.Path | None = None
    enable: tuple[str, ...] = ()
    autoload: bool | tuple[str, ...] | None = None
    block: tuple[str, ...] = ()
    plugins: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def key(self, *parts: str) -> str:
        """Return the name of a key in messages, with the path of the file."""
        return f"{'.'.join(['tool.helios', *parts])} in {self.path}"


def read_configuration(folder: pathlib.Path | None = None) -> Configuration:
    """Read the nearest ``pyproject.toml`` that has a table ``[tool.helios]``.

    Args:
        folder: the first folder of the search, followed by its parents; by default, the current
            folder.

    Raises:
        ConfigurationError: the file cannot be read, or has an invalid key or value.
    """
    folder = (folder or pathlib.Path.cwd()).absolute()
    for path in (place / FILE for place in (folder, *folder.parents)):
        if path.is_file() and (table := _table(path)) is not None:
            return _checked(path, table)
    return Configuration()


def _table(path: pathlib.Path) -> Any:
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        tool = tomllib.loads(text).get("tool")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if isinstance(error, tomllib.TOMLDecodeError) and "helios" not in text:
            return None  # a file of another project, in a parent folder
        raise ConfigurationError(f"{path} is not valid TOML: {error}.") from error
    return tool.get("helios") if isinstance(tool, dict) else None


def _checked(path: pathlib.Path, table: Mapping[str, Any]) -> Configuration:
    known = [field.name for field in dataclasses.fields(Configuration) if field.name != "path"]
    where = Configuration(path)
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where.key()} is {table!r}: write a table, [tool.helios].")
    for key in table:
        if key not in known:
            raise ConfigurationError(
                f"{where.key(key)} is not a known key.{nearest(key, known)} Known keys:"
                f" {', '.join(known)}."
            )
    for key in ("enable", "block"):
        _require(_is_names(table.get(key, [])), where, key, table, 'a list of names, ["ema"]')
    autoload = table.get("autoload", True)
    is_right = isinstance(autoload, bool) or _is_names(autoload)
    _require(is_right, where, "autoload", table, "true, false, or a list of names")
    plugins = table.get("plugins", {})
    _require(
        isinstance(plugins, dict) and all(isinstance(value, dict) for value in plugins.values()),
        *(where, "plugins", table),
        "a table of keyword arguments for each plug-in, [tool.helios.plugins.ema]; for a name"
        " without arguments, use enable",
    )
    return Configuration(
        path=path,
        enable=tuple(table.get("enable", ())),
        autoload=tuple(autoload) if isinstance(autoload, list) else table.get("autoload"),
        block=tuple(table.get("block", ())),
        plugins=plugins,
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _require(
    is_right: bool, where: Configuration, key: str, table: Mapping[str, Any], expected: str
) -> None:
    if not is_right:
        raise ConfigurationError(f"{where.key(key)} is {table[key]!r}: write {expected}.")
