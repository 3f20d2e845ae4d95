"""The cost of plug-ins: calls and time of each hook, for ``Trainer(profile_plugins=True)``."""

import dataclasses
import json
import time
from typing import Any

import pluggy

from helios.plugins.calls.guards import measure
from helios.plugins.plans.plan import columns


@dataclasses.dataclass
class HookCost:
    """The cost of one hook of one plug-in.

    Attributes:
        plugin: the id of the plug-in.
        hook: the name of the hook.
        calls: the number of calls.
        nanoseconds: the total time, including the functions that the hook calls.
    """

    plugin: str
    hook: str
    calls: int = 0
    nanoseconds: int = 0

    def add(self, calls: int, nanoseconds: int) -> None:
        """Add calls and their time."""
        self.calls += calls
        self.nanoseconds += nanoseconds


class PluginProfile:
    """The costs of all plug-ins in one run; its clock starts when it is created."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, str], HookCost] = {}
        self._started = time.perf_counter_ns()

    def watch(self, implementation: pluggy.HookImpl, hook: str) -> None:
        """Start to measure an implementation of a hook."""
        key = (implementation.plugin_name, hook)
        cost = self._costs.setdefault(key, HookCost(*key))
        measure(implementation, cost.add)

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as plain containers, the most expensive first.

        Returns:
            ``wall_seconds`` since the start, and ``hooks``: a list of dictionaries with
            ``plugin``, ``hook``, ``calls``, ``total_seconds``, ``mean_microseconds`` and ``share``
            of the wall time, from 0 to 1. The list contains only hooks that were called.
        """
        wall = time.perf_counter_ns() - self._started
        called = [cost for cost in self._costs.values() if cost.calls]
        return {
            "wall_seconds": wall / 1e9,
            "hooks": [
                {
                    "plugin": cost.plugin,
                    "hook": cost.hook,
                    "calls": cost.calls,
                    "total_seconds": cost.nanoseconds / 1e9,
                    "mean_microseconds": cost.nanoseconds / cost.calls / 1e3,
                    "share": cost.nanoseconds / wall,
                }
                for cost in sorted(called, key=lambda cost: -cost.nanoseconds)
            ],
        }


def as_text(profile: dict[str, Any]) -> str:
    """Return a profile as a table."""
    rows = [("plug-in", "hook", "calls", "total s", "mean us", "share")]
    rows += [
        (
            cost["plugin"],
            cost["hook"],
            str(cost["calls"]),
            f"{cost['total_seconds']:.4f}",
            f"{cost['mean_microseconds']:.1f}",
            f"{cost['share']:.2%}",
        )
        for cost in profile["hooks"]
    ]
    title = f"time in plug-ins, of {profile['wall_seconds']:.2f} s in total"
    return "\n".join([title, *columns(rows)])


def as_json(profile: dict[str, Any]) -> str:
    """Return a profile as JSON."""
    return json.dumps(profile, indent=2) + "\n"
