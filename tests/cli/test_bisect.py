"""``helios plugins bisect``: the search, and real commands. Real plug-ins: tests/installed."""

import importlib.metadata
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from helios.cli.app import app
from helios.cli.bisect import promised_runs, smallest_failing_set
from helios.plugins.discovery.entry_points import discover

PLUGINS = ("cuda", "metrics-file", "preemption", "progress")  # need nothing beyond Helios
PREAMBLE = """
import os, signal, subprocess, sys
blocked = os.environ["HELIOS_BLOCK_PLUGINS"].split(",")
on = {name for name in sys.argv[1].split(",") if f"helios-trainer:{name}" not in blocked}
"""


class Counted:
    """A rule that records its questions, and checks that they keep the order of the candidates."""

    def __init__(self, fails: Callable[[set[int]], bool]) -> None:
        self.rule = fails
        self.asked: list[list[int]] = []

    def __call__(self, on: Sequence[int]) -> bool:
        assert list(on) == sorted(set(on))
        self.asked.append(list(on))
        return self.rule(set(on))


@st.composite
def failures(draw: st.DrawFn) -> tuple[int, set[int]]:
    """Draw a number of candidates, and those that must be on for a failure."""
    number = draw(st.integers(1, 70))
    return number, draw(st.sets(st.integers(0, number - 1), min_size=1, max_size=6))


@given(failures())
def test_exactly_the_culprits_are_found_within_the_promise(drawn: tuple[int, set[int]]) -> None:
    number, culprits = drawn
    fails = Counted(lambda on: on >= culprits)
    assert smallest_failing_set(range(number), fails) == ("found", sorted(culprits))
    assert len(fails.asked) <= promised_runs(number, len(culprits))


@given(st.lists(st.sets(st.integers(0, 11), min_size=1), min_size=1, max_size=6))
def test_of_several_causes_one_is_found_whole(causes: list[set[int]]) -> None:
    fails = Counted(lambda on: any(on >= cause for cause in causes))
    verdict, culprits = smallest_failing_set(range(12), fails)
    assert verdict == "found"
    assert set(culprits) in causes
    assert not any(cause < set(culprits) for cause in causes)
    assert len(fails.asked) <= promised_runs(12, len(culprits))


@given(st.integers(0, 2**32 - 1))
def test_whatever_the_command_does_what_is_found_was_seen(answers: int) -> None:
    def answer(on: Iterable[int]) -> bool:
        return bool(answers >> sum(1 << candidate for candidate in on) & 1)

    fails = Counted(answer)
    verdict, culprits = smallest_failing_set(range(5), fails)
    assert len(fails.asked) <= promised_runs(5, max(1, len(culprits)))
    if verdict == "found":
        assert culprits in fails.asked
        assert answer(culprits)
        for culprit in culprits:
            without = [other for other in culprits if other != culprit]
            assert without in fails.asked
            assert not answer(without)


@pytest.mark.parametrize(
    ("candidates", "culprits", "runs"),
    [(1, 1, 3), (2, 1, 4), (20, 1, 8), (20, 2, 15), (32, 2, 15), (33, 2, 17), (1000, 1, 13)],
)
def test_promise(candidates: int, culprits: int, runs: int) -> None:
    assert promised_runs(candidates, culprits) == runs


@pytest.mark.parametrize(("number", "culprits"), [(1, 1), (20, 1), (20, 2), (32, 2), (32, 3)])
def test_promise_is_not_padded(number: int, culprits: int) -> None:
    def runs(guilty: tuple[int, ...]) -> int:
        fails = Counted(lambda on: on >= set(guilty))
        smallest_failing_set(range(number), fails)
        return len(fails.asked)

    worst = max(map(runs, itertools.combinations(range(number), culprits)))
    assert worst == promised_runs(number, culprits)


def test_nothing_fails_with_everything_on() -> None:
    fails = Counted(lambda on: False)
    assert smallest_failing_set(range(4), fails) == ("passes", [])
    assert fails.asked == [[0, 1, 2, 3]]


def test_everything_fails() -> None:
    fails = Counted(lambda on: True)
    assert smallest_failing_set(range(4), fails) == ("fails-without", [])
    assert fails.asked == [[0, 1, 2, 3], []]


def test_failure_that_does_not_come_again() -> None:
    answers = iter([True, False, False])
    fails = Counted(lambda on: next(answers))
    assert smallest_failing_set(range(1), fails) == ("inconsistent", [0])


def test_candidate_that_hides_the_fault_of_another() -> None:
    # 1 alone fails, 0 mends that, and 2 breaks it again.
    fails = Counted(lambda on: 1 in on and (0 not in on or 2 in on))
    assert smallest_failing_set(range(3), fails) == ("inconsistent", [1, 2])


