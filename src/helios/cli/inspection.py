"""A look at one plug-in that is installed, imported for the purpose."""

import contextlib
import dataclasses
import inspect
import tempfile
from collections.abc import Sequence
from typing import Any

import helios
from helios.errors import HeliosError, each_of
from helios.plugins import Plugin, PluginManager
from helios.plugins.arguments import missing_arguments, read_arguments
from helios.plugins.discovery import EntryPointRecord
from helios.plugins.selection import Selection
from helios.plugins.table import Registration


@dataclasses.dataclass(frozen=True)
class Inspected:
    """What is known of a plug-in once it is imported.

    Attributes:
        loaded: what the entry point names: a class, a function, a module or another object.
        row: what a trainer would enter into its table; ``None`` of a function that is not called.
        not_built: why the row is that of an object whose constructor has not run, or empty.
    """

    loaded: Any
    row: Registration | None
    not_built: str = ""


def inspect_plugin(
    record: EntryPointRecord, selection: Selection, manager: PluginManager, *, build: bool
) -> Inspected:
    """Import a plug-in and look at it as a trainer would.

    Args:
        record: the plug-in.
        selection: has its keyword arguments.
        manager: numbers the rows; nothing is registered.
        build: whether constructors and functions are called, where no argument is missing.

    Raises:
        PluginLoadError: the import failed.
        InvalidPluginError: it is no plug-in, or one of its hooks could not be called.
        ConfigurationError: its keyword arguments in the project's file do not fit.
    """
    loaded = record.load()
    if not callable(loaded):
        return Inspected(loaded, manager.candidate(loaded, record.name, "", False, record))
    table, given = selection.arguments_for(record.name, record)
    key = selection.configured.key
    arguments = read_arguments(loaded, given, lambda name: key("plugins", table, name))
    plugin, not_built = None, "it is not called"
    if build and (missing := missing_arguments(loaded, arguments)):
        not_built = f"it needs arguments: {', '.join(missing)}"
    elif build:
        try:
            plugin = loaded(**arguments)
        except (Exception, SystemExit) as error:
            not_built = f"it could not be built: {type(error).__name__}: {error}"
        else:
            not_built = ""
    if plugin is None and inspect.isclass(loaded) and issubclass(loaded, Plugin):
        plugin = object.__new__(loaded)
        Plugin.__init__(plugin, record.name)
    if plugin is None and not_built:
        return Inspected(loaded, None, not_built)
    row = manager.candidate(plugin, record.name, "", False, record, arguments)
    return Inspected(loaded, row, not_built)


def start(
    block: Sequence[str] = (), *, with_file: bool = True
) -> tuple[helios.Trainer | None, list[BaseException]]:
    """Construct a trainer as a program in this folder would, or return what keeps it from that.

    Args:
        block: qualified names of plug-ins to leave out.
        with_file: whether the project's file is read.
    """
    try:
        with contextlib.ExitStack() as place:
            if not with_file:
                elsewhere = place.enter_context(tempfile.TemporaryDirectory())
                place.enter_context(contextlib.chdir(elsewhere))
            trainer = helios.Trainer(total_steps=1, use_cpu=True, print_banner=False, block=block)
        return trainer, []
    except HeliosError as error:
        return None, list(each_of(error))
    except (Exception, SystemExit) as error:
        return None, [error]
