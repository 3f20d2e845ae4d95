"""Activation: find the requested plug-ins, build them, and register them."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from helios.errors import (
    AmbiguousPluginError,
    ConfigurationError,
    HeliosError,
    InvalidPluginError,
    NotApplicable,
    PluginError,
    PluginLoadError,
    describe,
    each_of,
    raise_all,
)
from helios.plugins.activation.arguments import check_arguments, missing_arguments, read_arguments
from helios.plugins.activation.block_names import find_misspelt, find_unknown
from helios.plugins.activation.loading import (
    attempt,
    build,
    check_installed,
    contain_exit,
    is_factory,
    parts_of,
    reason_not_to_build,
)
from helios.plugins.activation.selection import (
    Allowed,
    PluginRequest,
    Selection,
    parse_request,
)
from helios.plugins.declarations import facts
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.metadata import canonical
from helios.plugins.discovery.provenance import owner_of
from helios.plugins.plans.call_record import record_call
from helios.plugins.plans.plan import Inactive
from helios.plugins.plugin import PLUGIN_REGISTRY, create_plugin
from helios.plugins.registration.manager import PluginManager
from helios.plugins.registration.table import Registration

_logger = logging.getLogger(__name__)


def activate(selection: Selection, trainer: Any, manager: PluginManager) -> None:
    """Register the plug-ins of a selection: explicit plug-ins first, in the given order.

    The function checks all plug-ins before it registers any of them, so it can report all
    problems.

    Raises:
        UnknownNameError: a name is unknown; the message suggests the nearest names.
        PluginError: a plug-in is invalid, conflicts with another one, or cannot be loaded.
        PluginProblems: several of these problems occurred.
    """
    passed = [getattr(request, "plug_id", None) for request, _ in selection.explicit]
    raise_all([*find_misspelt(selection.blocks, [each for each in passed if each])])
    activation = _Activation(selection, trainer, manager)
    try:
        activation.collect_explicit()
        activation.collect_autoloaded()
        activation.check_configuration()
    finally:  # a misspelt name may be the reason for a failure
        activation.check_blocks()
    activation.finish()


class _Activation:
    """The activation of the plug-ins of one trainer.

    Args:
        selection: the requested and the blocked plug-ins.
        trainer: the argument for ``applies_to`` of plug-ins.
        manager: the manager that registers the plug-ins.
    """

    def __init__(self, selection: Selection, trainer: Any, manager: PluginManager) -> None:
        self._selection = selection
        self._trainer = trainer
        self._manager = manager
        self._blocks = manager.blocks = selection.blocks
        self._rows: list[Registration] = []
        self._inactive: list[Inactive] = []
        self._taken: list[EntryPointRecord] = []
        self._ids: set[str] = set()
        self._problems: list[HeliosError] = []

    def collect_explicit(self) -> None:
        """Build the requested plug-ins."""
        for request, source in self._selection.explicit:
            try:
                self._add_requested(request, source)
            except HeliosError as problem:
                self._problems.append(problem)

    def collect_autoloaded(self) -> None:
        """Build the installed plug-ins that may be autoloaded.

        If none may, a list of them is made only when a plan shows it.
        """
        if self._selection.autoload is False:
            self._manager.unselected = self._not_autoloaded
            return
        allowed = self._allowed()
        for record in PLUGIN_REGISTRY.records():
            if record not in self._taken:
                try:
                    reason = self._reason_not_to_import(record, allowed) or self._autoload(record)
                except HeliosError as problem:
                    self._problems.append(problem)
                else:
                    if reason is not None:
                        self._inactive.append(_skipped(record, reason))

    def _not_autoloaded(self) -> list[Inactive]:
        """Return the installed plug-ins that nobody has named, while autoloading is off."""
        return [
            _skipped(record, self._reason_not_to_import(record, ()) or "")
            for record in PLUGIN_REGISTRY.records()
            if record not in self._taken
        ]

    def check_configuration(self) -> None:
        """Refuse keyword arguments in the project file for unknown plug-ins."""
        configured = self._selection.configured
        for name in configured.plugins:
            try:
                known = PLUGIN_REGISTRY.is_decorated(name) or PLUGIN_REGISTRY.record(name)
                if not known and canonical(name) not in map(canonical, self._ids):
                    raise PLUGIN_REGISTRY.unknown(name, configured.key("plugins", name))
            except HeliosError as problem:
                self._problems.append(problem)

    def finish(self) -> None:
        """Register all plug-ins, or raise all problems."""
        try:
            skip = self._selection.on_load_error == "skip"
            rows, inactive = self._manager.resolve(self._rows, skip)
        except PluginError as problem:
            self._problems.extend(each_of(problem))
        raise_all(self._problems)
        self._manager.enter(rows, [*inactive, *self._inactive])

    def check_blocks(self) -> None:
        """Refuse a blocked name that no plug-in has; outside of Python code, warn."""
        self._problems += find_unknown(self._blocks)

    # Requested plug-ins.

    def _add_requested(self, request: PluginRequest, source: str) -> None:
        name, kwargs = parse_request(request)
        if name is None:
            self._add_instance(request, source)
        elif name not in PLUGIN_REGISTRY:
            raise PLUGIN_REGISTRY.unknown(name, source)
        elif not (kwargs == {} and any(record.answers_to(name) for record in self._taken)):
            self._add_named(name, kwargs, source)

    def _add_instance(self, plugin: object, source: str) -> None:
        """Add an instance."""
        plug_id = facts.identify(plugin, None)
        self._ids.add(plug_id)
        table, _ = self._selection.arguments_for(plug_id, None)
        if table:
            place = self._selection.configured.key("plugins", table)
            _logger.warning(
                "%s has no effect, because %r was passed as an instance", place, plug_id
            )
        is_new = not any(row.plugin is plugin for row in self._rows)
        requested = f"requested in {source}"
        if self._blocks.leave_out(plugin, plug_id, requested, self._inactive):
            return
        if is_new:
            row = self._manager.candidate(plugin, None, f"passed in {source}", explicit=True)
            self._rows.append(row)

    def _add_named(self, name: str, kwargs: dict[str, Any], source: str) -> None:
        """Build a named plug-in and add it."""
        decorated = PLUGIN_REGISTRY.is_decorated(name)
        try:
            record = None if decorated else PLUGIN_REGISTRY.record(name)
        except AmbiguousPluginError:
            self._taken += PLUGIN_REGISTRY.records(name)  # one error is enough
            raise
        if record is not None:
            blocked_by = self._blocks.of_record(record)
        else:
            blocked_by = self._blocks.of_name(name)
        if blocked_by is not None:
            _logger.warning(
                "plug-in %r, requested in %s, is blocked by %s", name, source, blocked_by
            )
            return
        if record is not None:
            self._taken.append(record)
        try:
            built, given = self._built(name, kwargs, source, record)
        except NotApplicable as problem:
            _logger.warning("plug-in %r, named in %s, does not apply: %s", name, source, problem)
            self._inactive.append(_skipped(record, f"does not apply: {problem}", name))
            return
        except Exception as error:
            origin = f" ({record.distribution} {record.version})" if record else ""
            error.add_note(f"while creating the plug-in {name!r}{origin}, named in {source}")
            if record and record.missing:
                error.add_note(f"it requires {', '.join(record.missing)}, which is not installed")
            raise
        own_name = record.name if record else name

        def add() -> None:
            self._add(
                built, own_name, record, f"named in {source}", given, f"requested in {source}"
            )

        if record is not None:
            attempt(record, "is not valid", add)
        else:
            add()

    def _built(
        self, name: str, kwargs: dict[str, Any], source: str, record: EntryPointRecord | None
    ) -> tuple[object, dict[str, Any]]:
        """Return a named plug-in, and the arguments with which it was built, for the plan."""
        factory = PLUGIN_REGISTRY.get(name)
        is_called = check_installed(record, factory) if record else is_factory(factory)
        if not is_called:
            if kwargs:
                raise InvalidPluginError(
                    f"the plug-in {name!r} is an object, so it takes no arguments: remove them"
                    f" ({', '.join(kwargs)})."
                )
            return factory, kwargs
        check_arguments(factory, kwargs, lambda key: f"{key} of {name!r} in {source}")
        kwargs = {**self._configured(factory, name, record), **kwargs}
        if needed := missing_arguments(factory, kwargs):
            raise ConfigurationError(
                f"the plug-in {name!r}, named in {source}, requires arguments"
                f" ({', '.join(needed)}): pass an instance, or a pair of its name and a"
                " dictionary, in Trainer(plugins=[...]), or write them below"
                f" [tool.helios.plugins.{record.name if record else name}] in pyproject.toml."
            )
        with self._naming_the_file(name, record):
            plugin = contain_exit(record, name, source, lambda: create_plugin(name, **kwargs))
        return plugin, record_call(factory, (), kwargs)

    # Installed plug-ins.

    def _allowed(self) -> set[EntryPointRecord]:
        """Return the records of the plug-ins that may be autoloaded."""
        if isinstance(self._selection.autoload, bool):
            return set(PLUGIN_REGISTRY.records()) if self._selection.autoload else set()
        allowed: set[EntryPointRecord] = set()
        for text in self._selection.autoload:
            try:
                entry = Allowed.parse(text, self._selection.autoload_source)
                for record in PLUGIN_REGISTRY.offered(entry.name, entry.source):
                    entry.check(record)
                    allowed.add(record)
            except HeliosError as problem:
                self._problems.append(problem)
        return allowed

    def _reason_not_to_import(
        self, record: EntryPointRecord, allowed: Iterable[EntryPointRecord]
    ) -> str | None:
        """Return the reason not to import an installed plug-in, or ``None``."""
        blocked_by = self._blocks.of_record(record)
        if blocked_by is not None:
            return f"blocked by {blocked_by}"
        if record not in allowed:
            return "not in the allow-list" if self._selection.autoload else "autoloading is off"
        if record.missing:
            return f"requires {', '.join(record.missing)}, which is not installed"
        return None

    def _autoload(self, record: EntryPointRecord) -> str | None:
        """Build an installed plug-in and add it, or return the reason not to."""
        try:
            loaded = record.load()
            check_installed(record, loaded)
            arguments = self._configured(loaded, record.name, record)
            reason = reason_not_to_build(loaded, record, self._trainer, arguments)
            if reason is not None:
                return reason
            with self._naming_the_file(record.name, record):
                built = build(loaded, record, arguments)
            given = record_call(loaded, (), arguments) if callable(loaded) else arguments
            why = "installed" if self._selection.autoload is True else "in the allow-list"
            attempt(
                record, "is not valid", lambda: self._add(built, record.name, record, why, given)
            )
        except NotApplicable as problem:
            return f"does not apply: {problem}"
        except (PluginLoadError, InvalidPluginError) as error:
            if self._selection.on_load_error == "raise":
                raise
            _logger.error("%s", error, exc_info=error.__cause__)
            cause_text = describe(error.__cause__ or error).partition("\n")[0]
            return f"FAILED TO LOAD: {cause_text}"
        return None

    # Shared by both.

    def _add(
        self,
        built: object,
        name: str,
        record: EntryPointRecord | None,
        why: str,
        given: dict[str, Any],
        requested: str = "",
    ) -> None:
        """Add the plug-in, or the plug-ins, that were built; all of them or none.

        Args:
            built: the plug-in, or a list of plug-ins.
            name: the name of its entry point, or of its decorated class.
            record: its entry point; ``None`` if it is not installed.
            why: the reason why it is active.
            given: the arguments with which it was built, for the plan.
            requested: the words that say how it was requested; empty if it was autoloaded.
        """
        rows, blocked = [], list[Inactive]()
        for plugin, own_name, part in parts_of(built, name, record):
            plug_id = facts.identify(plugin, own_name)
            self._ids.add(plug_id)
            if not self._blocks.leave_out(plugin, plug_id, requested, blocked, part):
                reason = _reason(why, plugin, part)
                rows.append(
                    self._manager.candidate(plugin, own_name, reason, bool(requested), part, given)
                )
        self._rows += rows
        self._inactive += blocked

    @contextlib.contextmanager
    def _naming_the_file(self, name: str, record: EntryPointRecord | None) -> Iterator[None]:
        """Add a note to an error of a constructor that got arguments from the project file."""
        table, arguments = self._selection.arguments_for(name, record)
        try:
            yield
        except Exception as error:
            if arguments:
                place = self._selection.configured.key("plugins", table)
                error.add_note(f"with arguments from {place}: {', '.join(arguments)}")
            raise

    def _configured(
        self, factory: Any, name: str, record: EntryPointRecord | None
    ) -> dict[str, Any]:
        """Return the checked keyword arguments for a plug-in from the project file."""
        table, arguments = self._selection.arguments_for(name, record)
        if not callable(factory):
            return arguments
        key = self._selection.configured.key
        return read_arguments(factory, arguments, lambda argument: key("plugins", table, argument))


def _reason(why: str, plugin: object, record: EntryPointRecord | None) -> str:
    """Return the reason why a plug-in is active, with the owner of its code if it is another."""
    owner, version = owner_of(plugin)
    if record is None or not owner or canonical(owner) == canonical(record.distribution):
        return why
    return f"{why}; its code is from {owner} {version}"


def _skipped(record: EntryPointRecord | None, reason: str, name: str = "") -> Inactive:
    if record is None:
        return Inactive(name, "", "", reason)
    return Inactive(record.name, record.distribution, record.version, reason)
