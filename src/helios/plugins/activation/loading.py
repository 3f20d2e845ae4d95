"""Build a plug-in from the object that an entry point names, which may be anything."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from helios.errors import InvalidPluginError, NotApplicable, PluginLoadError, describe
from helios.plugins.activation.arguments import missing_arguments, signature_of
from helios.plugins.declarations import facts
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.metadata import canonical
from helios.plugins.plugin import Plugin

T = TypeVar("T")


def is_factory(loaded: object) -> bool:
    """Return whether an object is called to get the plug-in; otherwise it is the plug-in itself.

    Raises:
        InvalidPluginError: the object is a class without hooks, or cannot be called by Helios.
    """
    if not callable(loaded):
        return False
    if inspect.isclass(loaded):
        if not issubclass(loaded, Plugin) and not _has_hooks(loaded):
            raise InvalidPluginError(f"the class {_name(loaded)} has no hooks: {_EXPECTED}")
        signature_of(loaded)
        return True
    if isinstance(loaded, Plugin) or _has_hooks(loaded):
        return False
    if inspect.isbuiltin(loaded):
        raise InvalidPluginError(f"{_name(loaded)} is a function of Python itself: {_EXPECTED}")
    signature_of(loaded)
    return True


_EXPECTED = (
    "name a Plugin subclass, a function that returns a plug-in, or a module or object with"
    " functions marked @helios.hookimpl."
)


def _has_hooks(loaded: object) -> bool:
    return any(facts.hook_options(loaded, name) for name in dir(loaded))


def _name(loaded: object) -> str:
    return f"{getattr(loaded, '__module__', '?')}.{getattr(loaded, '__qualname__', '?')}"


def attempt(record: EntryPointRecord, what: str, function: Callable[[], T]) -> T:
    """Call code of an installed plug-in, and return the result.

    Args:
        record: the plug-in.
        what: the words for the error, for example ``"could not be built"``.
        function: the call.

    Raises:
        PluginLoadError: the code raised an error, or wanted to end the process.
        InvalidPluginError: the result is not a plug-in.
        NotApplicable: the code says that it has no plug-in for this process.
    """
    try:
        return function()
    except (KeyboardInterrupt, NotApplicable):
        raise
    except InvalidPluginError as error:
        raise record.load_error("is not valid", error, InvalidPluginError) from error
    except BaseException as error:
        raise record.load_error(what, error) from error


def check_installed(record: EntryPointRecord, loaded: object) -> bool:
    """Return the answer of :func:`is_factory` for an installed plug-in.

    Raises:
        InvalidPluginError: the object is no plug-in; the message names the distribution.
    """
    return attempt(record, "is not valid", lambda: is_factory(loaded))


def reason_not_to_build(
    loaded: Any, record: EntryPointRecord, trainer: Any, arguments: Mapping[str, Any]
) -> str | None:
    """Return the reason not to build an installed plug-in, or ``None``.

    Raises:
        PluginError: the object is no plug-in, or does not answer whether it applies.
    """
    is_called = check_installed(record, loaded)
    if inspect.isclass(loaded) and issubclass(loaded, Plugin):
        if not loaded.autoload:
            return "not autoloaded: name it in Trainer(plugins=[...]) or in tool.helios.enable"
        if not attempt(record, "failed in applies_to", lambda: bool(loaded.applies_to(trainer))):
            return "does not apply to this trainer"
    if is_called:
        needed = attempt(record, "is not valid", lambda: missing_arguments(loaded, arguments))
        if needed:
            return (
                f"requires arguments ({', '.join(needed)}): pass it in Trainer(plugins=[...]), or"
                f" write them below [tool.helios.plugins.{record.name}]"
            )
    return None


def build(loaded: Any, record: EntryPointRecord, arguments: Mapping[str, Any]) -> Any:
    """Return the plug-in that an entry point names.

    Raises:
        PluginError: it cannot be built.
    """
    if not check_installed(record, loaded):
        return loaded
    return attempt(record, "could not be built", lambda: loaded(**arguments))


def contain_exit(
    record: EntryPointRecord | None, name: str, source: str, function: Callable[[], T]
) -> T:
    """Call code of a plug-in that the user has named; it must not end the process.

    Args:
        record: the plug-in, if it is installed.
        name: its name.
        source: the argument, variable or key that contains the name.
        function: the call.

    Raises:
        PluginLoadError: the code wanted to end the process.
    """
    try:
        return function()
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        if record is not None:
            raise record.load_error("wanted to end the process", error) from error
        raise PluginLoadError(
            f"the plug-in {name!r}, named in {source}, wanted to end the process:"
            f" {describe(error)}. Correct its code, or remove the name."
        ) from error


class Part(NamedTuple):
    """A plug-in that a function has returned, perhaps with others.

    Attributes:
        plugin: the plug-in.
        own_name: its id, if the plug-in has no id of its own.
        record: the entry point of the function, under the name of the plug-in if it has returned
            several; ``None`` if it is not installed.
    """

    plugin: object
    own_name: str
    record: EntryPointRecord | None


def parts_of(built: Any, name: str, record: EntryPointRecord | None) -> list[Part]:
    """Return the plug-ins that a function has returned: one, or a list or tuple of several.

    Args:
        built: the return value.
        name: the name of the entry point or of the decorated function.
        record: the entry point; ``None`` if it is not installed.

    Raises:
        InvalidPluginError: the function has returned no plug-in.
    """
    if built is None or (type(built) in (list, tuple) and not built):
        raise InvalidPluginError(
            f"{built!r} is not a plug-in: let the function of {name!r} return a plug-in or a list"
            ' of plug-ins, or raise helios.plugins.NotApplicable("the reason") if it has none for'
            " this process."
        )
    if type(built) not in (list, tuple):
        return [Part(built, name, record)]
    parts = []
    for plugin in {id(plugin): plugin for plugin in built}.values():
        plug_id = facts.identify(plugin, None)
        own = record and dataclasses.replace(record, name=canonical(plug_id))
        parts.append(Part(plugin, plug_id, own))
    return parts
