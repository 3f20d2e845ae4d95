"""The import path of a script, for the commands that look at plug-ins."""

import contextlib
import importlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

_NEEDED = (
    *("importlib_metadata", "packaging.requirements", "packaging.specifiers", "tomllib"),
    *("rich.console", "rich.markup", "rich.table"),
)
"""The modules that the commands import late. A file in the folder must not take their place."""


@contextlib.contextmanager
def script_path(script: pathlib.Path | None) -> Iterator[None]:
    """Put the folder of a script first on ``sys.path``, as Python does.

    Args:
        script: the script; ``None`` for one in the current folder.
    """
    folder = str(script.resolve().parent) if script else os.getcwd()
    if sys.flags.safe_path or folder in sys.path or "" in sys.path:
        yield
        return
    for module in _NEEDED:
        importlib.import_module(module)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _see(context: typer.Context, script: pathlib.Path | None) -> None:
    """Let the rest of a command see what a script sees."""
    context.with_resource(script_path(script))


Script = Annotated[
    pathlib.Path | None,
    typer.Option(
        help="See what this script sees, in place of a script in the current folder.",
        exists=True,
        dir_okay=False,
        callback=_see,
    ),
]
"""The option ``--script`` of a command; its callback acts, and the value is not needed."""