@pytest.fixture(autouse=True)
def only_some(monkeypatch: pytest.MonkeyPatch, nothing_autoloaded: None) -> None:
    """Block every other plug-in that happens to be installed."""
    monkeypatch.delenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD")
    names = {record.qualified_name for record in discover()}
    others = names - {f"helios-trainer:{name}" for name in PLUGINS}
    monkeypatch.setenv("HELIOS_BLOCK_PLUGINS", ",".join(sorted(others)))


def script(source: str) -> list[str]:
    """Return a command: a script with the set ``on`` of those PLUGINS that are on."""
    return [sys.executable, "-I", "-S", "-c", PREAMBLE + source, ",".join(PLUGINS)]


def bisect(source: str, *options: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["plugins", "bisect", *options, "--", *script(source)])
    assert result.exit_code == exit_code, result.output
    return result


PAIR = """
print("a warning", flush=True)
if on >= {"metrics-file", "progress"}: sys.exit("they do not go together")
"""


def test_pair_is_named_with_the_ways_out() -> None:
    output = bisect(PAIR).stdout
    version = importlib.metadata.version("helios-trainer")
    assert "These 2 plug-ins together make the command fail; without any one of them it" in output
    origin = f"(helios-trainer {version}, helios.plugins.builtin.progress:ProgressPlugin)"
    assert f"  progress  {origin}\n" in output
    assert '  Trainer(block=["helios-trainer:metrics-file"])\n' in output
    assert "  HELIOS_BLOCK_PLUGINS=helios-trainer:progress\n" in output
    assert '  block = ["helios-trainer:progress"]    in [tool.helios] of pyproject.toml\n' in output
    assert "runs; halving 4 plug-ins needs at most 9.\n" in output
    assert output.endswith("a warning\nthey do not go together\n")


def test_single_culprit_is_named() -> None:
    output = bisect("sys.exit('cuda' in on)").stdout
    assert "This plug-in makes the command fail; without it the command passes:\n  cuda" in output
    assert "Switch it off with one of:" in output


def test_each_run_is_told() -> None:
    lines = bisect("sys.exit(3 * ('metrics-file' in on))").stderr.splitlines()
    assert lines[0].startswith("4 plug-ins; at most 5 runs if one is to blame, 9 if two: ")
    cuda, metrics, preemption, progress = (f"helios-trainer:{name}" for name in PLUGINS)
    assert lines[-5:] == [
        f"run 1: FAILS (exit status 3) with 4 of 4 on: {cuda}, {metrics}, {preemption}, {progress}",
        "run 2: passes (exit status 0) with 0 of 4 on: none",
        f"run 3: FAILS (exit status 3) with 2 of 4 on: {cuda}, {metrics}",
        f"run 4: passes (exit status 0) with 1 of 4 on: {cuda}",
        f"run 5: FAILS (exit status 3) with 1 of 4 on: {metrics}",
    ]


def test_json() -> None:
    report = json.loads(bisect(PAIR, "--json").stdout)
    assert report["verdict"] == "found"
    assert report["candidates"] == [f"helios-trainer:{name}" for name in PLUGINS]
    assert [culprit["block"] for culprit in report["culprits"]] == [
        "helios-trainer:metrics-file",
        "helios-trainer:progress",
    ]
    assert {culprit["name"] for culprit in report["culprits"]} == {"metrics-file", "progress"}
    assert len(report["runs"]) <= report["promised_runs"] == 9
    assert report["runs"][0] == {
        "on": report["candidates"],
        "failed": True,
        "ending": "exit status 1",
    }
    assert report["output"] == "a warning\nthey do not go together"


def test_only_the_end_of_a_long_output_is_shown() -> None:
    source = "print('\\n'.join(map(str, range(1000))), flush=True); sys.exit('progress' in on)"
    output = json.loads(bisect(source, "--json").stdout)["output"]
    assert output.split() == [str(line) for line in range(980, 1000)]


def test_verbose_passes_the_output_through(capfd: pytest.CaptureFixture[str]) -> None:
    report = json.loads(bisect(PAIR, "--json", "--verbose").stdout)
    seen = capfd.readouterr()
    assert seen.err.count("a warning") == len(report["runs"])
    assert "a warning" not in seen.out
    assert report["output"] == ""


def test_command_that_passes() -> None:
    output = bisect("pass", exit_code=1).output
    assert "does not fail with all 4 plug-ins on, so the search has nothing to find." in output


def test_command_that_fails_anyway() -> None:
    output = bisect("sys.exit('as ever')", exit_code=1).stdout
    assert "fails without any of the installed plug-ins, too: they are not to blame." in output
    assert output.endswith("as ever\n")


