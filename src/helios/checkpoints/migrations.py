"""The formats of checkpoints: older ones are converted to the newest, unknown ones refused."""

import pathlib
from collections.abc import Callable
from typing import Any

from helios.core.rules import shown
from helios.errors import CheckpointError

FORMAT = 2
"""The format of new checkpoints. Format 1 had no scalers, and not always a checksum."""

_KEYS = {
    "format",
    "name",
    "epoch",
    "training_state",
    "model",
    "validation_due",
    "stops",
    "scalers",
    "metrics",
    "datamodule",
    "rng",
    "plugins",
    "plan",
}

_ADDED: dict[str, Any] = {
    "validated": None,
    "run": None,
    "window": {},
    "optimizers": {},
    "stop_reasons": [],
    "plugin_versions": {},
    "hyper_parameters": {},
    "virtual_ranks": {},
    "virtual_logs": [],
}
"""Later additions to the newest format, with the values for files that do not have them."""


_DICTIONARIES = (
    "training_state epoch scalers metrics plan window optimizers plugin_versions hyper_parameters"
    " virtual_ranks"
)
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(_DICTIONARIES.split(), dict),
    **dict.fromkeys(("stops", "stop_reasons", "virtual_logs", "rng", "plugins", "changes"), list),
    "validation_due": bool,
    "name": str,
    "validated": (dict, type(None)),
    "run": (str, type(None)),
}


_COUNTERS = (
    "current_iteration",
    "global_iteration",
    "global_epoch",
    "validation_cycles",
    "dataset_iter",
    "early_stop_count",
)


def migrate(payload: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Return the content of a checkpoint in the newest format.

    Args:
        payload: the loaded content, which is not changed.
        path: the path of the file, for messages.

    Raises:
        CheckpointError: the format is newer, or Helios did not write the file.
    """
    number = payload.get("format")
    if not isinstance(number, int):
        number = None
    if isinstance(number, int) and number > FORMAT:
        raise CheckpointError(
            f"{path} was written by Helios {payload.get('version')} in format {number};"
            f" this release reads up to format {FORMAT}. Install that release or a newer one."
        )
    while number in _MIGRATIONS:
        payload = _MIGRATIONS[number](payload, path)
        number = payload["format"]
    if missing := _KEYS - payload.keys():
        raise CheckpointError(
            f"{path} is not a Helios checkpoint of format {FORMAT}: it holds nothing under"
            f" {', '.join(sorted(missing))}. Remove it, or pass another folder as chkpt_root."
        )
    for name, kind in _KINDS.items():
        if name in payload and not isinstance(payload[name], kind):
            raise _wrong_kind(path, name, payload[name])
    if payload["format"] != FORMAT:
        raise _wrong_kind(path, "format", payload["format"])
    if not isinstance(payload["plan"].get("active"), list):
        raise _wrong_kind(path, "plan", payload["plan"])
    if any(type(payload["training_state"].get(name)) is not int for name in _COUNTERS):
        raise _wrong_kind(path, "training_state", payload["training_state"])
    return payload


def _wrong_kind(path: pathlib.Path, name: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a Helios checkpoint: its part {name!r} is {shown(value)}, which Helios does"
        " not write. Remove the file, or pass another folder as chkpt_root."
    )


def complete(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a checkpoint with the parts that earlier files of the format lack."""
    changes: list[dict[str, Any]] = [{} for _ in payload["rng"]]  # of each rank
    return _weigh({**_ADDED, "changes": changes, **payload})


def _weigh(payload: dict[str, Any]) -> dict[str, Any]:
    """Weigh logged values in flight by samples; release 0.2 counted each batch once."""
    metrics = payload["metrics"]
    if not isinstance(metrics, dict) or "counts" not in metrics.get("in_flight", {}):
        return payload
    in_flight, epoch = metrics["in_flight"], payload["epoch"]
    size = ((epoch.get("stream") or [None])[0] or epoch).get("batch_size", 1)
    weighed = {
        "totals": {name: total * size for name, total in in_flight["totals"].items()},
        "weights": {name: count * size for name, count in in_flight["counts"].items()},
    }
    return {**payload, "metrics": {**metrics, "in_flight": weighed}}


def _from_format_1(payload: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
    added = {"format": 2, "name": path.stem, "validation_due": False}
    added |= {"stops": [], "scalers": {}}
    if isinstance(payload.get("metrics"), dict):
        added["metrics"] = {"running_losses": {}, **payload["metrics"]}
    return {**payload, **added}


_MIGRATIONS: dict[Any, Callable[[dict[str, Any], pathlib.Path], dict[str, Any]]] = {
    1: _from_format_1
}
