"""The trained weights of a checkpoint, as a file of the safetensors format."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from helios.checkpoints import migrations, stores
from helios.errors import CheckpointError, ConfigurationError, nearest

EXTRA = "helios-trainer[safetensors]"
"""The package to install for :func:`export_weights`."""


def export_weights(
    checkpoint: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    network: str | None = None,
    averages: str | None = None,
) -> list[str]:
    """Write the weights of a checkpoint as a file of the safetensors format.

    Other programs can read the file without Helios, and it contains no code. For one network, the
    names of the tensors are those of its ``state_dict()``; for several, the attribute of the model
    that holds the network comes first: ``generator.0.weight``.

    Args:
        checkpoint: the path of the checkpoint.
        target: the path of the file to write. An existing file is replaced.
        network: the attribute of the model that holds the network; all networks by default.
        averages: the id of a plug-in that averages weights, ``"ema"`` or ``"swa"``, to write its
            averages in place of the trained weights.

    Returns:
        The names of the tensors.

    Raises:
        CheckpointError: the checkpoint is damaged, or has no weights.
        ConfigurationError: the checkpoint has no such network or plug-in, or the package
            safetensors is not installed.

    Example:
        .. code-block:: python

            export_weights("runs/digits/checkpoints/net/net_epoch_9.pth", "net.safetensors")
            net.load_state_dict(safetensors.torch.load_file("net.safetensors"))
    """
    try:
        from safetensors.torch import save
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"export_weights() needs safetensors, which is not installed: pip install {EXTRA!r}"
        ) from error
    path, written = pathlib.Path(checkpoint), pathlib.Path(target)
    payload = migrations.migrate(stores.load(path), path)
    weights = weights_of(payload, network=network, averages=averages)
    metadata = {"format": "pt", "helios": str(payload["version"]), "checkpoint": payload["name"]}
    counters = payload["training_state"]
    metadata |= {name: str(counters[name]) for name in ("global_epoch", "current_iteration")}
    written.parent.mkdir(parents=True, exist_ok=True)
    partial = written.with_name(f".{written.name}.part")
    partial.write_bytes(save(weights, metadata))
    os.replace(partial, written)
    return list(weights)


def weights_of(
    payload: Mapping[str, Any], *, network: str | None = None, averages: str | None = None
) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint by name, each in memory of its own.

    Args:
        payload: the content of the checkpoint.
        network: see :func:`export_weights`.
        averages: see :func:`export_weights`.

    Raises:
        CheckpointError: the checkpoint has no weights.
        ConfigurationError: the checkpoint has no such network or plug-in.
    """
    networks = dict(_networks(payload["model"], ""))
    if not networks:
        raise CheckpointError(
            "the checkpoint has no network, which is an entry of the model's state that holds only"
            " tensors: let Model.state_dict() return the state_dict() of each network."
        )
    if network is not None and network not in networks:
        raise ConfigurationError(
            f"the checkpoint has no network {network!r}.{nearest(network, networks)} Its networks:"
            f" {', '.join(networks)}."
        )
    if averages is not None:
        networks = _averaged(networks, payload, averages)
    if network is not None:
        networks = {network: networks[network]}
    is_one = len(networks) == 1
    return {
        key if is_one else f"{name}.{key}": tensor.detach().to("cpu").contiguous().clone()
        for name, state in networks.items()
        for key, tensor in state.items()
    }


def _networks(state: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Iterate over the entries that hold only tensors, as the states of networks do."""
    for key, value in state.items():
        label = f"{name}.{key}" if name else str(key)
        if not isinstance(value, Mapping) or not value or "param_groups" in value:
            continue
        if all(isinstance(tensor, torch.Tensor) for tensor in value.values()):
            if not _is_generator(value):
                yield label, dict(value)
        elif all(isinstance(each, Mapping) for each in value.values()):
            yield from _networks(value, label)


def _is_generator(state: Mapping[str, torch.Tensor]) -> bool:
    return state.keys() == {"state"} and state["state"].dtype == torch.uint8


def _averaged(
    networks: dict[str, dict[str, torch.Tensor]], payload: Mapping[str, Any], plug_id: str
) -> dict[str, dict[str, torch.Tensor]]:
    """Return the networks with the averages that a plug-in has saved."""
    states = payload["plugins"][0]
    known = sorted(name for name in states if name in ("ema", "swa"))
    found = states.get(plug_id, {})
    found = found.get("networks", found)
    used = {name: _tensors(each) for name, each in found.items() if isinstance(each, Mapping)}
    if not any(used.values()):
        raise ConfigurationError(
            f"the checkpoint has no averages of a plug-in {plug_id!r}, or it has averaged nothing"
            f" yet. Plug-ins with averages in it: {', '.join(known) or 'none'}."
        )
    averaged = {}
    for name, state in networks.items():
        means = used.get(name, {})
        averaged[name] = {key: means.get(key, tensor) for key, tensor in state.items()}
    return averaged


def _tensors(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix("module."): tensor
        for key, tensor in state.items()
        if key.startswith("module.") and isinstance(tensor, torch.Tensor)
    }
