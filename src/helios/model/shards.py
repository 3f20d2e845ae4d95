"""The states of networks and optimizers whose tensors FSDP2 has divided among ranks.

A checkpoint holds whole tensors, so that it can be loaded by any number of ranks.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def whole(state: Any) -> Any:
    """Return a state with whole tensors in place of divided ones. All ranks must call this.

    Args:
        state: plain containers, with tensors in them.
    """
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return type(state)((name, whole(each)) for name, each in state.items())
    if isinstance(state, list | tuple):
        return type(state)(whole(each) for each in state)
    return state


def load_whole_states(module: nn.Module) -> None:
    """Let ``module.load_state_dict()`` accept whole tensors for divided parameters."""
    module.register_load_state_dict_pre_hook(_divide_state)  # type: ignore[no-untyped-call]  # torch


def _divide_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, tensor in module.state_dict().items():
        key = prefix + name
        if key in state:
            state[key] = _divided(state[key], tensor)


def load_whole_optimizer_states(optimizer: Optimizer) -> None:
    """Let ``optimizer.load_state_dict()`` accept whole tensors for divided parameters."""
    optimizer.register_load_state_dict_pre_hook(_divide_optimizer_state)


def _divide_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    divided = {
        index: {name: _divided(value, parameters[index]) for name, value in each.items()}
        for index, each in state["state"].items()
    }
    return {**state, "state": divided}


def _divided(value: Any, like: Any) -> Any:
    """Return a tensor divided as another one, if it has the same shape."""
    if isinstance(value, DTensor):
        is_same = isinstance(like, DTensor) and value.device_mesh == like.device_mesh
        if is_same and value.placements == like.placements:
            return value
        value = value.full_tensor()
    is_tensor = isinstance(value, torch.Tensor)
    if not isinstance(like, DTensor) or not is_tensor or value.shape != like.shape:
        return value
    on_device = value.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
