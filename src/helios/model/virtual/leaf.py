"""The gradients and weights of one virtual rank, or their sums over several."""

import dataclasses

import torch

from helios.model.optimizers import Step


@dataclasses.dataclass
class Leaf:
    """The part of a step that comes from one virtual rank, or from all those of a node.

    Attributes:
        gradients: the gradients by parameter; none for a parameter that no loss depends on.
        given: the number of virtual ranks that gave a loss for a step.
        weighted: the number of those whose losses have weights.
        weights: the sums of these weights.
    """

    gradients: dict[torch.Tensor, torch.Tensor] = dataclasses.field(default_factory=dict)
    given: dict[Step, int] = dataclasses.field(default_factory=dict)
    weighted: dict[Step, int] = dataclasses.field(default_factory=dict)
    weights: dict[Step, torch.Tensor] = dataclasses.field(default_factory=dict)

    def add(self, other: "Leaf") -> "Leaf":
        """Add another leaf to this one, in place."""
        sums: list[torch.Tensor] = []
        terms: list[torch.Tensor] = []
        for parameter, gradient in other.gradients.items():
            known = self.gradients.get(parameter)
            if known is None:
                self.gradients[parameter] = gradient
            else:
                sums.append(known)
                terms.append(gradient)
        if sums:
            torch._foreach_add_(sums, terms)
        for step, number in other.given.items():
            self.given[step] = self.given.get(step, 0) + number
        for step, number in other.weighted.items():
            self.weighted[step] = self.weighted.get(step, 0) + number
        for step, weight in other.weights.items():
            before = self.weights.get(step)
            self.weights[step] = weight if before is None else before + weight
        return self
