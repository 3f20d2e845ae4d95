"""The schedulers of learning rates that ``optimize`` advances."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from helios.errors import ConfigurationError

Schedulers = LRScheduler | Sequence[LRScheduler]
"""One scheduler, or several."""


def check_schedulers(schedulers: Iterable[Any], optimizers: Sequence[Optimizer]) -> None:
    """Refuse objects that cannot advance after a step of these optimizers.

    Raises:
        TypeError: an object is no scheduler, or advances only with a metric.
        ConfigurationError: a scheduler is that of another optimizer.
    """
    for each in schedulers:
        name = type(each).__name__
        if isinstance(each, ReduceLROnPlateau):
            raise TypeError(
                f"optimize() got scheduler={name}, which needs a metric to advance: pass"
                ' Trainer(plugins=[("plateau", {"metric": "loss"})]) in its place.'
            )
        if not callable(getattr(each, "step", None)):
            raise TypeError(
                f"optimize() got scheduler={name}: pass a scheduler of torch.optim.lr_scheduler,"
                " or a list of several."
            )
        owner = getattr(each, "optimizer", None)
        if owner is not None and all(owner is not optimizer for optimizer in optimizers):
            given = " and ".join(type(optimizer).__name__ for optimizer in optimizers)
            raise ConfigurationError(
                f"optimize() got the optimizer {given} with a {name} of another"
                f" {type(owner).__name__}: create the scheduler with the optimizer that takes the"
                " step."
            )
