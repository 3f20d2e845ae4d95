"""The output of the commands: tables and JSON, without the output of plug-ins."""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from helios.plugins.plan import columns

FORMAT = 1
"""The version of all JSON documents; it rises if a key changes its meaning or is removed."""


def print_json(**document: Any) -> None:
    """Print a document that ``docs/schemas`` describes."""
    typer.echo(json.dumps({"version": FORMAT, **document}, indent=2, default=repr))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with frames on a terminal, in plain aligned columns elsewhere."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        typer.echo("\n".join(columns([tuple(header), *map(tuple, rows)])))
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


@contextlib.contextmanager
def protect_stdout() -> Iterator[None]:
    """Send the output of plug-ins to standard error; silence warnings and the log of Helios."""
    logger = logging.getLogger("helios")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
