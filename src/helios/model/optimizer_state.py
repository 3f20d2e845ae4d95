"""A check that an optimizer has the parameter groups of the state to restore."""

from typing import Any

from torch.optim import Optimizer

from helios.errors import CheckpointError

NO_HYPERPARAMETERS = frozenset({"params", "param_names", "initial_lr"})
"""The keys of a group that Helios does not compare; schedulers write ``initial_lr``."""


def require_same_groups(label: str, optimizer: object, state: Any) -> None:
    """Refuse the state of an optimizer that has other parameter groups.

    Args:
        label: the name of the optimizer, for the message.
        optimizer: the object to restore; anything but an optimizer is not checked.
        state: the saved state.

    Raises:
        CheckpointError: the number of groups or parameters differs, or the state belongs to an
            optimizer of another class.
    """
    if not isinstance(optimizer, Optimizer) or not isinstance(state, dict):
        return
    saved = state.get("param_groups")
    if not isinstance(saved, list):
        return  # an optimizer with a layout of its own
    now = optimizer.param_groups
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in now]:
        raise CheckpointError(
            f"{label} has {_sizes(now)}, but the checkpoint holds {_sizes(saved)}: create the"
            " same groups in setup(), override load_state_dict() to start with a new state, or"
            " start a new run."
        )
    for before, group in zip(saved, now, strict=True):
        lacking = optimizer.defaults.keys() - before.keys()  # some, after an update of PyTorch
        foreign = before.keys() - group.keys() - NO_HYPERPARAMETERS
        if lacking and foreign:
            raise CheckpointError(
                f"{label} has the class {class_of(optimizer)} with the hyper-parameters"
                f" {', '.join(sorted(optimizer.defaults))}, but the checkpoint holds an optimizer"
                f" with {', '.join(sorted(before.keys() - NO_HYPERPARAMETERS))}: create an"
                " optimizer of the same class, override load_state_dict() to start with a new"
                " state, or start a new run."
            )


def _sizes(groups: list[dict[str, Any]]) -> str:
    sizes = [str(len(group["params"])) for group in groups]
    groups_text = "1 parameter group" if len(sizes) == 1 else f"{len(sizes)} parameter groups"
    return f"{groups_text} ({' + '.join(sizes)} parameters)"


def class_of(optimizer: Optimizer) -> str:
    """Return the name of the class of an optimizer."""
    return type(optimizer).__name__
