"""The differences between the plug-ins of a resumed run and those of its checkpoint."""

from collections.abc import Mapping
from typing import Any


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare two plans.

    Args:
        before: the plan in the checkpoint, in the form of ``PluginPlan.to_dict``.
        now: the plan of this run, in the same form.

    Returns:
        A line for each plug-in that is missing, new, renamed, or has another version or
        configuration, and a line if the order of the common plug-ins differs. The list is empty if
        the plans are equal.
    """
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
            lines.append(
                f"> {entry['id']!r} is now called {heir['id']!r} ({_origin(heir)}); checkpoints"
                f" keep its state under {entry['id']!r}"
            )
    lines += [
        f"- {entry['id']!r} ({_origin(entry)}) is no longer active; checkpoints keep its state,"
        " if it has any"
        for entry in missing
    ]
    lines += [f"+ {entry['id']!r} ({_origin(entry)}) is newly active" for entry in added]
    common = [plug_id for plug_id in old if plug_id in new]
    for plug_id in common:
        lines += _changes(plug_id, old[plug_id], new[plug_id])
    order = [plug_id for plug_id in new if plug_id in old]
    if order != common:
        lines.append(f"~ the order changed from {', '.join(common)} to {', '.join(order)}")
    return lines


def _is_same_code(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    is_known = bool(entry.get("implementation"))
    return is_known and entry["implementation"] == other.get("implementation")


def _changes(plug_id: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    lines = []
    if _origin(old) != _origin(new):
        lines.append(f"~ {plug_id!r} changed from {_origin(old)} to {_origin(new)}")
    before, now = old.get("configuration", {}), new.get("configuration", {})
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            lines.append(
                f"~ the configuration of {plug_id!r} changed from {key}={before.get(key)!r} to"
                f" {key}={now.get(key)!r}"
            )
    return lines


def _origin(entry: Mapping[str, Any]) -> str:
    return f"{entry['distribution']} {entry['version']}".strip() or "not installed"
