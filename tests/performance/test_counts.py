"""The instructions of Python and the calls that Helios executes in a step.

The numbers are whole and equal from run to run, so no noise hides what a change costs. They differ
between versions of Python. ``HELIOS_UPDATE_COUNTS=1`` writes them anew:

    HELIOS_UPDATE_COUNTS=1 python -m pytest tests/performance/test_counts.py
"""

import json
import os
import pathlib
import platform
import sys
from types import FrameType
from typing import Any

import pytest
from steps import RUNS, WARM, Validating, fit

import helios

COUNTS = pathlib.Path(__file__).parent / "counts.json"
PYTHON = "python " + ".".join(platform.python_version_tuple()[:2])
PACKAGE = str(pathlib.Path(helios.__file__).parent) + os.sep
UPDATE = "HELIOS_UPDATE_COUNTS=1 python -m pytest tests/performance/test_counts.py"
COUNTED = 50

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="Python 3.13 traces no instructions in frames that run already, such as the loop's",
)


class Counter:
    """Counts what Helios's own code executes, and calls, between two steps of a run."""

    def __init__(self) -> None:
        self.instructions = 0
        self.calls = 0

    def on_step(self, step: int) -> None:
        if step == WARM:
            frame: FrameType | None = sys._getframe()
            while frame is not None:  # frames that run already have to be told
                if self._is_ours(frame):
                    self._watch(frame)
                frame = frame.f_back
            sys.setprofile(self._profile)
            sys.settrace(self._trace)
        elif step == WARM + COUNTED:
            sys.settrace(None)
            sys.setprofile(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._watch(frame) if self._is_ours(frame) else None

    def _watch(self, frame: FrameType) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        frame.f_trace = self._count
        return self._count

    def _count(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.instructions += event == "opcode"
        return self._count

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            caller = frame.f_back
            self.calls += self._is_ours(frame) or (caller is not None and self._is_ours(caller))
        elif event == "c_call":
            self.calls += self._is_ours(frame)

    def _is_ours(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith(PACKAGE)


def count(name: str) -> dict[str, float]:
    """Return the instructions and calls in a step of a run, on average of some steps."""
    counter = Counter()
    tracer, profiler = sys.gettrace(), sys.getprofile()
    try:
        RUNS[name](counter.on_step, WARM + COUNTED + 1)
    finally:
        sys.settrace(tracer)
        sys.setprofile(profiler)
    assert counter.instructions > 0
    return {
        "instructions": round(counter.instructions / COUNTED, 2),
        "calls": round(counter.calls / COUNTED, 2),
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_step_executes_no_more_than_before(name: str) -> None:
    known = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    found = count(name)
    if os.environ.get("HELIOS_UPDATE_COUNTS") == "1":
        known.setdefault(PYTHON, {})[name] = found
        COUNTS.write_text(json.dumps(known, indent=2) + "\n")
        return
    if PYTHON not in known:
        pytest.skip(f"{COUNTS.name} has no figures for {PYTHON}. Add them: {UPDATE}")
    expected = known[PYTHON].get(name)
    story = f"{name!r} executes {found} a step, and {COUNTS.name} says {expected}"
    assert expected is not None, f"{story}. Write the file anew: {UPDATE}"
    for what, number in found.items():
        assert number <= expected[what], (
            f"{story}: Helios has become slower. Find the reason, or, if it is worth that, write"
            f" the file anew: {UPDATE}"
        )
        assert number >= 0.95 * expected[what], (
            f"{story}: Helios has become faster. Write the file anew, so that it stays so: {UPDATE}"
        )


def test_the_optuna_plugin_adds_nothing_to_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")
    from helios.plugins.optuna import OptunaPlugin

    def run(*plugins: helios.Plugin, unit: str) -> dict[str, float]:
        name = f"{len(plugins)} plug-ins, {unit}"
        monkeypatch.setitem(
            RUNS,
            name,
            lambda on_step, steps: fit(
                on_step,
                steps,
                Validating,
                *plugins,
                train_unit=unit,
                total_steps=steps if unit == "iteration" else 1,
                valid_frequency=10**6,
            ),
        )
        return count(name)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for unit in ("iteration", "epoch"):
        plugin = OptunaPlugin(optuna.create_study().ask(), "score")
        assert run(plugin, unit=unit) == run(unit=unit)


def test_the_counter_counts_what_helios_executes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = count("empty step")
    assert count("empty step") == before
    source = "def more(self, *arguments, **keywords):\n    len(''); return real(self, *arguments)"
    real = RUNS["empty step"].__globals__["Empty"].train_step
    space: dict[str, Any] = {"real": real}
    exec(compile(source, PACKAGE + "more.py", "exec"), space)
    monkeypatch.setattr(RUNS["empty step"].__globals__["Empty"], "train_step", space["more"])
    after = count("empty step")
    assert after["instructions"] > before["instructions"] + 5
    assert after["calls"] >= before["calls"] + 2
