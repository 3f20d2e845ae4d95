"""Steps of the optimizer: accumulated batches and clipped gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make, Named, Recording
from torch import nn

from helios import Model, TrainingState
from helios.testing import TinyDataModule, TinyModel

# Accumulation.


class Linear(Model):
    """A least-squares fit without any randomness."""

    def __init__(self, **clipping: float) -> None:
        super().__init__("linear")
        self._clipping = clipping
        self.gradients: list[torch.Tensor] = []

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        features, labels = batch
        loss = ((self.net(features).squeeze(1) - labels) ** 2).mean()
        stepped = self.optimize(loss, self.optimizer, **self._clipping)
        assert stepped is self.trainer.is_optimizer_step
        return loss


class Gradients(Named):
    """Keeps the gradients of each step, before and as it is taken."""

    def __init__(self) -> None:
        super().__init__("gradients")
        self.seen: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = optimizer.param_groups[0]["params"]
        self.seen.append(torch.cat([p.grad.flatten() for p in parameters]))
        self.weights.append(torch.cat([p.detach().flatten() for p in parameters]))

    def on_after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = optimizer.param_groups[0]["params"]
        assert all(p.grad is None for p in parameters)
        self.weights.append(torch.cat([p.detach().flatten() for p in parameters]))


def gradients_of(make_trainer: Make, batch_size: int, **arguments: Any) -> list[torch.Tensor]:
    gradients = Gradients()
    trainer = make_trainer(plugins=[gradients], **arguments)
    trainer.fit(Linear(), TinyDataModule(train_size=24, batch_size=batch_size))
    return gradients.seen


@pytest.mark.parametrize(
    "arguments",
    [{"total_steps": 2}, {"train_unit": "iteration", "total_steps": 5}],
    ids=["epoch", "iteration"],
)
def test_accumulated_batches_act_as_one(make_trainer: Make, arguments: dict[str, Any]) -> None:
    small = gradients_of(make_trainer, 4, accumulation_steps=3, **arguments)
    large = gradients_of(make_trainer, 12, **arguments)
    assert (
        len(small)
        == len(large)
        == arguments["total_steps"] * (1 if "train_unit" in arguments else 2)
    )
    for left, right in zip(small, large, strict=True):
        torch.testing.assert_close(left, right)


def test_rest_of_an_epoch_is_a_step_of_its_own(make_trainer: Make) -> None:
    # 6 batches in windows of 4: the mean of four, then the mean of two
    gradients = gradients_of(make_trainer, 4, accumulation_steps=4, total_steps=1)
    assert len(gradients) == 2

    class Halves(TinyDataModule):
        """The same samples in the same order: 16 and 8."""

        def setup(self) -> None:
            super().setup()
            assert self._train_dataset is not None
            params = self._train_dataset.params
            order = torch.randperm(24, generator=torch.Generator().manual_seed(6691)).tolist()
            params.shuffle, params.batch_size = False, 16
            self._train_dataset.dataset = torch.utils.data.Subset(
                self._train_dataset.dataset, order
            )

    wanted = Gradients()
    trainer = make_trainer(plugins=[wanted], total_steps=1)
    trainer.fit(Linear(), Halves(train_size=24))
    for left, right in zip(gradients, wanted.seen, strict=True):
        torch.testing.assert_close(left, right)


def test_windows_in_iterations_reach_over_the_end_of_an_epoch(make_trainer: Make) -> None:
    class Windows(Recording):
        steps: list[tuple[int, int]]

        def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
            if self.trainer.is_optimizer_step:
                self.steps.append((state.global_epoch, state.global_iteration))

    model = Windows()
    model.steps = []
    trainer = make_trainer(train_unit="iteration", total_steps=3, accumulation_steps=4)
    trainer.fit(model, TinyDataModule())
    assert model.steps == [(0, 4), (1, 8), (1, 12)]


def test_hooks_of_the_optimizer_only_where_a_step_is_taken(make_trainer: Make) -> None:
    steps: list[Any] = []

    class Steps(Named):
        def on_before_optimizer_step(self, state: TrainingState) -> None:
            steps.append(("before", state.global_iteration))

        def on_after_optimizer_step(self, state: TrainingState) -> None:
            steps.append(("after", state.global_iteration))

    trainer = make_trainer(total_steps=1, accumulation_steps=4, plugins=[Steps()])
    trainer.fit(Linear(), TinyDataModule())
    assert steps == [("before", 4), ("after", 4), ("before", 6), ("after", 6)]


def test_scheduler_counts_optimizer_steps(make_trainer: Make) -> None:
    model = TinyModel()
    make_trainer(total_steps=1, accumulation_steps=4).fit(model, TinyDataModule())
    assert model.scheduler.last_epoch == 2


# Clipping.


@pytest.mark.parametrize(
    ("clipping", "clipped"),
    [
        ({}, lambda g: g),
        ({"clip_norm": 0.1}, lambda g: g * min(1.0, 0.1 / (g.norm() + 1e-6))),
        ({"clip_norm": 1e6}, lambda g: g),
        ({"clip_value": 0.05}, lambda g: g.clamp(-0.05, 0.05)),
        (
            {"clip_value": 0.05, "clip_norm": 0.04},  # first the values
            lambda g: (v := g.clamp(-0.05, 0.05)) * min(1.0, 0.04 / (v.norm() + 1e-6)),
        ),
    ],
)
def test_clipping(
    make_trainer: Make, clipping: dict[str, float], clipped: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    gradients = Gradients()
    trainer = make_trainer(total_steps=1, plugins=[gradients])
    trainer.fit(Linear(**clipping), TinyDataModule())
    befores, afters = gradients.weights[::2], gradients.weights[1::2]
    for gradient, before, after in zip(gradients.seen, befores, afters, strict=True):
        torch.testing.assert_close(before - after, 0.1 * clipped(gradient))
    changed = any(not torch.equal(clipped(gradient), gradient) for gradient in gradients.seen)
    assert changed == (min(clipping.values(), default=1e6) < 1e6)


def test_accumulated_gradients_are_clipped_once(make_trainer: Make) -> None:
    gradients = Gradients()
    trainer = make_trainer(total_steps=1, accumulation_steps=3, plugins=[gradients])
    trainer.fit(Linear(clip_norm=0.1), TinyDataModule(train_size=24))
    befores, afters = gradients.weights[::2], gradients.weights[1::2]
    for before, after in zip(befores, afters, strict=True):
        assert (before - after).norm().item() == pytest.approx(0.01, rel=1e-4)


# The nodes in which PyTorch adds gradients.


class Growing(Model):
    """Has a parameter that grows."""

    def __init__(self, when: str) -> None:
        super().__init__("growing")
        self._when = when
        self.held: list[bool] = []

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.ParameterDict({"weight": torch.ones(2)}))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def on_training_epoch_end(self, current_epoch: int) -> None:
        if self._when == "between epochs":
            self.grow()

    def train_step(self, batch: Any, state: TrainingState) -> None:
        if self._when == "in a step" and state.dataset_iter == 2:
            self.grow()
        node = torch.autograd.graph.get_gradient_edge(self.net["weight"]).node
        self.held.append("known" in node.metadata)
        node.metadata["known"] = True
        self.optimize(self.net["weight"].square().sum(), self.optimizer)

    def grow(self) -> None:
        self.net["weight"].data = torch.ones(3)


def test_nodes_of_parameters_are_created_once_an_epoch(make_trainer: Make) -> None:
    model = Growing("never")
    make_trainer(train_unit="epoch", total_steps=2).fit(model, TinyDataModule(train_size=16))
    assert model.held == [False, *[True] * 3] * 2


def test_parameter_may_grow_between_epochs(make_trainer: Make) -> None:
    model = Growing("between epochs")
    make_trainer(train_unit="epoch", total_steps=2).fit(model, TinyDataModule(train_size=16))
    assert len(model.net["weight"]) == 3


def test_note_about_a_parameter_that_grows_in_an_epoch(make_trainer: Make) -> None:
    with pytest.raises(RuntimeError, match="invalid gradient") as caught:
        make_trainer().fit(Growing("in a step"), TinyDataModule(train_size=16))
    assert any("change it between two epochs" in note for note in caught.value.__notes__)


class Odd(nn.Parameter):
    """A parameter of a class that does not allow a view, as those of some libraries."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.view_as:
            raise NotImplementedError
        return super().__torch_function__(func, types, args, kwargs or {})


class OfOddClass(Linear):
    """Has a parameter of that class, and a lazy one, when the optimizer is created."""

    def setup(self, fast_init: bool = False) -> None:
        odd = nn.Linear(2, 1)
        odd.bias = Odd(torch.zeros(1))
        self.net = self.prepare(nn.Sequential(nn.LazyLinear(2), odd))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)


def test_parameters_of_other_classes_need_no_nodes(make_trainer: Make) -> None:
    model = OfOddClass()
    make_trainer(train_unit="epoch", total_steps=2).fit(model, TinyDataModule(train_size=16))
    assert model.net[0].weight.shape == (2, 4)
    assert model.net[1].bias.item() != 0
