"""``helios plugins show``: the facts about one plug-in, which is imported."""

import inspect
from collections.abc import Sequence
from typing import Any

from helios.cli.decision import Decision, decide
from helios.cli.doctor import LocalSelection
from helios.cli.load import LoadedPlugin, load_plugin
from helios.cli.output import fail, print_json, protect_stdout, say
from helios.errors import AmbiguousPluginError, HeliosError
from helios.plugins import PLUGIN_REGISTRY, Plugin, PluginManager
from helios.plugins.declarations.facts import names_in, summary_of
from helios.plugins.discovery.entry_points import EntryPointRecord
from helios.plugins.discovery.source import source_of
from helios.plugins.plans.plan import columns


def print_plugin(name: str, as_json: bool) -> None:
    """Print the facts about a plug-in, or the error of its import."""
    try:
        with protect_stdout():
            local = LocalSelection.read()
            record = _only(PLUGIN_REGISTRY.offered(name, "helios plugins show"), name)
            plugin = load_plugin(record, local.selection, PluginManager(), build=True)
            facts = _facts(record, plugin, local)
    except HeliosError as error:
        fail("plugins show", error, as_json=as_json)
    if as_json:
        print_json("plugins show", plugin=facts)
    else:
        say(f"Helios imported {record.value.partition(':')[0]} to show this.\n")
        say("\n".join(columns([(key, _text(value)) for key, value in _rows(facts)])))


def _only(records: Sequence[EntryPointRecord], name: str) -> EntryPointRecord:
    """Return the only plug-in of a distribution, or raise an error with all of them."""
    if len(records) > 1:
        offers = "\n".join(f"  helios plugins show {r.qualified_name}" for r in records)
        raise AmbiguousPluginError(
            f"the distribution {name!r} offers {len(records)} plug-ins. Show one of them:\n{offers}"
        )
    return records[0]


def _facts(record: EntryPointRecord, plugin: LoadedPlugin, local: LocalSelection) -> dict[str, Any]:
    """Return the facts with the keys of ``docs/schemas/plugins-show.json``."""
    table, configuration = local.selection.arguments_for(record.name, record)
    decision, row = decide(record, local), plugin.row
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "entry_point": record.value,
        "location": record.location,
        "summary": (row.summary if row else "") or summary_of(plugin.loaded),
        "changes_results": row.changes_results if row else None,
        "documentation": _documentation(record.distribution),
        "source": source_of(plugin.loaded),
        "id": row.id if row else None,
        "hooks": list(row.hooks) if row else None,
        "claims": row.claims if row else None,
        "exclusives": list(names_in(row.plugin, "exclusives")) if row else None,
        "before": list(row.before) if row else None,
        "after": list(row.after) if row else None,
        "critical": row.critical if row else None,
        "autoload": _autoload(plugin.loaded),
        "status": decision.status,
        "note": _note(decision, plugin.loaded),
        "arguments": _arguments(plugin.loaded),
        "configuration": configuration,
        "configured_in": local.selection.configured.key("plugins", table) if table else None,
        "not_built": plugin.not_built or None,
    }


def _documentation(distribution: str) -> str | None:
    """Return the link to the documentation in the metadata, or else to the home page."""
    from importlib_metadata import metadata

    fields = metadata(distribution)
    links = {"homepage": fields.get("Home-page")}
    for text in fields.get_all("Project-URL") or ():
        label, _, link = text.partition(",")
        links[label.strip().lower()] = link.strip()
    return links.get("documentation") or links.get("docs") or links["homepage"]


def _note(decision: Decision, loaded: Any) -> str:
    if decision.status == "candidate" and not _autoload(loaded):
        return "not autoloaded, because its class says so: name it to activate it"
    return decision.reason


def _autoload(loaded: Any) -> bool:
    is_class = inspect.isclass(loaded) and issubclass(loaded, Plugin)
    return bool(loaded.autoload) if is_class else True


def _arguments(loaded: Any) -> list[dict[str, Any]]:
    """Return name, annotation and default of each argument of a class or function."""
    if not callable(loaded):
        return []
    arguments = []
    for parameter in inspect.signature(loaded).parameters.values():
        argument: dict[str, Any] = {"name": parameter.name, "annotation": None, "default": None}
        if parameter.annotation is not parameter.empty:
            hint = parameter.annotation
            argument["annotation"] = (
                hint if isinstance(hint, str) else inspect.formatannotation(hint)
            )
        argument["is_required"] = parameter.default is parameter.empty
        if not argument["is_required"]:
            argument["default"] = repr(parameter.default)
        arguments.append(argument)
    return arguments


def _rows(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the lines for people; a missing fact has no line."""
    rows = [(key.replace("_", " "), facts[key]) for key in facts if key != "arguments"]
    rows += [("argument", _argument(argument)) for argument in facts["arguments"]]
    return [(key, value) for key, value in rows if value not in (None, [], {}, "")]


def _argument(argument: dict[str, Any]) -> str:
    annotation = f": {argument['annotation']}" if argument["annotation"] else ""
    default = "" if argument["is_required"] else f" = {argument['default']}"
    return f"{argument['name']}{annotation}{default}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} ({how})" for key, how in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
