"""A step that optimizers take together at the end of an accumulation window."""

import torch
from torch import nn
from torch.optim import Optimizer

from helios.errors import ConfigurationError
from helios.model.optimizers import parameters_of


def names_of(optimizers: tuple[Optimizer, ...]) -> str:
    """Return the classes of optimizers, for a message."""
    return " and ".join(type(optimizer).__name__ for optimizer in optimizers)


class Step:
    """A step that optimizers will take together when the window is complete.

    Attributes:
        optimizers: the optimizers.
        clip_norm: see :meth:`~helios.model.Model.optimize`.
        clip_value: see :meth:`~helios.model.Model.optimize`.
        weight: the sum of the weights of the losses in the window, if they have weights.
        is_first: ``True`` until a loss of the window was weighed.
        shared: gradients that :meth:`keep_shared` took away, with their parameters.
    """

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self.optimizers = optimizers
        self.clip_norm: float | None = None
        self.clip_value: float | None = None
        self.weight: float | torch.Tensor | None = None
        self.is_first = True
        self.shared: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def weigh(
        self, loss: torch.Tensor, weight: float | torch.Tensor | None, batches: int
    ) -> torch.Tensor:
        """Return the share of a loss in the mean of its window."""
        is_first, self.is_first = self.is_first, False
        if not is_first and (weight is None) != (self.weight is None):
            raise ConfigurationError(
                f"optimize({names_of(self.optimizers)}) got a weight for some losses of a window"
                " and none for others: pass weight= for all of them, or for none."
            )
        if weight is None:
            return loss / batches if batches > 1 else loss
        if isinstance(weight, torch.Tensor):
            weight = weight.detach().reshape(()).clone()  # the model may change its tensor later
        self.weight = weight if self.weight is None else self.weight + weight
        return loss * weight

    def divide(self) -> None:
        """Divide the gradients by the weights of the whole window, if its losses have some."""
        weight, self.weight = self.weight, None
        if isinstance(weight, torch.Tensor):
            weight = weight + (weight == 0)  # as below, but without a read of the device
        elif not weight:  # then the gradients are 0, too
            return
        for parameter in parameters_of(self.optimizers):
            if (gradient := parameter.grad) is not None:
                if isinstance(weight, torch.Tensor) and weight.device != gradient.device:
                    weight = weight.to(gradient.device)
                gradient.div_(weight)

    def keep_shared(self, parameters: list[torch.Tensor]) -> None:
        """Take away the gradients of parameters that other optimizers step, too."""
        if parameters:
            self.shared = [(parameter, parameter.grad) for parameter in parameters]
            for parameter in parameters:
                parameter.grad = None

    def restore_shared(self) -> None:
        """Restore the gradients that :meth:`keep_shared` took away."""
        for parameter, gradient in self.shared:
            parameter.grad = gradient
        self.shared = []

    def clip(self) -> None:
        """Clip each gradient, and then the norm of the gradients of all optimizers together."""
        if self.clip_value is not None or self.clip_norm is not None:
            parameters = parameters_of(self.optimizers)
            if self.clip_value is not None:
                nn.utils.clip_grad_value_(parameters, self.clip_value)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip_norm)
