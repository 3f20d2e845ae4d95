"""``helios plugins``: what is installed, what would be active, and what is wrong with it."""

from typing import Annotated

import typer

from helios.cli import examination, listing, planning, showing
from helios.cli.bisect import bisect

app = typer.Typer(
    help="Look at plug-ins. Nothing is imported, except by show and where --import says so."
    " Exit codes: 0 if all is well, 1 for errors, 2 for a call that cannot be understood.",
    no_args_is_help=True,
    rich_markup_mode=None,  # or [tool.helios] would be taken for markup
)
app.command("bisect")(bisect)

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Imports = Annotated[
    bool, typer.Option("--import", help="Import the plug-ins and construct a trainer, too.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Let warnings count as errors.")]


@app.callback()
def plugins() -> None:
    """Take the subcommands."""


@app.command("list")
def list_plugins(as_json: AsJSON = False) -> None:
    """List the installed plug-ins, and what metadata, environment and [tool.helios] say of them.

    Exit code: 1 if [tool.helios] cannot be read, 0 otherwise.
    """
    _exit_with(listing.list_installed(as_json))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Its name, or distribution:name.")],
    as_json: AsJSON = False,
) -> None:
    """Import one plug-in, and show what it does and takes.

    Exit code: 1 if there is none of this name, or if it cannot be imported, 0 otherwise.
    """
    _exit_with(showing.show(name, as_json))


@app.command()
def plan(imports: Imports = False, as_json: AsJSON = False) -> None:
    """Tell what a trainer that is started in this folder would activate, and why.

    Exit code: 1 if something keeps it from that, 0 otherwise.
    """
    answer = planning.plan_with_imports if imports else planning.plan_without_imports
    _exit_with(answer(as_json))


@app.command()
def doctor(imports: Imports = False, as_json: AsJSON = False, strict: Strict = False) -> None:
    """Find what is wrong with the installed plug-ins, each with its remedy.

    Exit code: 1 if there is an error, with --strict also for a warning, 0 otherwise.
    """
    findings = examination.examine(imports=imports)
    report = examination.report_json if as_json else examination.report
    report(findings, imports=imports)
    _exit_with(not any(strict or finding.severity == "error" for finding in findings))


def _exit_with(all_is_well: bool) -> None:
    if not all_is_well:
        raise typer.Exit(1)
