"""``helios plugins bisect``: which of the installed plug-ins make a command fail."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, TypeVar

import typer

from helios.errors import ConfigurationError
from helios.plugins.configuration import read_configuration
from helios.plugins.discovery import EntryPointRecord, discover
from helios.plugins.selection import BLOCK_VARIABLE, Selection, autoload_off

Verdict = Literal["found", "passes", "fails-without", "inconsistent"]

T = TypeVar("T")

_TAIL_LINES = 20


def smallest_failing_set(
    candidates: Sequence[T], fails: Callable[[Sequence[T]], bool]
) -> tuple[Verdict, list[T]]:
    """Find a set of candidates that fails, none of which can be left out.

    The shortest failing prefix ends in a culprit: keep that one on, and look for the next culprit
    before it, until those that were found fail alone. Each is found by halving.

    Args:
        candidates: what can be on.
        fails: whether it fails when these, and no others, are on; always given in the order of
            ``candidates``, and called at most :func:`promised_runs` times.

    Returns:
        ``"found"`` and the set; ``"passes"`` when it does not fail with all of them on;
        ``"fails-without"`` when it does with none; or ``"inconsistent"``, with what had been found
        by then, when no set explains the answers.
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
        return "inconsistent", culprits  # it has failed with exactly these on, and now it passes
    # Without the one found last it has just passed.
    for culprit in culprits[1:]:
        if fails([other for other in culprits if other is not culprit]):
            return "inconsistent", culprits
    return "found", culprits


