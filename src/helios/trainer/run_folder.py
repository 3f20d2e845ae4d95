"""The files of a run in its ``run_root``, where other runs may have left theirs."""

import itertools
import json
import pathlib
import re
import secrets
from typing import Any

from helios.plugins import PluginPlan

_PLAN = "plan.json"
_PLANS = re.compile(r"plan(?:-(\d+))?\.json$")
_USUAL = ("metrics.jsonl", "tensorboard")
"""The names that tell a used folder, even if somebody has deleted the plan."""


class RunFolder:
    """The place of a run in a folder: the files of one run, with one number in their names.

    The files of the first run are ``plan.json``, ``metrics.jsonl`` and so on; those of the second
    are ``plan-2.json``, ``metrics-2.jsonl``. The plan of each run holds the key of the run, and
    so do its checkpoints. Thus a resumed run finds its own files again, and no run touches the
    files of another one.

    Args:
        root: the ``run_root``; ``None`` if the run has none.
    """

    def __init__(self, root: pathlib.Path | None) -> None:
        self._root = root
        self._key: str | None = None
        self._number = 1

    def path(self, name: str) -> pathlib.Path:
        """Return the path of a file or folder of this run.

        Args:
            name: its name in the first run of a folder, for example ``"metrics.jsonl"``.
        """
        assert self._root is not None, "a run has files only with Trainer(run_root=...)"
        if self._number == 1:
            return self._root / name
        stem, dot, suffix = name.partition(".")
        return self._root / f"{stem}-{self._number}{dot}{suffix}"

    @property
    def place(self) -> tuple[str | None, int]:
        """The key of the run, and its number in the folder."""
        return self._key, self._number

    def enter(self, place: tuple[str | None, int]) -> None:
        """Use the place that another process of the run has found."""
        self._key, self._number = place

    def state_dict(self) -> str | None:
        """Return the key of the run."""
        return self._key

    def load_state_dict(self, key: str | None) -> None:
        """Restore the key of the run; checkpoints of earlier releases have none."""
        self._key = key

    def find(self, checkpoint: pathlib.Path | None) -> bool:
        """Use the files of the restored run; return whether the folder has them.

        Args:
            checkpoint: the file from which the run was restored, if it was.
        """
        if self._root is None or checkpoint is None:
            return False
        plans = {path: match for path in self._root.iterdir() if (match := _PLANS.match(path.name))}
        for path, match in plans.items():
            if _key_of(path) == self._key:
                self._number = int(match[1] or 1)
                return True
        # Somebody has deleted the plan, and the checkpoint is of no other folder.
        return not plans and checkpoint.absolute().is_relative_to(self._root)

    def claim(self, plan: PluginPlan) -> bool:
        """Use the next free number, and write the plan under it.

        Returns:
            Whether the folder holds the files of other runs.
        """
        if self._root is None:
            return False
        self._key = self._key or secrets.token_hex(8)
        for self._number in itertools.count(1):
            if not any(_is_used(self.path(name)) for name in _USUAL) and self._create(plan):
                break
        return self._number > 1

    def write(self, plan: PluginPlan) -> None:
        """Write the plan with which a resumed run continues; a kill leaves the old one whole."""
        path = self.path(_PLAN)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(self._as_json(plan), encoding="utf-8")
        temporary.replace(path)

    def write_facts(self, name: str, facts: dict[str, Any]) -> None:
        """Write facts about the run as JSON; nothing if the run has no folder."""
        if self._root is not None:
            text = json.dumps(facts, indent=2, default=repr)
            self.path(name).write_text(text + "\n", encoding="utf-8")

    def _create(self, plan: PluginPlan) -> bool:
        try:
            with self.path(_PLAN).open("x", encoding="utf-8") as file:
                file.write(self._as_json(plan))
        except FileExistsError:  # of another run, which may be starting at this moment
            return False
        return True

    def _as_json(self, plan: PluginPlan) -> str:
        return json.dumps({"run": self._key, **plan.to_dict()}, indent=2) + "\n"


def _key_of(plan: pathlib.Path) -> Any:
    """Return the key of the run that wrote a plan; ``None`` for that of an earlier release."""
    try:
        content = json.loads(plan.read_text(encoding="utf-8"))
    except ValueError:
        return ""  # not a plan, so it belongs to no run
    return content.get("run") if isinstance(content, dict) else ""


def _is_used(path: pathlib.Path) -> bool:
    """Return whether a run has left something in a file or a folder."""
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() and path.stat().st_size > 0
