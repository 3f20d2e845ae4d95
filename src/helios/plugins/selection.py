"""Which plug-ins a trainer is to use: from its arguments and the environment to registrations."""

import dataclasses
import inspect
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from helios.errors import ConfigurationError, InvalidPluginError, PluginLoadError, nearest
from helios.plugins import validation
from helios.plugins.discovery import EntryPointRecord, canonical
from helios.plugins.manager import PluginManager
from helios.plugins.plan import Inactive
from helios.plugins.plugin import PLUGIN_REGISTRY, Plugin, create_plugin

if TYPE_CHECKING:
    from helios.trainer import Trainer

DISABLE_VARIABLE = "HELIOS_DISABLE_PLUGIN_AUTOLOAD"
PLUGINS_VARIABLE = "HELIOS_PLUGINS"
BLOCK_VARIABLE = "HELIOS_BLOCK_PLUGINS"

PluginRequest = object
"""An instance, a name, or a pair of a name and keyword arguments."""

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What is wanted, and where it was said.

    Attributes:
        explicit: what was asked for, each with the place where it was.
        autoload: ``True`` for all installed plug-ins, ``False`` for none, or an allow-list.
        blocked: names that are never used, each with the place where it was said.
        on_load_error: ``"raise"``, or ``"skip"`` to go on without what cannot be loaded.
    """

    explicit: tuple[tuple[PluginRequest, str], ...]
    autoload: bool | tuple[str, ...]
    blocked: Mapping[str, str]
    on_load_error: Literal["raise", "skip"]

    @classmethod
    def gather(
        cls,
        plugins: Sequence[PluginRequest],
        autoload: bool | Sequence[str],
        block: Sequence[str],
        on_load_error: Literal["raise", "skip"],
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """Combine a trainer's arguments with the environment.

        The environment adds explicit and blocked names; when it switches autoloading off, an
        allow-list is off as well.

        Raises:
            ConfigurationError: an argument is of the wrong kind.
        """
        for argument, value in (("plugins", plugins), ("block", block), ("autoload", autoload)):
            if isinstance(value, str):
                raise ConfigurationError(
                    f"Trainer({argument}={value!r}) is one string: write a list,"
                    f" {argument}=[{value!r}]."
                )
            if not isinstance(value, bool | list | tuple | set | frozenset) or (
                isinstance(value, bool) and argument != "autoload"
            ):
                choices = "True, False, or a list" if argument == "autoload" else "a list"
                raise ConfigurationError(
                    f"Trainer({argument}={value!r}) is a {type(value).__name__}: write {choices}"
                    " of names."
                )
        if on_load_error not in ("raise", "skip"):
            raise ConfigurationError(
                f"Trainer(on_load_error={on_load_error!r}): write 'raise' or 'skip'."
            )
        explicit = [(request, "Trainer(plugins=...)") for request in plugins]
        explicit += [(name, PLUGINS_VARIABLE) for name in _names(environ, PLUGINS_VARIABLE)]
        blocked = dict.fromkeys(block, "Trainer(block=...)")
        blocked |= dict.fromkeys(_names(environ, BLOCK_VARIABLE), BLOCK_VARIABLE)
        if autoload_off(environ) is not None:
            autoload = False
        return cls(
            explicit=tuple(explicit),
            autoload=autoload if isinstance(autoload, bool) else tuple(autoload),
            blocked=blocked,
            on_load_error=on_load_error,
        )

    def block_of(self, *names: str) -> str | None:
        """Return where one of these names was blocked, or ``None``."""
        for blocked, source in self.blocked.items():
            if any(canonical(blocked) == canonical(name) for name in names):
                return source
        return None

    def blocked_record(self, record: EntryPointRecord) -> str | None:
        """Return where an installed plug-in was blocked, or ``None``."""
        for blocked, source in self.blocked.items():
            if record.answers_to(blocked):
                return source
        return None


def activate(selection: Selection, trainer: "Trainer", manager: PluginManager) -> None:
    """Register what a selection asks for: explicit plug-ins first, in the order given.

    Raises:
        UnknownNameError: a name means nothing; the message offers the nearest names.
        PluginError: a plug-in is invalid, conflicts with another one, or cannot be loaded.
    """
    records = PLUGIN_REGISTRY.refresh()
    ids: set[str] = set()
    try:
        taken: list[EntryPointRecord | None] = []
        for request, source in selection.explicit:
            if not _is_taken(request, taken):
                taken.append(_activate_explicit(request, source, selection, manager, ids))
        allowed = _allowed(selection, records)
        for record in records:
            if record not in taken:
                reason = _reason_against(record, selection, allowed)
                if reason is None:
                    reason = _autoload(record, selection, trainer, manager, ids)
                if reason is not None:
                    manager.inactive.append(
                        Inactive(record.name, record.distribution, record.version, reason)
                    )
    finally:  # a misspelt name may be why something failed
        _warn_of_unknown_blocks(selection, ids)


def autoload_off(environ: Mapping[str, str]) -> str | None:
    """Return how the environment switches autoloading off, or ``None`` if it does not."""
    value = environ.get(DISABLE_VARIABLE, "").strip()
    off = value.lower() not in ("", "0", "false", "no")
    return f"autoloading is off: {DISABLE_VARIABLE}={value}" if off else None


def _names(environ: Mapping[str, str], variable: str) -> list[str]:
    return [name.strip() for name in environ.get(variable, "").split(",") if name.strip()]


def _warn_of_unknown_blocks(selection: Selection, ids: set[str]) -> None:
    known = {canonical(plug_id) for plug_id in ids}
    for name, source in selection.blocked.items():
        if name not in PLUGIN_REGISTRY and canonical(name) not in known:
            warnings.warn(
                f"{source} blocks {name!r}, but no plug-in of this name is installed."
                f"{nearest(name, PLUGIN_REGISTRY.keys())}",
                stacklevel=4,
            )


def _activate_explicit(
    request: PluginRequest,
    source: str,
    selection: Selection,
    manager: PluginManager,
    ids: set[str],
) -> EntryPointRecord | None:
    """Register what was asked for, unless it is blocked; return its entry point, if any."""
    name, kwargs = _parse(request)
    if name is None:
        plug_id = validation.identify(request, None)
        ids.add(plug_id)
        blocked_by = selection.block_of(plug_id)
        if blocked_by is None:
            manager.register(request, reason=f"passed in {source}")
        else:
            _report_blocked(plug_id, blocked_by, source)
        return None
    if name not in PLUGIN_REGISTRY:
        raise PLUGIN_REGISTRY.unknown(name, source)
    record = None if PLUGIN_REGISTRY.is_decorated(name) else PLUGIN_REGISTRY.record(name)
    blocked_by = selection.blocked_record(record) if record else selection.block_of(name)
    if blocked_by is not None:
        _report_blocked(name, blocked_by, source)
        return None
    try:
        plugin = create_plugin(name, **kwargs)
    except Exception as error:
        origin = f" ({record.distribution} {record.version})" if record else ""
        error.add_note(f"while creating the plug-in {name!r}{origin}, named in {source}")
        if record and record.missing:
            error.add_note(f"it needs {', '.join(record.missing)}, which is not installed")
        raise
    own_name = record.name if record else name
    plug_id = validation.identify(plugin, own_name)
    ids.add(plug_id)
    blocked_by = selection.block_of(plug_id)
    if blocked_by is not None:
        _report_blocked(plug_id, blocked_by, source)
        return None
    manager.register(plugin, own_name, reason=f"named in {source}", record=record)
    return record


def _is_taken(request: PluginRequest, taken: list[EntryPointRecord | None]) -> bool:
    """Whether an installed plug-in was named before, perhaps in the environment as well."""
    return isinstance(request, str) and any(r and r.answers_to(request) for r in taken)


def _report_blocked(name: str, blocked_by: str, source: str) -> None:
    _logger.warning("plug-in %r, asked for in %s, is blocked by %s", name, source, blocked_by)


def _parse(request: PluginRequest) -> tuple[str | None, dict[str, Any]]:
    """Return name and keyword arguments of a request; no name if it is an instance."""
    if isinstance(request, str):
        return request, {}
    if isinstance(request, tuple):
        match request:
            case (str(name), dict(kwargs)):
                return name, kwargs
        raise ConfigurationError(
            f"Trainer(plugins=[{request!r}]): write an instance, a name, or a pair of a name and a"
            ' dictionary of keyword arguments, ("ema", {"decay": 0.99}).'
        )
    return None, {}


def _allowed(selection: Selection, records: list[EntryPointRecord]) -> set[EntryPointRecord]:
    """Return the records that may be autoloaded."""
    if isinstance(selection.autoload, bool):
        return set(records) if selection.autoload else set()
    allowed = set()
    for name in selection.autoload:
        record = PLUGIN_REGISTRY.record(name)
        if record is None:
            raise PLUGIN_REGISTRY.unknown(name, "Trainer(autoload=[...])")
        allowed.add(record)
    return allowed


def _reason_against(
    record: EntryPointRecord, selection: Selection, allowed: Iterable[EntryPointRecord]
) -> str | None:
    """Return why an installed plug-in is not even imported, or ``None``."""
    blocked_by = selection.blocked_record(record)
    if blocked_by is not None:
        return f"blocked by {blocked_by}"
    if record not in allowed:
        return "not in the allow-list" if selection.autoload else "autoloading is off"
    if record.missing:
        return f"needs {', '.join(record.missing)}, not installed"
    return None


def _autoload(
    record: EntryPointRecord,
    selection: Selection,
    trainer: "Trainer",
    manager: PluginManager,
    ids: set[str],
) -> str | None:
    """Import, build and register an installed plug-in; return why not, or ``None``."""
    try:
        loaded = record.load()
        reason = _reason_not_to_build(loaded, record, trainer)
        if reason is not None:
            return reason
        plugin = _build(loaded, record)
        try:
            plug_id = validation.identify(plugin, record.name)
            ids.add(plug_id)
            blocked_by = selection.block_of(plug_id)
            if blocked_by is not None:
                return f"blocked by {blocked_by}"
            why = "installed" if selection.autoload is True else "in the allow-list"
            manager.register(plugin, record.name, reason=why, explicit=False, record=record)
        except InvalidPluginError as error:
            what = "is not one that can be used"
            raise record.load_error(what, error, InvalidPluginError) from error
    except (PluginLoadError, InvalidPluginError) as error:
        if selection.on_load_error == "raise":
            raise
        _logger.error("%s", error, exc_info=error.__cause__)
        story = str(error.__cause__).partition("\n")[0]
        return f"FAILED TO LOAD: {type(error.__cause__).__name__}: {story}"
    return None


def _reason_not_to_build(loaded: Any, record: EntryPointRecord, trainer: "Trainer") -> str | None:
    if inspect.isclass(loaded) and issubclass(loaded, Plugin):
        if not loaded.autoload:
            return "not autoloaded: name it in Trainer(plugins=[...])"
        try:
            applies = loaded.applies_to(trainer)
        except Exception as error:
            raise record.load_error("cannot tell whether it applies", error) from error
        if not applies:
            return "does not apply to this trainer"
    if callable(loaded):
        needed = [
            parameter.name
            for parameter in inspect.signature(loaded).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if needed:
            return f"needs arguments ({', '.join(needed)}): pass it in Trainer(plugins=[...])"
    return None


def _build(loaded: Any, record: EntryPointRecord) -> object:
    try:
        return loaded() if callable(loaded) else loaded
    except Exception as error:
        raise record.load_error("could not be built", error) from error