def promised_runs(candidates: int, culprits: int) -> int:
    """Return how many runs it takes, at most, to find this many culprits.

    One run with everything on and one with nothing; for each culprit ``ceil(log2(candidates))`` to
    find it and one to see whether that was the last; and one for each but the last to see that it
    cannot be left out.
    """
    halvings = (candidates - 1).bit_length()
    return 2 + culprits * (halvings + 1) + culprits - 1


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the command.

    Attributes:
        on: the qualified names of the candidates that were on.
        failed: whether it failed.
        ending: how it ended.
        output: the last lines that it wrote; empty if they were passed through.
    """

    on: tuple[str, ...]
    failed: bool
    ending: str
    output: str


class Prober:
    """Runs a command again and again, with some of the candidates on and the others blocked.

    Args:
        candidates: the plug-ins that are switched on and off.
        command: program and arguments; no shell is involved.
        timeout: after how many seconds a run is ended and counts as failed; ``None`` for never.
        verbose: pass the output of the command through, to standard error.
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
        self.runs: list[Run] = []

    def fails(self, on: Sequence[EntryPointRecord]) -> bool:
        """Whether the command fails when these are on; the answer is recorded and told."""
        off = [record.qualified_name for record in self.candidates if record not in on]
        blocked = ",".join(filter(None, [os.environ.get(BLOCK_VARIABLE), *off]))
        ending, output = self._run({**os.environ, BLOCK_VARIABLE: blocked})
        names = tuple(record.qualified_name for record in on)
        run = Run(names, failed=ending != "exit status 0", ending=ending, output=output)
        self.runs.append(run)
        typer.echo(
            f"run {len(self.runs)}: {'FAILS' if run.failed else 'passes'} ({ending}) with"
            f" {len(on)} of {len(self.candidates)} on: {', '.join(names) or 'none'}",
            err=True,
        )
        return run.failed

    def _run(self, environ: Mapping[str, str]) -> tuple[str, str]:
        """Run the command once; return how it ended, and the last lines of its output."""
        # A file, not a pipe: a process that outlives the command must not keep us waiting.
        with tempfile.TemporaryFile() as file:
            process = subprocess.Popen(
                self.command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__ if self.verbose else file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its workers can be ended with it
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
        typer.Argument(help="What fails: after --, with its arguments.", metavar="COMMAND"),
    ],
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a run counts as failed.", min=1)
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show what COMMAND writes, on standard error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Find the smallest set of plug-ins that makes COMMAND fail, by halving.

    COMMAND is run with fewer and fewer of the installed plug-ins active. A run fails when its exit
    status is not 0. Exit codes: 0 the set was found, 1 there is none, 2 nothing can be tried.
    """
    try:
        candidates = _candidates()
    except ConfigurationError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None
    if not candidates:
        why = autoload_off(os.environ) or "all are blocked, or need what is not installed"
        typer.echo(f"No installed plug-in would be active: {why}.", err=True)
        raise typer.Exit(2)
    typer.echo(
        f"{len(candidates)} plug-ins; at most {promised_runs(len(candidates), 1)} runs if one is to"
        f" blame, {promised_runs(len(candidates), 2)} if two: {shlex.join(command)}",
        err=True,
    )
    prober = Prober(candidates, command, timeout, verbose)
    try:
        verdict, culprits = smallest_failing_set(candidates, prober.fails)
    except OSError as error:
        typer.echo(f"The command cannot be started: {error}.", err=True)
        raise typer.Exit(2) from None
    report = _as_json(verdict, culprits, prober) if as_json else _as_text(verdict, culprits, prober)
    typer.echo(report)
    raise typer.Exit(0 if verdict == "found" else 1)


def _candidates() -> list[EntryPointRecord]:
    """Return the installed plug-ins that environment and project file let be active.

    An allow-list in the file does not count, as the command may override it in ``Trainer()``.
    """
    selection = Selection.gather((), True, (), "raise", os.environ, read_configuration())

    def is_wanted(record: EntryPointRecord) -> bool:
        asked_for = any(record.answers_to(str(name)) for name, _ in selection.explicit)
        return asked_for or autoload_off(os.environ) is None

    return [
        record
        for record in discover()
        if is_wanted(record) and not record.missing and selection.blocked_record(record) is None
    ]


def _as_json(verdict: Verdict, culprits: Sequence[EntryPointRecord], prober: Prober) -> str:
    """Return the report for programs; docs/cli.md describes the keys."""
    report = {
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
        "candidates": [record.qualified_name for record in prober.candidates],
        "runs": [{"on": run.on, "failed": run.failed, "ending": run.ending} for run in prober.runs],
        "promised_runs": (
            promised_runs(len(prober.candidates), len(culprits)) if verdict == "found" else None
        ),
        "output": _last_failure(culprits, prober),
    }
    return json.dumps(report, indent=2)


def _as_text(verdict: Verdict, culprits: Sequence[EntryPointRecord], prober: Prober) -> str:
    """Return the report for people."""
    names = ", ".join(record.qualified_name for record in culprits)
    match verdict:
        case "found":
            report = _found(culprits, prober)
        case "passes":
            report = (
                f"The command does not fail with all {len(prober.candidates)} plug-ins on:"
                " there is nothing to find."
            )
        case "fails-without":
            report = (
                "The command fails without any of the installed plug-ins, too: they are not to"
                " blame.\nObjects that it passes in Trainer(plugins=[...]) cannot be switched off"
                " from here: take them out of the list by hand."
            )
        case "inconsistent":
            report = (
                f"The runs contradict each other, last about {names}: no set of plug-ins explains"
                " them.\nEither the command does not fail in the same way each time (seeds, files"
                " that an earlier run left, a resumed checkpoint), or one plug-in hides the fault"
                " of another."
            )
    output = _last_failure(culprits, prober)
    return f"{report}\n\nThe last lines of its output then:\n{output}" if output else report


def _found(culprits: Sequence[EntryPointRecord], prober: Prober) -> str:
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
            f"{len(prober.runs)} runs; halving {len(prober.candidates)} plug-ins promises at most"
            f" {promised_runs(len(prober.candidates), len(culprits))}.",
            "Switch it off with one of:" if len(culprits) == 1 else "Switch off one, with one of:",
            *(f'  Trainer(block=["{record.qualified_name}"])' for record in culprits),
            *(f"  {BLOCK_VARIABLE}={record.qualified_name}" for record in culprits),
        ]
    )


def _last_failure(culprits: Sequence[EntryPointRecord], prober: Prober) -> str:
    """Return the end of the output of the last failure with exactly these on, or ``""``."""
    names = tuple(record.qualified_name for record in culprits)
    outputs = [run.output for run in prober.runs if run.failed and run.on == names]
    return outputs[-1] if outputs else ""
