"""``helios plugins``: what is installed. Nothing is imported to answer."""

import dataclasses
import json
import os
from typing import Annotated

import typer

from helios.cli.bisect import bisect
from helios.plugins.discovery import EntryPointRecord, discover
from helios.plugins.selection import Selection, autoload_off

app = typer.Typer(help="Look at plug-ins.", no_args_is_help=True)
app.command("bisect")(bisect)


@app.callback()
def plugins() -> None:
    """Take the subcommands."""


@app.command("list")
def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the installed plug-ins, and what their metadata and the environment say of them."""
    records = discover()
    rows = [{**dataclasses.asdict(record), "note": _note(record)} for record in records]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


def _note(record: EntryPointRecord) -> str:
    """Return what is known without importing; the class may still decline when it is loaded."""
    selection = Selection.gather((), True, (), "raise", os.environ)
    blocked_by = selection.blocked_record(record)
    if blocked_by is not None:
        return f"blocked by {blocked_by}"
    if record.missing:
        return f"needs {', '.join(record.missing)}"
    if any(record.answers_to(str(name)) for name, _ in selection.explicit):
        return "asked for by HELIOS_PLUGINS"
    return autoload_off(os.environ) or "may be autoloaded"


def _print_table(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("name", "distribution", "version", "entry point", "note")
    for row in rows:
        table.add_row(*(escape(str(row[key])) for key in _COLUMNS))
    # Piped output is for programs and files: no folding at 80 columns.
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)


_COLUMNS = ("name", "distribution", "version", "value", "note")
