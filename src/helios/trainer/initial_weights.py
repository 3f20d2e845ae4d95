"""The first weights of a new run, from a file."""

import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from helios.checkpoints import stores
from helios.errors import CheckpointError
from helios.model import Model

_SHOWN = 5


def load_initial_weights(model: Model, path: pathlib.Path) -> str:
    """Load the weights of a model's networks, and change nothing if they do not fit.

    Args:
        model: the model, which is set up.
        path: a checkpoint of Helios, a ``state_dict`` that was saved with :func:`torch.save`, alone
            or under the key ``"state_dict"``, or a file of safetensors.

    Returns:
        A line that says what was loaded.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit; the message names the
            missing, unexpected and mis-shaped ones.
    """
    networks = {name: network for name, network in model.networks() if network.state_dict()}
    expected = _flat({name: network.state_dict() for name, network in networks.items()})
    given = _given(_read(path), networks)
    if problems := _problems(expected, given):
        raise CheckpointError(
            f"init_from={str(path)!r} does not hold the weights of {type(model).__name__}:"
            f" {'; '.join(problems)}. To load only some of them, load the file in setup() of the"
            " model."
        )
    for name, network in networks.items():
        network.load_state_dict({key: given[f"{name}.{key}"] for key in network.state_dict()})
    return f"init_from: the run begins with {len(expected)} weights of {path}"


def _read(path: pathlib.Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file  # optional, and only for such files
        except ImportError as error:
            raise CheckpointError(
                f"init_from={str(path)!r} needs the package safetensors: pip install safetensors."
            ) from error
        weights: dict[str, Any] = load_file(path)
        return weights
    try:
        return stores.load(path)
    except CheckpointError as error:
        error.add_note(
            "init_from takes a checkpoint of Helios, a state_dict that was saved with torch.save,"
            " or a file of safetensors."
        )
        raise


def _given(content: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return the weights in a file, by the name of a network and its own name of the weight."""
    if "training_state" in content and isinstance(content.get("model"), dict):
        saved = content["model"]
        return _flat(
            {name: saved[name] for name in saved if name in networks or _is_weights(saved[name])}
        )
    inner = content.get("state_dict")
    weights = dict(inner if isinstance(inner, dict) else content)
    if len(networks) == 1:
        (name,) = networks
        if not any(str(key).startswith(f"{name}.") for key in weights):
            return _flat({name: weights})
    return weights


def _is_weights(state: Any) -> bool:
    """Return whether a saved state is that of a network."""
    is_filled = isinstance(state, dict) and bool(state)
    return is_filled and all(isinstance(value, torch.Tensor) for value in state.values())


def _flat(states: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{name}.{key}": value for name, state in states.items() for key, value in state.items()
    }


def _problems(expected: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    shared = expected.keys() & given.keys()
    shapes = [
        f"{name} is {_shape(given[name])} and must be {_shape(expected[name])}"
        for name in expected
        if name in shared and _shape(given[name]) != _shape(expected[name])
    ]
    found = {
        "missing": [name for name in expected if name not in shared],
        "unexpected": [name for name in given if name not in shared],
        "of another shape": shapes,
    }
    return [f"{kind}: {_listed(names)}" for kind, names in found.items() if names]


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
