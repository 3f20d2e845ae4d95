"""The states of networks and optimizers whose tensors FSDP2 has divided among ranks.

States that leave a run hold whole tensors, and a run accepts whole tensors.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from helios.model import stateful

if TYPE_CHECKING:
    from helios.model.model import Model

_OF_FSDP = ("torch.distributed.fsdp", __name__)
"""The modules of the functions that are hooks of divided networks."""
_MARKS = ("__composable_api", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""The attributes that FSDP2 adds to networks, or their beginnings."""


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


# The way home.


def whole_tensors(model: "Model", *, keeps: bool) -> dict[int, torch.Tensor]:
    """Return the divided tensors of a model as whole ones in host memory, by their identity.

    All ranks must call this.

    Args:
        model: the model.
        keeps: ``False`` if this process does not need them.
    """
    found: dict[int, torch.Tensor] = {}
    for _, part in stateful.stateful_attributes(model):
        for tensor in _tensors_of(part):
            if isinstance(tensor, DTensor) and id(tensor) not in found:
                one = tensor.full_tensor().detach().cpu()
                if isinstance(tensor, nn.Parameter):
                    one = nn.Parameter(one, tensor.requires_grad)
                found[id(tensor)] = one if keeps else tensor
    return found


def _tensors_of(part: object) -> list[Any]:
    if isinstance(part, nn.Module):
        return [*part.parameters(), *part.buffers()]
    if isinstance(part, Optimizer):
        states = [value for state in part.state.values() for value in state.values()]
        return [each for group in part.param_groups for each in group["params"]] + states
    return []


def is_divided(module: nn.Module) -> bool:
    """Return whether FSDP2 has divided a module, or one around it."""
    return "_is_fsdp_managed_module" in vars(module)


def undivided(module: nn.Module) -> tuple[type, dict[str, Any]]:
    """Return the class of a module before it was divided, and its attributes."""
    attributes = {name: v for name, v in vars(module).items() if not name.startswith(_MARKS)}
    tables = {name: table for name, table in attributes.items() if name.endswith("_hooks")}
    hooks = [(key, hook) for table in tables.values() for key, hook in table.items()]
    added = {key for key, hook in hooks if _module_of(hook).startswith(_OF_FSDP)}
    for name, table in attributes.items():
        if "_hooks" in name:
            kept = {key: hook for key, hook in table.items() if key not in added}
            attributes[name] = type(table)(kept)
    kind = type(module)
    return kind.__bases__[1] if isinstance(module, FSDPModule) else kind, attributes


def _module_of(hook: Any) -> str:
    function = getattr(hook, "hook", hook)  # torch wraps some hooks
    return getattr(function, "__module__", None) or ""
