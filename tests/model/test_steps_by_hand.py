"""Steps that a model takes by hand beside those of ``optimize()``, and calls that it refuses."""

import pathlib
from typing import Any

import pytest
import torch
from beside_pytorch import Case, assert_as_by_hand, batches, by_hand, trained
from helpers import Make, Named, files, notes_of, read
from torch import nn
from torch.optim import LBFGS, SGD, AdamW

from helios import TrainingState
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, equal

every_accumulation = pytest.mark.parametrize("accumulation", [1, 2, 4])


class ByHand(Case):
    """Passes a loss to ``optimize()``, and accumulates another one over three batches by hand."""

    def create(self) -> None:
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 1)
        self.first = SGD(self.left.parameters(), lr=0.1)
        self.second = SGD(self.right.parameters(), lr=0.1)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        self.optimize(self.right(self.left(features)).square().mean(), self.first)
        (self.right(features) - 1).square().mean().backward()
        if batch % 3 == 0:
            self.second.step()
            self.second.zero_grad()


@every_accumulation
def test_gradients_of_steps_by_hand_are_left_alone(
    make_trainer: Make, tmp_path: pathlib.Path, accumulation: int
) -> None:
    cuts = [1, 2, 3, 4, 5, 7, 11] if accumulation == 1 else [4, 8]
    assert_as_by_hand(make_trainer, tmp_path, ByHand, accumulation, cuts)


@pytest.mark.parametrize("resets_to_none", [True, False])
def test_gradients_that_wait_for_a_step_by_hand_are_saved(
    make_trainer: Make, tmp_path: pathlib.Path, resets_to_none: bool
) -> None:
    class Accumulating(Case):
        def create(self) -> None:
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
            self.optimizer = AdamW(self.net.parameters(), lr=0.1)

        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            (self.net(features).square().mean() / 3).backward()
            if batch % 3 == 0:
                self.optimizer.step()
                self.optimizer.zero_grad(resets_to_none)

    assert_as_by_hand(make_trainer, tmp_path, Accumulating, 1, range(1, 12))


def test_a_checkpoint_has_no_gradients_of_steps_that_are_complete(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    trained(make_trainer, GeneratorByHand, tmp_path, 4)
    (path,) = files(tmp_path, "**/*.pth")
    assert read(path)["changes"][0]["gradients"] == {}


class GeneratorByHand(Case):
    """A GAN whose generator steps by hand; its loss reaches the discriminator."""

    def create(self) -> None:
        self.generator, self.discriminator = nn.Linear(4, 4), nn.Linear(4, 1)
        self.g = SGD(self.generator.parameters(), lr=0.1)
        self.d = SGD(self.discriminator.parameters(), lr=0.1)

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        fake = self.generator(features)
        self.optimize(self.discriminator(features - fake).square().mean(), self.d)
        (-self.discriminator(self.generator(features))).mean().backward()
        self.g.step()
        self.g.zero_grad()


def test_loss_by_hand_of_an_earlier_batch_does_not_count(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    assert_as_by_hand(make_trainer, tmp_path, GeneratorByHand, 1, cuts=(1, 4, 7))


def test_closure_by_hand(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class WithClosure(ByHand):
        def create(self) -> None:
            super().create()
            self.second = LBFGS(self.right.parameters(), max_iter=2)  # type: ignore[assignment]

        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            self.optimize(self.right(self.left(features)).square().mean(), self.first)

            def closure() -> torch.Tensor:
                self.second.zero_grad()
                loss = (self.right(features) - 1).square().mean()
                loss.backward()
                return loss

            self.second.step(closure)  # type: ignore[arg-type]  # the type of SGD

    assert_as_by_hand(make_trainer, tmp_path, WithClosure, 1, cuts=(1, 4, 7))


def test_step_by_hand_on_gradients_that_optimize_withholds(make_trainer: Make) -> None:
    class OneLoss(ByHand):
        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            self.optimize(self.right(self.left(features)).square().mean(), self.first)
            self.second.step()

    message = r"SGD \(second\) takes a step by hand.* self\.optimize\(loss, \[first, second\]\)"
    model = OneLoss()
    with pytest.raises(ConfigurationError, match=message):
        make_trainer().fit(model, _data())
    model.second.step()  # no run watches it any more


def test_step_by_hand_without_any_loss(make_trainer: Make) -> None:
    class Nothing(ByHand):
        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            self.optimize(self.left(features).square().mean(), self.first)
            self.second.step()  # does nothing, as in PyTorch

    assert equal(trained(make_trainer, Nothing).weights(), by_hand(Nothing, 1))


# Hooks.


class Norms(Named):
    """Records the optimizers that step, and the batches in which they do."""

    def __init__(self) -> None:
        super().__init__("norms")
        self.steps: list[tuple[str, int]] = []

    def on_before_optimizer_step(self, optimizer: Any, state: TrainingState) -> None:
        self.steps.append((type(optimizer).__name__, state.global_iteration))


class Early(ByHand):
    """Passes losses for its second optimizer in the first batch of a window only."""

    def create(self) -> None:
        super().create()
        self.second = AdamW(self.right.parameters())  # type: ignore[assignment]

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        if batch % 2:
            assert not self.optimize(self.right(features).mean(), self.second)
        self.optimize(self.left(features).mean(), self.first)


def test_step_at_the_end_of_the_window(make_trainer: Make) -> None:
    norms = Norms()
    make_trainer(total_steps=1, accumulation_steps=2, plugins=[norms]).fit(Early(), _data())
    assert norms.steps == [(name, batch) for batch in (2, 4, 6) for name in ("SGD", "AdamW")]


# Refused calls.


class Refused(ByHand):
    """Passes what ``given`` returns to ``optimize()``."""

    def given(self) -> Any:
        raise NotImplementedError

    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        self.optimize(self.right(self.left(features)).mean(), self.given())


def test_optimizer_with_a_closure_is_refused(make_trainer: Make) -> None:
    class Closure(Refused):
        def given(self) -> Any:
            return [self.first, LBFGS(self.right.parameters())]

    message = r"LBFGS takes its steps with a closure(.|\n)*self\.optimizer\.step\(closure\)"
    with pytest.raises(ConfigurationError, match=message):
        trained(make_trainer, Closure)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "got a NoneType as its optimizer"),
        ({"a": 1}, "got a str as its optimizer"),
        ([], "got no optimizer"),
        ([3], "got a int as its optimizer"),
    ],
)
def test_other_objects_are_refused(make_trainer: Make, value: Any, message: str) -> None:
    class Other(Refused):
        def given(self) -> Any:
            return value

    with pytest.raises(TypeError, match=message):
        trained(make_trainer, Other)


