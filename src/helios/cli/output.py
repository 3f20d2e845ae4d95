"""The output of the commands: tables, JSON and errors, without the output of plug-ins."""

import contextlib
import dataclasses
import json
import logging
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import typer

from helios.errors import PluginError, PluginProblems, notes_of, printable, text_of
from helios.plugins.plans.plan import columns

FORMAT = 2
"""The version of all JSON documents; it rises if a key changes its meaning or is removed."""


def run(main: Callable[[], Any], command: str) -> NoReturn:
    """Run a command with ``--json``, and exit; an error is one object on standard output.

    Args:
        main: the function that runs the command, without its handling of errors.
        command: the names of the command and its group.
    """
    try:
        code = main()
    except Exception as error:
        told = getattr(error, "format_message", None)  # of errors of click
        print_error(command, error, told() if told else None)
        code = getattr(error, "exit_code", 1) if told else 1
    sys.exit(code)


def print_json(command: str, **document: Any) -> None:
    """Print a document that ``docs/schemas/helios.json`` describes.

    Args:
        command: the names of the command and its group.
        document: the other keys.
    """
    whole = _valid({"version": FORMAT, "command": command, **document})
    typer.echo(json.dumps(whole, indent=2, allow_nan=False, default=repr))


def _valid(value: Any) -> Any:
    """Return a value with numbers that JSON has; the others become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _valid(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(item) for item in value]
    return value


def print_error(command: str, error: BaseException, message: str | None = None) -> None:
    """Print an error as the document that ``docs/schemas/error.json`` describes."""
    print_json(command, error=error_facts(error, message))


def error_facts(error: BaseException, message: str | None = None) -> dict[str, Any]:
    """Return an error as plain data.

    Args:
        error: the error.
        message: its message, if it differs from ``str(error)``.
    """
    about = error if isinstance(error, PluginError) else PluginError()
    cause = error.__cause__
    problems = error.exceptions if isinstance(error, PluginProblems) else ()
    return {
        "type": type(error).__name__,
        "message": text_of(error) if message is None else message,
        "notes": notes_of(error),
        "cause": None if cause is None else "".join(traceback.format_exception(cause)),
        "problems": [error_facts(problem) for problem in problems],
        "claims": list(about.claims),
        "plugins": [dataclasses.asdict(plugin) for plugin in about.plugins],
    }


def fail(command: str, error: Exception, *, as_json: bool, exit_code: int = 1) -> NoReturn:
    """Print an error, as text on standard error or as JSON, and end the command."""
    if as_json:
        print_error(command, error)
    else:
        say(str(error), err=True)
        if isinstance(error, PluginError) and error.__cause__ is not None:
            say("".join(traceback.format_exception(error.__cause__)), err=True)
    raise typer.Exit(exit_code)


def say(text: str = "", *, err: bool = False) -> None:
    """Print text for people, in which escapes replace what could control the terminal.

    Args:
        text: the text, which may have several lines.
        err: if true, print it on standard error.
    """
    typer.echo("\n".join(map(printable, text.expandtabs().split("\n"))), err=err)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with frames on a terminal, in plain aligned columns elsewhere."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        say("\n".join(columns([tuple(header), *map(tuple, rows)])))
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
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
