"""``helios plugins show``: one plug-in, imported."""

import inspect
import traceback
from typing import Any

import typer

from helios.cli.inspection import Inspected, inspect_plugin
from helios.cli.listing import verdict
from helios.cli.name_checks import Wishes
from helios.cli.output import foreign_code, print_json
from helios.errors import HeliosError
from helios.plugins import PLUGIN_REGISTRY, Plugin, PluginManager
from helios.plugins.discovery import EntryPointRecord
from helios.plugins.plan import columns
from helios.plugins.validation import names_in, source_of


def show(name: str, as_json: bool) -> bool:
    """Print what is to be known of a plug-in; return whether it could be imported."""
    try:
        with foreign_code():
            wishes = Wishes.gather()
            record = PLUGIN_REGISTRY.record(name)
            if record is None:
                raise PLUGIN_REGISTRY.unknown(name, "helios plugins show")
            seen = inspect_plugin(record, wishes.selection, PluginManager(), build=True)
            facts = _facts(record, seen, wishes)
    except HeliosError as error:
        typer.echo(str(error), err=True)
        if error.__cause__ is not None:
            typer.echo("".join(traceback.format_exception(error.__cause__)), err=True)
        return False
    if as_json:
        print_json(plugin=facts)
    else:
        typer.echo(f"{record.value.partition(':')[0]} was imported to tell this.\n")
        typer.echo("\n".join(columns([(key, _text(value)) for key, value in _rows(facts)])))
    return True


def _facts(record: EntryPointRecord, seen: Inspected, wishes: Wishes) -> dict[str, Any]:
    table, configuration = wishes.selection.arguments_for(record.name, record)
    decision, row = verdict(record, wishes), seen.row
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "entry_point": record.value,
        "location": record.location,
        "summary": _summary(seen.loaded),
        "documentation": _documentation(record.distribution),
        "source": source_of(seen.loaded),
        "id": row.id if row else None,
        "hooks": list(row.hooks) if row else None,
        "claims": row.claims if row else None,
        "exclusives": list(names_in(row.plugin, "exclusives")) if row else None,
        "before": list(row.before) if row else None,
        "after": list(row.after) if row else None,
        "critical": row.critical if row else None,
        "autoload": _autoload(seen.loaded),
        "status": decision.status,
        "note": decision.reason,
        "arguments": _arguments(seen.loaded),
        "configuration": configuration,
        "configured_in": wishes.selection.configured.key("plugins", table) if table else None,
        "not_built": seen.not_built or None,
    }


def _summary(loaded: Any) -> str:
    """Return the first paragraph of its own docstring, on one line."""
    docstring = inspect.cleandoc(loaded.__doc__ or "")
    return " ".join(docstring.partition("\n\n")[0].split())


def _documentation(distribution: str) -> str | None:
    """Return the link to the documentation that the metadata name, or else to the project."""
    from importlib_metadata import metadata

    fields = metadata(distribution)
    links = {"homepage": fields.get("Home-page")}
    for text in fields.get_all("Project-URL") or ():
        label, _, link = text.partition(",")
        links[label.strip().lower()] = link.strip()
    return links.get("documentation") or links.get("docs") or links["homepage"]


def _autoload(loaded: Any) -> bool:
    is_class = inspect.isclass(loaded) and issubclass(loaded, Plugin)
    return bool(loaded.autoload) if is_class else True


def _arguments(loaded: Any) -> list[dict[str, Any]]:
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
    """Return what is shown to people, in which a missing fact takes no line."""
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
