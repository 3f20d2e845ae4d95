"""The parameter groups of optimizers, by the names of the parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from helios.errors import CheckpointError, nearest

Names = list[list[str]]


def named_groups(optimizer: Optimizer, name_of: Callable[[torch.Tensor], str]) -> Names:
    """Return the names of the parameters in each group; ``""`` for one without a name."""
    return [[name_of(each) for each in group["params"]] for group in optimizer.param_groups]


def regroup(optimizer: Optimizer, groups: Names, found: dict[str, torch.Tensor], name: str) -> None:
    """Give an optimizer the groups that it had when it was saved.

    Args:
        optimizer: the optimizer that set-up created.
        groups: the names of the parameters in each saved group.
        found: the parameters of the model, by name.
        name: the name of the optimizer, for messages.

    Raises:
        CheckpointError: the model has no such parameter.
    """
    for parameter in (each for group in groups for each in group):
        if parameter not in found:
            raise CheckpointError(
                f"the checkpoint holds the parameter group {_group_of(parameter, groups)} of"
                f" {name}, with {_described(parameter, found)} {name} has"
                f" {len(optimizer.param_groups)} groups now, and had {len(groups)}. Create the"
                " parameter in setup(), or override load_state_dict()."
            )
    before = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    is_named = bool(before) and "param_names" in before[0]
    for index, names in enumerate(groups):
        group: dict[str, Any] = before[index] if index < len(before) else {}
        group.pop("param_names", None)
        parameters: list[Any] = [found[each] for each in names]
        if is_named:
            parameters = list(zip(names, parameters, strict=True))
        optimizer.add_param_group({**group, "params": parameters})


def _described(parameter: str, found: dict[str, torch.Tensor]) -> str:
    if not parameter:  # its network was replaced, but the optimizer was not
        return "a parameter that was in no network of the model any more."
    return (
        f"the parameter {parameter!r}, which the model does not have after"
        f" setup().{nearest(parameter, found)}"
    )


def _group_of(parameter: str, groups: Names) -> int:
    return next(index for index, names in enumerate(groups) if parameter in names)
