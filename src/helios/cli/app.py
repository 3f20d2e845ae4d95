"""The ``helios`` command and its subcommands."""

import functools
import importlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core
import typer.main

_GROUPS = {
    "plugins": "Look at plug-ins.",
    "checkpoint": "Show checkpoints, and migrate old ones.",
    "runs": "List, show and compare runs.",
}
"""The groups of subcommands, by the name of their module, with their help."""


class _Group(typer.core.TyperCommand):
    """A group of subcommands. Its module, which imports PyTorch, is imported when it is called."""

    def load(self) -> Any:
        """Return the group itself."""
        return typer.main.get_command(importlib.import_module(f"helios.cli.{self.name}").app)

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        return self.load().make_context(info_name, args, *rest, **extra)


class _Commands(typer.core.TyperGroup):
    """The commands of this module, and the groups."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _GROUPS:
            return _Group(cmd_name, help=_GROUPS[cmd_name], rich_markup_mode=None)
        return super().get_command(ctx, cmd_name)

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        """Run a command, and exit with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        own = words[: words.index("--")] if "--" in words else words
        if "--json" not in own:
            return super().main(words, *others, **options)
        from helios.cli import output  # imports PyTorch

        options["standalone_mode"] = False
        output.run(functools.partial(super().main, words, *others, **options), self._path(own))

    def _path(self, words: list[str]) -> str:
        """Return the names of the command and its group."""
        path: list[str] = []
        group: Any = self
        for word in words:
            command = group.get_command(None, word)
            if command is None:
                break
            path.append(word)
            if not isinstance(command, _Group):
                break
            group = command.load()
        return " ".join(path)


app = typer.Typer(
    cls=_Commands,
    help="Helios: a small, exact PyTorch trainer that is extended by pip install.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # these would hide the notes that name the plug-in
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
