"""A plain PyTorch loop that takes the same steps as a model in a trainer, for comparison."""

import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from helpers import Make
from torch import nn
from torch.optim import Optimizer

from helios import Model, TrainingState
from helios.testing import StopAfter, TinyDataModule, equal

BATCHES = 6
"""The batches of an epoch; there are two epochs."""


class Case(Model):
    """A model whose steps :func:`by_hand` can take, too; it calls no method of its session.

    ``create`` creates networks and optimizers, and ``step`` passes losses to ``optimize``.
    """

    def __init__(self) -> None:
        super().__init__("case")
        self._stepper: Callable[..., bool] = super().optimize

    def setup(self, fast_init: bool = False) -> None:
        torch.manual_seed(1)
        self.create()

    def create(self) -> None:
        """Create networks and optimizers."""
        raise NotImplementedError

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        """Train on a batch; the first one has the number 1."""
        raise NotImplementedError

    def optimize(self, *arguments: Any, **keywords: Any) -> bool:
        return self._stepper(*arguments, **keywords)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.step(*batch, state.global_iteration)

    def weights(self) -> dict[str, Any]:
        """Return copies of the weights of all networks."""
        return {
            f"{name}.{key}": value.clone()
            for name, network in self.networks()
            for key, value in network.state_dict().items()
        }


class Steps:
    """Takes steps with the gradients of one loss at a time, which ``torch.autograd.grad`` returns.

    Attributes:
        batches: the number of batches in the window.
    """

    def __init__(self) -> None:
        self.batches = 1
        self.is_last = True
        self._open: dict[tuple[Optimizer, ...], dict[str, Any]] = {}

    def optimize(
        self,
        loss: torch.Tensor,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        weight: Any = None,
        retain_graph: bool = False,
    ) -> bool:
        given = tuple(optimizer) if isinstance(optimizer, Sequence) else (optimizer,)
        step = self._open.setdefault(given, {"sums": {}, "weight": 0})
        parameters = _parameters(given)
        loss = loss / self.batches if weight is None and self.batches > 1 else loss
        loss = loss if weight is None else loss * weight
        step["weight"] += 0 if weight is None else weight
        step["clips"] = clip_norm, clip_value
        new = torch.autograd.grad(
            loss, parameters, allow_unused=True, retain_graph=retain_graph or None
        )
        for parameter, gradient in zip(parameters, new, strict=True):
            if gradient is not None:
                kept = step["sums"].get(parameter)
                step["sums"][parameter] = gradient if kept is None else kept + gradient
        if self.is_last:
            self._take(given)
        return self.is_last

    def end_window(self) -> None:
        for given in list(self._open):
            self._take(given)

    def _take(self, given: tuple[Optimizer, ...]) -> None:
        step, parameters = self._open.pop(given), _parameters(given)
        for parameter in parameters:
            gradient = step["sums"].get(parameter)
            divide = gradient is not None and bool(step["weight"])
            parameter.grad = gradient / step["weight"] if divide else gradient
        clip_norm, clip_value = step["clips"]
        if clip_value is not None:
            nn.utils.clip_grad_value_(parameters, clip_value)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        for optimizer in given:
            optimizer.step()
            optimizer.zero_grad()


def _parameters(optimizers: Sequence[Optimizer]) -> list[torch.Tensor]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return list(dict.fromkeys(parameter for group in groups for parameter in group["params"]))


def batches() -> Iterator[Any]:
    """Iterate over the batches of an epoch."""
    data = TinyDataModule(train_size=22, shuffle=False)
    data.setup()
    loader = data.train_dataloader()
    assert loader is not None
    return iter(list(loader[0]))


def by_hand(case: Callable[[], Case], accumulation_steps: int) -> dict[str, Any]:
    """Return the weights after two epochs in a plain loop."""
    model, steps, count = case(), Steps(), itertools.count(1)
    model._stepper = steps.optimize
    model.setup()
    for epoch in range(2):
        model.on_training_epoch_start(epoch)
        epoch_batches = batches()
        while window := list(itertools.islice(epoch_batches, accumulation_steps)):
            steps.batches = len(window)
            for position, batch in enumerate(window, start=1):
                steps.is_last = position == len(window)
                model.step(*batch, next(count))
            steps.end_window()
    return model.weights()


def trained(
    make_trainer: Make,
    case: Callable[[], Case],
    root: pathlib.Path | None = None,
    stop_after: int | None = None,
    **arguments: Any,
) -> Case:
    """Train for two epochs, or until a batch, and return the model."""
    model = case()
    trainer = make_trainer(chkpt_root=root, plugins=[StopAfter(stop_after)], **arguments)
    trainer.fit(model, TinyDataModule(train_size=22, shuffle=False))
    return model


def assert_as_by_hand(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    case: Callable[[], Case],
    accumulation_steps: int,
    cuts: Sequence[int] = (1, 3, BATCHES, BATCHES + 3),
    **arguments: Any,
) -> None:
    """Compare a whole run, and runs that were stopped and resumed, with the plain loop."""
    arguments = {"accumulation_steps": accumulation_steps, **arguments}
    wanted = by_hand(case, accumulation_steps)
    assert equal(trained(make_trainer, case, **arguments).weights(), wanted)
    for cut in cuts:
        root = tmp_path / f"cut-{cut}"
        trained(make_trainer, case, root, cut, **arguments)
        assert equal(trained(make_trainer, case, root, **arguments).weights(), wanted), cut
