"""The sums of gradients and buffers over the virtual ranks of all processes."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch

from helios.core import Group, Place
from helios.core.exchange import Exchange
from helios.core.tree import Span
from helios.model.optimizers import Step
from helios.model.virtual.leaf import Leaf

SumBuffers = Callable[[Sequence[str]], dict[Span, list[torch.Tensor]]]
"""A function that returns the sums of buffers by name, of the nodes of this process."""


@dataclasses.dataclass
class Total:
    """The sums over all virtual ranks for a step.

    Attributes:
        gradients: the gradients by parameter; ``None`` if no virtual rank has one.
        given: the number of virtual ranks that gave a loss.
        weighted: the number of virtual ranks whose losses have weights.
        weight: the sum of these weights.
        is_skipped: ``True`` if a process has asked to skip the step.
        buffers: the sums of the buffers that any virtual rank has changed.
    """

    gradients: dict[torch.Tensor, torch.Tensor | None]
    given: int
    weighted: int
    weight: torch.Tensor | None
    is_skipped: bool
    buffers: dict[str, torch.Tensor]


class Reduction:
    """Adds up what the virtual ranks of several processes have.

    Which parameters have a gradient, and which buffers have changed, is not known to all processes.
    This travels with the gradients, so that a step usually needs one exchange.

    Args:
        count: the number of virtual ranks of the run.
        place: the place of this process.
        group: the processes of the run.
    """

    def __init__(self, count: int, place: Place, group: Group) -> None:
        self._exchange = Exchange(count, place.rank, place.world_size)
        self._device = place.device
        self._group = group
        self._moving: list[str] = []

    def total(
        self,
        step: Step | None,
        nodes: dict[Span, Leaf],
        *,
        is_skipped: bool,
        names: Sequence[str],
        changed: set[str],
        sum_buffers: SumBuffers,
    ) -> Total:
        """Return the sums of all processes, which all call this method at the same point.

        Args:
            step: the step; ``None`` to add up buffers alone.
            nodes: the sums of the nodes of this process.
            is_skipped: ``True`` if this process has asked to skip the step.
            names: the names of all buffers; none if they are averaged already.
            changed: the names of those that a virtual rank of this process has changed.
            sum_buffers: returns the sums of buffers in this process.
        """
        parameters = [] if step is None else step.parameters
        leaves = list(nodes.values())
        own = _facts(step, leaves, parameters, is_skipped=is_skipped)
        own += [float(name in changed) for name in names]
        moving = [name for name in self._moving if name in names]
        facts, views = self._sum_all(step, nodes, parameters, own, sum_buffers(moving))
        given, weighted, skipped, *flags = facts
        count = len(parameters)
        present = list(map(bool, flags[:count]))
        gradients = _received(parameters, present, leaves[0].gradients, views[:count])
        weight = views[count].clone().reshape(()) if weighted else None
        all_changed = list(itertools.compress(names, flags[count:]))
        known = dict(zip(moving, views[count + 1 :], strict=True))
        buffers = {name: known[name].clone() for name in all_changed if name in known}
        buffers |= self._sum_new([name for name in all_changed if name not in known], sum_buffers)
        return Total(gradients, int(given), int(weighted), weight, skipped > 0, buffers)

    def _sum_all(
        self,
        step: Step | None,
        nodes: dict[Span, Leaf],
        parameters: list[torch.Tensor],
        own: list[float],
        buffers: dict[Span, list[torch.Tensor]],
    ) -> tuple[list[float], list[torch.Tensor]]:
        """Return the sums of the facts, and those of gradients, weight and buffers."""
        weight = torch.zeros(1, dtype=torch.float64, device=self._device)
        like = [*parameters, weight, *next(iter(buffers.values()))]
        sums: dict[Span, list[torch.Tensor | None]] = {}
        for node, leaf in nodes.items():
            weight_of_node = None if step is None else leaf.weights.pop(step, None)
            sums[node] = [
                *(leaf.gradients.get(parameter) for parameter in parameters),
                None if weight_of_node is None else weight_of_node.reshape(1),
                *buffers[node],
            ]
        if self._device.type != "cpu":  # a read of facts from a GPU would wait for it
            gathered = self._group.gather(own)
            return list(map(sum, zip(*gathered, strict=True))), self._exchange.total(sums, like)
        like.append(torch.zeros(len(own)))
        for number, tensors in enumerate(sums.values()):
            tensors.append(None if number else torch.tensor(own))
        *views, facts = self._exchange.total(sums, like)
        return facts.tolist(), views

    def _sum_new(self, names: list[str], sum_buffers: SumBuffers) -> dict[str, torch.Tensor]:
        """Return the sums of buffers that change for the first time in this process of training."""
        if not names:
            return {}
        self._moving += names
        sums = sum_buffers(names)
        views = self._exchange.total({**sums}, next(iter(sums.values())))
        return {name: view.clone() for name, view in zip(names, views, strict=True)}


def _received(
    parameters: list[torch.Tensor],
    present: list[bool],
    own: dict[torch.Tensor, torch.Tensor],
    views: list[torch.Tensor],
) -> dict[torch.Tensor, torch.Tensor | None]:
    """Copy gradients into the memory of those of this process, and return them."""
    gradients: dict[torch.Tensor, torch.Tensor | None] = dict.fromkeys(parameters)
    targets = []
    for parameter in itertools.compress(parameters, present):
        target = own.pop(parameter, None)
        gradients[parameter] = target = torch.empty_like(parameter) if target is None else target
        targets.append(target)
    if targets:
        torch._foreach_copy_(targets, list(itertools.compress(views, present)))
    return gradients


def _facts(
    step: Step | None, leaves: list[Leaf], parameters: list[torch.Tensor], *, is_skipped: bool
) -> list[float]:
    given = weighted = 0
    if step is not None:
        given = sum(leaf.given.pop(step, 0) for leaf in leaves)
        weighted = sum(leaf.weighted.pop(step, 0) for leaf in leaves)
    present = [
        float(any(parameter in leaf.gradients for leaf in leaves)) for parameter in parameters
    ]
    return [given, weighted, float(is_skipped), *present]
