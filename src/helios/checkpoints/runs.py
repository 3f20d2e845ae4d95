"""The folders of a model's runs: the first run uses the model's own, others are beside it.

The checkpoints of the first run are in ``<chkpt_root>/<save_name>``, those of the second in
``<chkpt_root>/<save_name>/run-2``, and so on.
"""

import pathlib
import re

from helios.checkpoints.folder import candidates

_NAME = re.compile(r"run-(\d+)")


def newest_run(root: pathlib.Path) -> pathlib.Path:
    """Return the folder of the newest run that has checkpoints; the model's own without any.

    Args:
        root: the folder of the model.
    """
    return _numbered(root, _newest_number(root) or 1)


def new_run(root: pathlib.Path) -> pathlib.Path:
    """Return the folder for a new run, which has no checkpoints and need not exist.

    Args:
        root: the folder of the model.
    """
    return _numbered(root, _newest_number(root) + 1)


def _newest_number(root: pathlib.Path) -> int:
    """Return the number of the newest run that has checkpoints, or 0."""
    found = [(int(match[1]), path) for path in _entries(root) if (match := _of_run(path))]
    for number, path in sorted([*found, (1, root)], reverse=True):
        if candidates(path):
            return number
    return 0


def _entries(root: pathlib.Path) -> list[pathlib.Path]:
    return list(root.iterdir()) if root.is_dir() else []


def _of_run(path: pathlib.Path) -> re.Match[str] | None:
    match = _NAME.fullmatch(path.name)
    return match if match and int(match[1]) > 1 and path.is_dir() else None


def _numbered(root: pathlib.Path, number: int) -> pathlib.Path:
    return root if number == 1 else root / f"run-{number}"
