"""The whole check, and its two reports: one for people, one for programs."""

import dataclasses
from collections.abc import Sequence

import typer

from helios.cli.doctor.imports import check_imports
from helios.cli.doctor.metadata import check_metadata
from helios.cli.doctor.names import LocalSelection
from helios.cli.doctor.problem import Problem, Severity
from helios.cli.output import print_json, protect_stdout, say
from helios.errors import printable


def find_problems(*, imports: bool) -> list[Problem]:
    """Return all problems, errors first.

    Args:
        imports: if true, import the plug-ins and construct a trainer.
    """
    with protect_stdout():
        selection = LocalSelection.read()
        problems = [*check_metadata(), *selection.problems]
        if imports:
            problems += check_imports(selection, problems)
    return sorted(problems, key=lambda problem: (problem.severity, problem.code, problem.subject))


def print_json_report(problems: Sequence[Problem], *, imports: bool) -> None:
    """Print the document that ``docs/schemas/plugins-doctor.json`` describes."""
    print_json(
        "plugins doctor",
        imported=imports,
        errors=_count(problems, "error"),
        warnings=_count(problems, "warning"),
        findings=[dataclasses.asdict(problem) for problem in problems],
    )


def print_report(problems: Sequence[Problem], *, imports: bool) -> None:
    """Print the problems for people."""
    print_problems(problems)
    errors, warnings = _count(problems, "error"), _count(problems, "warning")
    say(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    if not imports:
        say("Nothing was imported. Add --import to check imports and conflicts, too.")


def print_problems(problems: Sequence[Problem]) -> None:
    """Print a paragraph for each problem, with unfolded lines that can be copied."""
    colours = {"error": typer.colors.RED, "warning": typer.colors.YELLOW}
    for problem in problems:
        title = typer.style(f"{problem.severity}: {problem.code}", fg=colours[problem.severity])
        typer.echo(f"{title}: {printable(problem.subject)}")
        for line in [problem.what, *problem.where.splitlines()]:
            say(f"    {line}")
        for remedy in problem.remedies:
            say(f"  > {printable(remedy)}")
        say()


def _count(problems: Sequence[Problem], severity: Severity) -> int:
    return sum(problem.severity == severity for problem in problems)
