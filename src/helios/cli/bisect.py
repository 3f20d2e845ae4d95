"""``helios plugins bisect``: find the installed plug-ins that make a command fail."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import typer

from helios.cli.output import fail, print_json, say
from helios.cli.script_path import Script
from helios.errors import ConfigurationError
from helios.plugins.activation.selection import BLOCK_VARIABLE, Selection, autoload_off
from helios.plugins.discovery.configuration import read_configuration, setting
from helios.plugins.discovery.entry_points import EntryPointRecord, discover

Verdict = Literal["found", "passes", "fails-without", "inconsistent"]

T = TypeVar("T")

_TAIL_LINES = 20


def smallest_failing_set(
    candidates: Sequence[T], fails: Callable[[Sequence[T]], bool]
) -> tuple[Verdict, list[T]]:
    """Find a set of candidates that fails, and in which each member is necessary.

    The shortest failing prefix ends in a culprit. The search keeps this culprit on, and looks for
    the next one before it, until the culprits fail alone. Each culprit is found by halving.

    Args:
        candidates: the candidates that can be switched on.
        fails: a function that returns true if the command fails with these candidates, and no
            others, on. It gets them in the order of ``candidates``, and is called at most
            :func:`promised_runs` times.

    Returns:
        ``"found"`` and the set; ``"passes"`` if the command does not fail with all candidates on;
        ``"fails-without"`` if it fails with none of them on; or ``"inconsistent"`` and the culprits
        so far, if no set explains the answers.
    """
    if not fails(candidates):
        return "passes", []
    if fails([]):
        return "fails-without", []
    culprits: list[T] = []
    rest = candidates
    while rest:
        passing, failing = 0, len(rest)
        while failing - passing > 1:
            middle = (passing + failing) // 2
            if fails([*rest[:middle], *culprits]):
                failing = middle
            else:
                passing = middle
        culprits.insert(0, rest[passing])
        rest = rest[:passing]
        if fails(culprits):
            break
    else:
        return "inconsistent", culprits  # with exactly these on it failed before, and now passes
    # The first culprit was found last: the command has just passed without it.
    for culprit in culprits[1:]:
        if fails([other for other in culprits if other is not culprit]):
            return "inconsistent", culprits
    return "found", culprits


def promised_runs(candidates: int, culprits: int) -> int:
    """Return the largest number of runs that the search needs for this many culprits.

    One run has all candidates on, and one has none. Each culprit takes ``ceil(log2(candidates))``
    runs to find, and one to see whether it was the last. Each culprit but one takes another run to
    see that it is necessary.
    """
    halvings = (candidates - 1).bit_length()
    return 2 + culprits * (halvings + 1) + culprits - 1


@dataclasses.dataclass(frozen=True)
class CommandRun:
    """One run of the command.

    Attributes:
        on: the qualified names of the candidates that were on.
        failed: true if it failed.
        ending: its exit status or signal, or its timeout, in words.
        output: its last lines; empty if the output was passed through.
    """

    on: tuple[str, ...]
    failed: bool
    ending: str
    output: str


class CommandRunner:
    """A command that is run again and again, with some candidates on and the others blocked.

    Args:
        candidates: the plug-ins to switch on and off.
        command: the program and its arguments; no shell is involved.
        timeout: the seconds after which a run is killed and counts as failed; ``None`` for no
            limit.
        verbose: if true, pass the output of the command through, to standard error.
    """

    def __init__(
        self,
        candidates: Sequence[EntryPointRecord],
        command: Sequence[str],
        timeout: float | None,
        verbose: bool,
    ) -> None:
        self.candidates = candidates
        self.command = command
        self.timeout = timeout
        self.verbose = verbose
        self.runs: list[CommandRun] = []

    def fails(self, on: Sequence[EntryPointRecord]) -> bool:
        """Return true if the command fails with these on; record the run, and print a line."""
        off = [record.qualified_name for record in self.candidates if record not in on]
        blocked = ",".join(filter(None, [os.environ.get(BLOCK_VARIABLE), *off]))
        ending, output = self._run({**os.environ, BLOCK_VARIABLE: blocked})
        names = tuple(record.qualified_name for record in on)
        run = CommandRun(names, failed=ending != "exit status 0", ending=ending, output=output)
        self.runs.append(run)
        say(
            f"run {len(self.runs)}: {'FAILS' if run.failed else 'passes'} ({ending}) with"
            f" {len(on)} of {len(self.candidates)} on: {', '.join(names) or 'none'}",
            err=True,
        )
        return run.failed

    def _run(self, environ: Mapping[str, str]) -> tuple[str, str]:
        """Run the command once; return its ending and the last lines of its output."""
        # A file, not a pipe: Helios need not wait for a process that outlives the command.
        with tempfile.TemporaryFile() as file:
            process = subprocess.Popen(
                self.command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__ if self.verbose else file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its workers can be killed with it
            )
            try:
                status = process.wait(self.timeout)
                ending = f"exit status {status}" if status >= 0 else f"signal {-status}"
            except subprocess.TimeoutExpired:
                ending = f"not finished after {self.timeout:g} s"
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
        return ending, "\n".join(lines[-_TAIL_LINES:])


def bisect(
    command: Annotated[
        list[str],
        typer.Argument(help="The command that fails: after --, with arguments.", metavar="COMMAND"),
    ],
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a run counts as failed.", min=1)
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the output of COMMAND, on standard error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    script: Script = None,
) -> None:
    """Find a minimal set of plug-ins that makes COMMAND fail.

    The search halves: it runs COMMAND with fewer and fewer of the installed plug-ins active. A run
    fails if its exit status is not 0.

    Exit code: 0 if a set was found, 1 if not, 2 if nothing could be run.
    """
    try:
        candidates = _candidates()
    except ConfigurationError as error:
        fail("plugins bisect", error, as_json=as_json, exit_code=2)
    if not candidates:
        why = autoload_off(os.environ) or "all are blocked, or lack a requirement"
        nothing = ConfigurationError(f"No installed plug-in would be active: {why}.")
        fail("plugins bisect", nothing, as_json=as_json, exit_code=2)
    say(
        f"{len(candidates)} plug-ins; at most {promised_runs(len(candidates), 1)} runs if one is to"
        f" blame, {promised_runs(len(candidates), 2)} if two: {shlex.join(command)}",
        err=True,
    )
    runner = CommandRunner(candidates, command, timeout, verbose)
    try:
        verdict, culprits = smallest_failing_set(candidates, runner.fails)
    except OSError as error:
        no_start = ConfigurationError(f"The command cannot start: {error}.")
        fail("plugins bisect", no_start, as_json=as_json, exit_code=2)
    if as_json:
        print_json("plugins bisect", **_json_report(verdict, culprits, runner))
    else:
        say(_text_report(verdict, culprits, runner))
    raise typer.Exit(0 if verdict == "found" else 1)


def _candidates() -> list[EntryPointRecord]:
    """Return the installed plug-ins that the environment and the project's file allow.

    An allow-list in the file does not count, because the command may override it in ``Trainer()``.
    """
    selection = Selection.gather((), True, (), "raise", os.environ, read_configuration())

    def is_wanted(record: EntryPointRecord) -> bool:
        asked_for = any(record.answers_to(str(name)) for name, _ in selection.explicit)
        return asked_for or autoload_off(os.environ) is None

    return [
        record
        for record in discover()
        if is_wanted(record) and not record.missing and selection.blocks.of_record(record) is None
    ]


def _json_report(
    verdict: Verdict, culprits: Sequence[EntryPointRecord], runner: CommandRunner
) -> dict[str, Any]:
    """Return the report for programs, with the keys of ``docs/schemas/plugins-bisect.json``."""
    return {
        "verdict": verdict,
        "culprits": [
            {
                "name": record.name,
                "distribution": record.distribution,
                "version": record.version,
                "block": record.qualified_name,
            }
            for record in culprits
        ],
        "candidates": [record.qualified_name for record in runner.candidates],
        "runs": [{"on": run.on, "failed": run.failed, "ending": run.ending} for run in runner.runs],
        "promised_runs": (
            promised_runs(len(runner.candidates), len(culprits)) if verdict == "found" else None
        ),
        "output": _last_failure(culprits, runner),
    }


def _text_report(
    verdict: Verdict, culprits: Sequence[EntryPointRecord], runner: CommandRunner
) -> str:
    """Return the report for people."""
    names = ", ".join(record.qualified_name for record in culprits)
    match verdict:
        case "found":
            report = _culprits_as_text(culprits, runner)
        case "passes":
            report = (
                f"The command does not fail with all {len(runner.candidates)} plug-ins on, so the"
                " search has nothing to find."
            )
        case "fails-without":
            report = (
                "The command fails without any of the installed plug-ins, too: they are not to"
                " blame.\nThe search cannot switch off objects that the command passes in"
                " Trainer(plugins=[...]): remove them from the list by hand."
            )
        case "inconsistent":
            report = (
                f"The runs contradict each other, last about {names}: no set of plug-ins explains"
                " them.\nEither the command does not fail in the same way each time (seeds, files"
                " from an earlier run, a resumed checkpoint), or one plug-in hides the fault of"
                " another."
            )
    output = _last_failure(culprits, runner)
    return (
        f"{report}\n\nThe last lines of the output of this failure:\n{output}" if output else report
    )


def _culprits_as_text(culprits: Sequence[EntryPointRecord], runner: CommandRunner) -> str:
    if len(culprits) == 1:
        heading = "This plug-in makes the command fail; without it the command passes:"
    else:
        heading = (
            f"These {len(culprits)} plug-ins together make the command fail; without any one of"
            " them it passes:"
        )
    return "\n".join(
        [
            heading,
            *(f"  {r.name}  ({r.distribution} {r.version}, {r.value})" for r in culprits),
            f"{len(runner.runs)} runs; halving {len(runner.candidates)} plug-ins needs at most"
            f" {promised_runs(len(runner.candidates), len(culprits))}.",
            "Switch it off with one of:" if len(culprits) == 1 else "Switch off one with one of:",
            *(f'  Trainer(block=["{record.qualified_name}"])' for record in culprits),
            *(f"  {BLOCK_VARIABLE}={record.qualified_name}" for record in culprits),
            *(
                f"  {setting('block', [r.qualified_name])}    in [tool.helios] of pyproject.toml"
                for r in culprits
            ),
        ]
    )


def _last_failure(culprits: Sequence[EntryPointRecord], runner: CommandRunner) -> str:
    """Return the last lines of the last failure with exactly these on, or ``""``."""
    names = tuple(record.qualified_name for record in culprits)
    outputs = [run.output for run in runner.runs if run.failed and run.on == names]
    return outputs[-1] if outputs else ""
