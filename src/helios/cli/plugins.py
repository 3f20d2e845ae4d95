"""``helios plugins``: the commands that show plug-ins, find their problems, and create new ones."""

from typing import Annotated

import typer

from helios.cli.bisect import bisect
from helios.cli.doctor import find_problems, print_json_report, print_report
from helios.cli.plugins_list import print_list
from helios.cli.plugins_new import new
from helios.cli.plugins_plan import print_plan_with_imports, print_plan_without_imports
from helios.cli.plugins_show import print_plugin
from helios.cli.script_path import Script

app = typer.Typer(
    help="Look at plug-ins. Only show, and commands with --import, import plug-ins."
    " Exit codes: 0 for success, 1 for errors, 2 for wrong usage.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # Rich would take [tool.helios] for markup
)
app.command("bisect")(bisect)
app.command("new")(new)

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Imports = Annotated[
    bool, typer.Option("--import", help="Import the plug-ins and construct a trainer, too.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")]


@app.callback()
def plugins() -> None:
    """Group the subcommands."""


@app.command("list")
def list_plugins(as_json: AsJSON = False, script: Script = None) -> None:
    """List the installed plug-ins.

    A note shows the effect of metadata, environment and [tool.helios] on each.

    Exit code: 1 if [tool.helios] cannot be read, 0 otherwise.
    """
    _exit_with(print_list(as_json))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Its name, or distribution:name.")],
    as_json: AsJSON = False,
    script: Script = None,
) -> None:
    """Import one plug-in, and show its hooks and arguments.

    Exit code: 1 if no plug-in has this name, or if it cannot be imported, 0 otherwise.
    """
    print_plugin(name, as_json)


@app.command()
def plan(imports: Imports = False, as_json: AsJSON = False, script: Script = None) -> None:
    """Show the plug-ins that a trainer would activate here.

    Each comes with the reason. The nearest pyproject.toml with [tool.helios] counts, upwards from
    the current folder.

    Exit code: 1 if a problem keeps the trainer from starting, 0 otherwise.
    """
    print_plan = print_plan_with_imports if imports else print_plan_without_imports
    _exit_with(print_plan(as_json))


@app.command()
def doctor(
    imports: Imports = False,
    as_json: AsJSON = False,
    strict: Strict = False,
    script: Script = None,
) -> None:
    """Find the problems of the installed plug-ins.

    Each comes with its remedies.

    Exit code: 1 if a problem is an error, with --strict also for a warning, 0 otherwise.
    """
    problems = find_problems(imports=imports)
    report = print_json_report if as_json else print_report
    report(problems, imports=imports)
    _exit_with(not any(strict or problem.severity == "error" for problem in problems))


def _exit_with(is_good: bool) -> None:
    if not is_good:
        raise typer.Exit(1)