class TwoSteps(ByHand):
    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        self.optimize(self.left(features).mean(), self.first)
        self.optimize(self.right(self.left(features)).mean(), [self.first, self.second])


def test_optimizer_belongs_to_one_step_of_a_window(make_trainer: Make) -> None:
    assert equal(trained(make_trainer, TwoSteps).weights(), by_hand(TwoSteps, 1))
    message = "got SGD, and then SGD and SGD in one accumulation window"
    with pytest.raises(ConfigurationError, match=message):
        trained(make_trainer, TwoSteps, accumulation_steps=2)


class SameGraph(ByHand):
    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        loss = self.right(self.left(features)).mean()
        self.optimize(loss, self.first)
        self.optimize(loss, self.second)


def test_note_about_two_losses_on_one_graph(make_trainer: Make) -> None:
    with pytest.raises(RuntimeError, match="retain_graph") as caught:
        trained(make_trainer, SameGraph)
    assert any("self.optimize(loss, [first, second])" in note for note in notes_of(caught.value))


class ChangedGraph(ByHand):
    def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
        outputs = self.right(self.left(features))
        self.optimize(outputs.mean(), self.second, retain_graph=True)
        self.optimize(outputs.square().mean(), self.first)


def test_note_about_weights_that_a_step_has_changed(make_trainer: Make) -> None:
    with pytest.raises(RuntimeError, match="inplace operation") as caught:
        trained(make_trainer, ChangedGraph)
    assert any("compute this loss after that step" in note for note in notes_of(caught.value))


def test_failed_backward_pass_keeps_other_gradients(make_trainer: Make) -> None:
    class Fails(torch.autograd.Function):
        """Runs out of memory in its backward pass."""

        @staticmethod
        def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise MemoryError

    class Survives(ByHand):
        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            self.optimize(self.left(features).square().mean(), self.first)
            if batch % 2:
                with pytest.raises(MemoryError):
                    self.optimize(Fails.apply(self.right(features)).mean(), self.second)

    class Spared(ByHand):
        def step(self, features: torch.Tensor, labels: torch.Tensor, batch: int) -> None:
            self.optimize(self.left(features).square().mean(), self.first)

    model = trained(make_trainer, Survives, accumulation_steps=2)
    assert equal(model.weights(), by_hand(Spared, 2))
    assert len(list(batches())) % 2 == 0


def _data() -> TinyDataModule:
    return TinyDataModule(train_size=22, shuffle=False)
