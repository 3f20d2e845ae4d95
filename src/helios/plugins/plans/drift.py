"""The differences between the plug-ins of a resumed run and those of its checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

from helios.errors import printable
from helios.plugins.plans.call_record import as_json


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare two plans.

    Args:
        before: the plan in the checkpoint, in the form of ``PluginPlan.to_dict``.
        now: the plan of this run, in the same form.

    Returns:
        A line for each plug-in that is missing, new, renamed, or has another version, class, hook
        or argument, and a line if the order of the common plug-ins differs. The list is empty if
        the plans are equal.
    """
    is_whole = before.get("format", 1) > 1
    old = {entry["id"]: entry for entry in before["active"]}
    new = {entry["id"]: entry for entry in now["active"]}
    missing = [entry for plug_id, entry in old.items() if plug_id not in new]
    added = [entry for plug_id, entry in new.items() if plug_id not in old]
    lines = []
    for entry in list(missing):
        heir = next((other for other in added if _is_same_code(entry, other)), None)
        if heir is not None:
            missing.remove(entry)
            added.remove(heir)
            is_declared = entry["id"] in heir.get("former_ids", ())
            end = "" if is_declared else f"; checkpoints keep its state under {entry['id']!r}"
            lines.append(f"> {entry['id']!r} is now called {heir['id']!r} ({_origin(heir)}){end}")
    lines += [
        f"- {entry['id']!r} ({_origin(entry)}) is no longer active; checkpoints keep its state,"
        " if it has any"
        for entry in missing
    ]
    lines += [f"+ {entry['id']!r} ({_origin(entry)}) is newly active" for entry in added]
    common = [plug_id for plug_id in old if plug_id in new]
    for plug_id in common:
        lines += _changes(plug_id, old[plug_id], new[plug_id], is_whole=is_whole)
    order = [plug_id for plug_id in new if plug_id in old]
    if order != common:
        lines.append(f"~ the order changed from {', '.join(common)} to {', '.join(order)}")
    return lines


def _is_same_code(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if entry["id"] in other.get("former_ids", ()):
        return True
    is_known = bool(entry.get("implementation"))
    return is_known and entry["implementation"] == other.get("implementation")


def _changes(
    plug_id: str, old: Mapping[str, Any], new: Mapping[str, Any], *, is_whole: bool
) -> list[str]:
    """Return the lines for a plug-in in both plans.

    Args:
        plug_id: the id of the plug-in.
        old: its entry in the checkpoint.
        new: its entry in this run.
        is_whole: ``True`` if the old entry holds all arguments.
    """
    lines = []
    if _origin(old) != _origin(new):
        lines.append(f"~ {plug_id!r} changed from {_origin(old)} to {_origin(new)}")
    if old.get("implementation") and old["implementation"] != new["implementation"]:
        lines.append(
            f"~ {plug_id!r} changed from the class {printable(old['implementation'])} to"
            f" {printable(new['implementation'])}"
        )
    if sorted(old.get("hooks", new["hooks"])) != sorted(new["hooks"]):
        lines.append(
            f"~ {plug_id!r} changed its hooks from {', '.join(old['hooks'])} to"
            f" {', '.join(new['hooks'])}"
        )
    before, now = old.get("configuration", {}), new.get("configuration", {})
    for key in sorted(before.keys() | now.keys()):
        was, became = (_shown(key, configuration) for configuration in (before, now))
        if was != became and (is_whole or _is_comparable(key, before)):
            lines.append(f"~ the configuration of {plug_id!r} changed from {was} to {became}")
    return lines


def _shown(key: str, configuration: Mapping[str, Any]) -> str:
    if key not in configuration:
        return f"no {key}"
    value = configuration[key]
    # Equal only if JSON is: 1 is not True.
    is_text = isinstance(value, str)
    return f"{printable(key)}={value!r}" if is_text else f"{printable(key)}={as_json(value)}"


def _is_comparable(key: str, configuration: Mapping[str, Any]) -> bool:
    """Return whether an entry of version 1 holds an argument, and not only its type."""
    value = configuration.get(key)
    return key in configuration and not re.search("<[^>]*>", str(value))


def _origin(entry: Mapping[str, Any]) -> str:
    return printable(f"{entry['distribution']} {entry['version']}".strip()) or "not installed"