def test_command_that_fails_only_once(tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "marker"
    source = f"""
if on and not os.path.exists({str(marker)!r}):
    open({str(marker)!r}, "w").close()
    sys.exit("only once")
"""
    output = bisect(source, exit_code=1).stdout
    assert "The runs contradict each other, last about helios-trainer:cuda, " in output
    assert "does not fail in the same way each time" in output


def test_command_that_dies() -> None:
    source = "if 'cuda' in on: os.kill(os.getpid(), signal.SIGKILL)"
    report = json.loads(bisect(source, "--json").stdout)
    assert report["runs"][-1]["ending"] == f"signal {int(signal.SIGKILL)}"
    assert [culprit["name"] for culprit in report["culprits"]] == ["cuda"]


def test_command_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("HELIOS_PLUGINS", "cuda")
    source = "if 'cuda' in on: print('waits', flush=True); signal.pause()"
    report = json.loads(bisect(source, "--json", "--timeout", "2.5").stdout)
    assert [run["ending"] for run in report["runs"]] == [
        "not finished after 2.5 s",
        "exit status 0",
        "not finished after 2.5 s",
    ]
    assert [culprit["name"] for culprit in report["culprits"]] == ["cuda"]
    assert report["output"] == "waits"


def test_interrupt_ends_the_command_and_its_workers() -> None:
    source = """
wait = "import signal; signal.alarm(120); print('up', flush=True); signal.pause()"
subprocess.run([sys.executable, "-I", "-S", "-c", wait])
"""
    arguments = ["-m", "helios.cli", "plugins", "bisect", "--verbose", "--", *script(source)]
    with subprocess.Popen(
        [sys.executable, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while process.stderr.readline() not in ("up\n", ""):
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)  # returns when no process is left that could write
    assert process.returncode == 130


def test_every_run_has_empty_input() -> None:
    arguments = [
        "-m",
        "helios.cli",
        "plugins",
        "bisect",
        "--",
        *script("sys.exit(sys.stdin.read() or 0)"),
    ]
    result = subprocess.run(
        [sys.executable, *arguments], input="for the first", capture_output=True, text=True
    )
    assert "does not fail with all 4 plug-ins on" in result.stdout, result.stderr


def test_command_that_does_not_exist() -> None:
    result = CliRunner().invoke(app, ["plugins", "bisect", "--", "no-such-command", "--flag"])
    assert result.exit_code == 2
    assert "The command cannot start: [Errno 2]" in result.stderr
    assert "no-such-command" in result.stderr.splitlines()[-1]


def test_no_command() -> None:
    result = CliRunner().invoke(app, ["plugins", "bisect"])
    assert result.exit_code == 2
    assert "COMMAND" in result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        (
            "HELIOS_DISABLE_PLUGIN_AUTOLOAD",
            "1",
            "autoloading is off: HELIOS_DISABLE_PLUGIN_AUTOLOAD=1",
        ),
        (
            "HELIOS_BLOCK_PLUGINS",
            ",".join(record.qualified_name for record in discover()),
            "all are blocked, or lack a requirement",
        ),
    ],
)
def test_nothing_to_switch_off(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    output = bisect("sys.exit(1)", exit_code=2).stderr
    assert output == f"No installed plug-in would be active: {reason}.\n"


def test_what_is_blocked_stays_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = os.environ["HELIOS_BLOCK_PLUGINS"]
    monkeypatch.setenv("HELIOS_BLOCK_PLUGINS", f"{blocked},CUDA")
    source = "assert 'CUDA' in blocked; sys.exit('cuda' in on and 'progress' in on)"
    report = json.loads(bisect(source, "--json").stdout)
    assert "helios-trainer:cuda" not in report["candidates"]
    assert [culprit["name"] for culprit in report["culprits"]] == ["progress"]


def test_project_file_blocks_and_asks_as_it_does_for_a_trainer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = '[tool.helios]\nblock = ["cuda"]\nenable = ["cuda", "progress"]\n'
    pathlib.Path("pyproject.toml").write_text(table, encoding="utf-8")
    monkeypatch.setenv("HELIOS_DISABLE_PLUGIN_AUTOLOAD", "1")
    report = json.loads(bisect("sys.exit('progress' in on)", "--json").stdout)
    assert report["candidates"] == ["helios-trainer:progress"]


def test_allow_list_of_the_project_leaves_all_candidates(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = '[tool.helios]\nautoload = ["progress"]\n'
    pathlib.Path("pyproject.toml").write_text(table, encoding="utf-8")
    report = json.loads(bisect("sys.exit('cuda' in on)", "--json").stdout)
    assert [culprit["name"] for culprit in report["culprits"]] == ["cuda"]


def test_project_file_that_cannot_be_meant(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("pyproject.toml").write_text("[tool.helios]\nblok = []\n", encoding="utf-8")
    output = bisect("pass", exit_code=2).stderr
    assert "tool.helios.blok" in output
    assert "Did you mean 'block'?" in output
