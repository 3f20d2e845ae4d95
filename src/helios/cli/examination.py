"""``helios plugins doctor``: everything that is wrong, each with its remedy."""

import dataclasses
from collections.abc import Sequence

import typer

from helios.cli.finding import Finding
from helios.cli.import_checks import check_imports
from helios.cli.metadata_checks import check_metadata
from helios.cli.name_checks import Wishes
from helios.cli.output import foreign_code, print_json


def examine(*, imports: bool) -> list[Finding]:
    """Return all findings, errors first.

    Args:
        imports: whether plug-ins may be imported.
    """
    with foreign_code():
        wishes = Wishes.gather()
        findings = [*check_metadata(), *wishes.findings]
        if imports:
            findings += check_imports(wishes, findings)
    return sorted(findings, key=lambda finding: (finding.severity, finding.code, finding.subject))


def report_json(findings: Sequence[Finding], *, imports: bool) -> None:
    """Print the findings as ``docs/schemas/plugins-doctor.json`` says."""
    print_json(
        imported=imports,
        errors=_count(findings, "error"),
        warnings=_count(findings, "warning"),
        findings=[dataclasses.asdict(finding) for finding in findings],
    )


def report(findings: Sequence[Finding], *, imports: bool) -> None:
    """Print the findings for people."""
    print_findings(findings)
    errors, warnings = _count(findings, "error"), _count(findings, "warning")
    typer.echo(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    if not imports:
        typer.echo("Nothing was imported; --import tells as well what cannot be, and conflicts.")


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a paragraph for each finding; the lines are not folded, so that they can be copied."""
    colours = {"error": typer.colors.RED, "warning": typer.colors.YELLOW}
    for finding in findings:
        title = typer.style(f"{finding.severity}: {finding.code}", fg=colours[finding.severity])
        typer.echo(f"{title}: {finding.subject}")
        for line in [finding.what, *finding.where.splitlines()]:
            typer.echo(f"    {line}")
        for remedy in finding.remedies:
            typer.echo(f"  > {remedy}")
        typer.echo()


def _count(findings: Sequence[Finding], severity: str) -> int:
    return sum(finding.severity == severity for finding in findings)
