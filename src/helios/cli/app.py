"""The ``helios`` command and its subcommands."""

import pathlib
from typing import Annotated

import typer

from helios.cli import checkpoint, plugins

app = typer.Typer(
    help="Helios: a small, exact PyTorch trainer that is extended by pip install.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(plugins.app, name="plugins")
app.add_typer(checkpoint.app, name="checkpoint")


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
