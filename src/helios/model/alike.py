"""Checks that all ranks have the same model: the same optimizers and weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from helios.core import Group
from helios.errors import RanksDifferError
from helios.model import gradients


def require_same_optimizers(group: Group, owner: str, optimizers: Iterable[Optimizer]) -> None:
    """Compare the optimizers of the ranks, which step together.

    Raises:
        RanksDifferError: a rank has other optimizers than rank 0.
    """
    own = [
        (type(each).__name__, [len(g["params"]) for g in each.param_groups]) for each in optimizers
    ]
    first, *others = group.gather(own)
    for rank, other in enumerate(others, start=1):
        if other != first:
            raise RanksDifferError(
                f"{owner} has other optimizers in rank {rank} ({_listed(other)}) than in rank 0"
                f" ({_listed(first)}). Create the same ones in all ranks."
            )


def require_same_weights(
    group: Group, owner: str, named: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Compare the values of parameters.

    Raises:
        RanksDifferError: they differ; the message names the first parameter.
    """
    first, *others = group.gather(gradients.fingerprints(named))
    for rank, other in enumerate(others, start=1):
        names = [name for name in first if other.get(name) != first[name]]
        if names:
            raise RanksDifferError(
                f"{owner}.{names[0]} has other values in rank {rank} than in rank 0, so the"
                " ranks no longer train one model. Take each step in every rank, with"
                f" self.optimize(loss, optimizer), and change the weights of {owner} nowhere"
                " else in one rank alone."
            )


def _listed(optimizers: list[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} of {sum(sizes)} parameters" for name, sizes in optimizers) or "none"
