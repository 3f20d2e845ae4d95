"""``helios checkpoint``: show checkpoints, migrate old ones, and export their weights.

Exit codes: 0 for success, 1 for a file that is damaged or refused, 2 for wrong usage.
"""

import os
import pathlib
from typing import Annotated, Any

import torch
import typer

from helios.checkpoints import export as exporting
from helios.checkpoints import folder, migrations, plain, storage, stores
from helios.cli.output import fail, print_json, say
from helios.errors import CheckpointError, DamagedCheckpointError, HeliosError, printable

app = typer.Typer(
    help="Show checkpoints, migrate old ones, and export their weights.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def checkpoint() -> None:
    """Group the subcommands."""


@app.command()
def show(
    file: Annotated[pathlib.Path, typer.Argument(exists=True)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Check a checkpoint, and show its content.

    Exit code: 1 if it is damaged or refused, 0 otherwise.
    """
    try:
        facts = _facts(file)
    except (CheckpointError, OSError) as error:
        fail("checkpoint show", error, as_json=as_json)
    if as_json:
        print_json("checkpoint show", checkpoint=facts)
    else:
        _print(facts)


@app.command()
def migrate(
    path: Annotated[pathlib.Path, typer.Argument(exists=True, help="A file, or a folder.")],
    discard_original: Annotated[
        bool, typer.Option(help="Do not keep the original, with .original added to its name.")
    ] = False,
) -> None:
    """Rewrite checkpoints in the newest format.

    The command rewrites those of older formats, and those without a checksum.

    Exit code: 1 if a file is damaged or refused. The others are rewritten all the same.
    """
    files = [path] if stores.is_checkpoint(path) else folder.candidates(path)
    if not files:
        say(
            f"{path} holds no checkpoints: name a file, or the folder of a model,"
            " <chkpt_root>/<save_name>.",
            err=True,
        )
    has_failed = not files
    for file in files:
        try:
            say(f"{file}: {_migrate(file, discard_original)}")
        except (CheckpointError, OSError) as error:
            say(f"{file}: {error}", err=True)
            has_failed = True
    if has_failed:
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[pathlib.Path, typer.Argument(exists=True)],
    target: Annotated[pathlib.Path, typer.Argument(help="The file to write.", dir_okay=False)],
    network: Annotated[
        str | None, typer.Option(help="The attribute of the model that holds the network.")
    ] = None,
    averages: Annotated[
        str | None, typer.Option(help="Write the averages of this plug-in: ema or swa.")
    ] = None,
) -> None:
    """Write the trained weights as a file of the safetensors format.

    Exit code: 1 if the checkpoint is damaged or refused, or if safetensors is not installed.
    """
    try:
        names = exporting.export_weights(file, target, network=network, averages=averages)
    except (HeliosError, OSError) as error:
        fail("checkpoint export", error, as_json=False)
    say(f"{target}: {len(names)} tensors")


def _migrate(file: pathlib.Path, discard_original: bool) -> str:
    """Migrate a file, and return a description of the change."""
    is_sealed = stores.verify(file)
    payload = stores.peek(file)
    migrated = migrations.migrate(payload, file)
    if is_sealed and migrated is payload:
        return f"has format {migrations.FORMAT} already"
    original = file.with_name(file.name + ".original")
    os.link(file, original)  # fails if the original of an earlier migration exists
    try:
        storage.save(migrated, file)
    except BaseException:
        original.unlink()  # the file itself has not changed
        raise
    if discard_original:
        original.unlink()
    if migrated is payload:
        return "checksum added"
    return f"migrated from format {payload['format']} to {migrations.FORMAT}"


def _facts(file: pathlib.Path) -> dict[str, Any]:
    """Check a file, and return its facts by the keys that docs/cli.md lists."""
    is_sealed = stores.verify(file)
    found = stores.peek(file)
    payload = migrations.migrate(found, file)
    if not is_sealed and found["format"] > 1:
        raise DamagedCheckpointError(
            f"the checkpoint {file} has no checksum, so a run would treat it as damaged. If you"
            " wrote it yourself, add a checksum: helios checkpoint migrate"
        )
    parts = {f"model.{name}": state for name, state in payload["model"].items()}
    parts |= {key: payload[key] for key in ("epoch", "metrics", "datamodule", "rng", "plugins")}
    return {
        "file": str(file),
        "bytes": stores.size(file),
        "checksum": "right" if is_sealed else "none, but its parts are whole",
        "format": found["format"],
        "version": payload["version"],
        "name": payload["name"],
        "counters": payload["training_state"],
        "epoch": {name: payload["epoch"][name] for name in ("batches", "samples")},
        "metrics": payload["metrics"]["newest"],
        "parameters": sum(map(_parameters, payload["model"].values())),
        "bytes of tensors": {name: plain.size(part) for name, part in parts.items()},
        "ranks": len(payload["rng"]),
        "plug-ins with state": sorted({name for rank in payload["plugins"] for name in rank}),
        "plan": payload["plan"],
    }


def _parameters(state: Any) -> int:
    """Count the numbers of a network and its buffers. Its state is a flat table of tensors."""
    tensors = list(state.values()) if isinstance(state, dict) else [state]
    is_network = all(isinstance(tensor, torch.Tensor) for tensor in tensors)
    return sum(tensor.numel() for tensor in tensors) if is_network else 0


def _print(facts: dict[str, Any]) -> None:
    """Print one line for each fact, and one for each active plug-in."""
    for name, value in facts.items():
        if name == "plan":
            say(f"plan {value['digest']}:")
            for number, entry in enumerate(value["active"], start=1):
                origin = f"{entry['distribution']} {entry['version']}".strip() or "not installed"
                mark = "  changes results" if entry.get("changes_results") else ""
                line = f"  {number}  {entry['id']}  {origin}  {entry['reason']}{mark}"
                say(printable(line))
        elif isinstance(value, dict):
            say(f"{name}:")
            for key, item in value.items():
                say(f"  {key}: {_shown(item)}")
        else:
            say(f"{name}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return printable(", ".join(value)) or "none"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))
