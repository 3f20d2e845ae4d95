"""Runs of the conformance test that have ended, and how their results differ."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from helios.testing.comparison import Difference, difference, equal
from helios.testing.recorder import Recorder, first_other

MODEL, STATE = "state of the model", "state of the plug-in"
METRICS, TEST, LOGGED = "metrics", "metrics of the test", "logged numbers"
NUMBERS = (METRICS, TEST, LOGGED)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes:
        parts: what it ended with, by name.
        recorder: the batches.
        implements: the hooks of the plug-in.
        changes_results: true if the plug-in says so, or if it has stopped the run.
    """

    parts: dict[str, Any]
    recorder: Recorder
    implements: tuple[str, ...]
    changes_results: bool


def differences(
    whole: Trained, resumed: Trained, ignored: frozenset[str] = frozenset()
) -> dict[str, Difference]:
    """Return the parts of two runs that differ.

    Args:
        whole: one run.
        resumed: the other run.
        ignored: the names of numbers that do not count.
    """
    found = {"batch": first_other(whole.recorder.seen, resumed.recorder.seen)}
    for part in whole.parts:
        left, right = whole.parts[part], resumed.parts[part]
        if part in NUMBERS:
            left, right = (_without(numbers, ignored) for numbers in (left, right))
        found[part] = difference(left, right)
    return {part: each for part, each in found.items() if each is not None}


def _without(numbers: dict[str, Any], ignored: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in sorted(numbers.items()) if name not in ignored}


def unstable(first: Trained, second: Trained) -> frozenset[str]:
    """Return the names of the numbers that differ in two equal runs, as times do."""
    return frozenset(
        name
        for part in NUMBERS
        for name, value in first.parts[part].items()
        if not equal(value, second.parts[part].get(name))
    )


def changes(
    bare: Trained, other: Trained, ignored: frozenset[str] = frozenset()
) -> dict[str, Difference]:
    """Return the results that differ from those of a run without the plug-in.

    Numbers of the plug-in do not count.

    Args:
        bare: the run without it.
        other: the run with it.
        ignored: the names of numbers that do not count, either.
    """
    found = {MODEL: difference(bare.parts[MODEL], other.parts[MODEL])}
    for part in NUMBERS:
        expected = _without(bare.parts[part], ignored)
        found[part] = difference(expected, {name: other.parts[part].get(name) for name in expected})
    return {part: each for part, each in found.items() if each is not None}


def lines(found: Mapping[str, Difference], left: str, right: str) -> str:
    """Return a line for each difference, with both values."""
    return "\n".join(
        f"  {part}{each.place}: {each.left} in {left}, {each.right} in {right}"
        for part, each in found.items()
    )
