"""The import path of a script in the current folder, for the commands that look at plug-ins."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

_NEEDED = (
    *("importlib_metadata", "packaging.requirements", "packaging.specifiers", "tomllib"),
    *("rich.console", "rich.markup", "rich.table"),
)
"""The modules that the commands import late. A file in the folder must not take their place."""


@contextlib.contextmanager
def script_path() -> Iterator[None]:
    """Put the current folder first on ``sys.path``, as Python does for a script in it."""
    folder = os.getcwd()
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
