"""Load one plug-in, or construct a trainer, without starting a run."""

import contextlib
import dataclasses
import inspect
import tempfile
from collections.abc import Sequence
from typing import Any

import helios
from helios.errors import HeliosError, NotApplicable, describe, each_of, printable
from helios.plugins import Plugin, PluginManager
from helios.plugins.activation.arguments import missing_arguments, read_arguments
from helios.plugins.activation.loading import check_installed, parts_of
from helios.plugins.activation.selection import Selection
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.registration.table import Registration


@dataclasses.dataclass(frozen=True)
class LoadedPlugin:
    """A plug-in after its import.

    Attributes:
        loaded: the object that the entry point names: a class, a function, a module or another.
        row: the entry that a trainer would add to its table; ``None`` for a function that was not
            called.
        not_built: the reason why the constructor or the function did not run, or did not finish;
            empty if it did, or if the entry point names the plug-in itself.
    """

    loaded: Any
    row: Registration | None
    not_built: str = ""


def load_plugin(
    record: EntryPointRecord, selection: Selection, manager: PluginManager, *, build: bool
) -> LoadedPlugin:
    """Import a plug-in, and validate it as a trainer would.

    Args:
        record: the entry point of the plug-in.
        selection: holds the keyword arguments of the plug-in.
        manager: numbers the table entries; nothing is registered.
        build: if true, call constructors and functions that have all their required arguments.

    Raises:
        PluginLoadError: the import failed.
        InvalidPluginError: the object is not a plug-in, or one of its hooks cannot be called.
        ConfigurationError: the keyword arguments in the project's file do not fit.
    """
    loaded = record.load()
    if not check_installed(record, loaded):
        return LoadedPlugin(loaded, manager.candidate(loaded, record.name, "", False, record))
    table, given = selection.arguments_for(record.name, record)
    key = selection.configured.key
    arguments = read_arguments(loaded, given, lambda name: key("plugins", table, name))
    source = f" with arguments from {key('plugins', table)}" if given else ""
    plugin, not_built = _build(loaded, arguments, source) if build else (None, "it is not called")
    if plugin is None and inspect.isclass(loaded) and issubclass(loaded, Plugin):
        # The class shows its hooks and its order, even if its constructor did not run.
        plugin = object.__new__(loaded)
        Plugin.__init__(plugin, record.name)
    if plugin is None and not_built:
        return LoadedPlugin(loaded, None, not_built)
    rows = [
        manager.candidate(each, own_name, "", False, own, arguments)
        for each, own_name, own in parts_of(plugin, record.name, record)
    ]
    if type(plugin) in (list, tuple):
        ids = ", ".join(row.id for row in rows)
        return LoadedPlugin(loaded, None, f"its function returned a list of plug-ins: {ids}")
    row = rows[0]
    return LoadedPlugin(loaded, row, not_built)


def _build(loaded: Any, arguments: dict[str, Any], source: str) -> tuple[Any, str]:
    """Return the plug-in that is built and an empty text, or ``None`` and the reason.

    Args:
        loaded: the class or function.
        arguments: its arguments.
        source: the words that say where they come from; may be empty.
    """
    if missing := missing_arguments(loaded, arguments):
        return None, f"it needs arguments: {', '.join(missing)}"
    try:
        return loaded(**arguments), ""
    except KeyboardInterrupt:
        raise
    except NotApplicable as problem:
        return None, f"it does not apply: {printable(str(problem))}"
    except BaseException as error:
        return None, f"it could not be built{source}: {describe(error)}"


def construct_trainer(
    block: Sequence[str] = (), *, with_file: bool = True
) -> tuple[helios.Trainer | None, list[BaseException]]:
    """Construct a trainer as a program in this folder would.

    Args:
        block: the qualified names of plug-ins that the trainer must not use.
        with_file: if false, ignore the project's file.

    Returns:
        The trainer and no errors, or ``None`` and all errors.
    """
    try:
        with contextlib.ExitStack() as stack:
            if not with_file:
                empty_folder = stack.enter_context(tempfile.TemporaryDirectory())
                stack.enter_context(contextlib.chdir(empty_folder))
            trainer = helios.Trainer(total_steps=1, use_cpu=True, print_banner=False, block=block)
        return trainer, []
    except HeliosError as error:
        return None, list(each_of(error))
    except (Exception, SystemExit) as error:
        return None, [error]
