"""The ``helios`` command and its subcommands."""

import importlib
import pathlib
from typing import Annotated, Any

import typer
import typer.core
import typer.main

_GROUPS = {
    "plugins": "Look at plug-ins.",
    "checkpoint": "Show checkpoints, and migrate old ones.",
}
"""The groups of subcommands, by the name of their module, with their help."""


class _Group(typer.core.TyperCommand):
    """A group of subcommands. Its module, which imports PyTorch, is imported when it is called."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        module = importlib.import_module(f"helios.cli.{self.name}")
        return typer.main.get_command(module.app).make_context(info_name, args, *rest, **extra)


class _Commands(typer.core.TyperGroup):
    """The commands of this module, and the groups."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _GROUPS:
            return _Group(cmd_name, help=_GROUPS[cmd_name], rich_markup_mode=None)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=_Commands,
    help="Helios: a small, exact PyTorch trainer that is extended by pip install.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def helios() -> None:
    """Group the subcommands."""


@app.command()
def demo(
    run_root: Annotated[
        pathlib.Path, typer.Option(help="Folder of the run. An interrupted run resumes.")
    ] = pathlib.Path("runs/demo"),
    epochs: Annotated[int, typer.Option(help="Number of epochs to train.", min=1)] = 20,
) -> None:
    """Train a small network on handwritten digits.

    The data are 1,797 images. The installed plug-ins are active.
    """
    try:
        from helios.cli.demo import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        typer.echo("The demo needs the data of scikit-learn: pip install scikit-learn", err=True)
        raise typer.Exit(2) from None
    run(run_root, epochs)


def main() -> None:
    """Run the command."""
    app()
