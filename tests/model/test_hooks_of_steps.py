"""The hooks around the backward pass and the step, and steps that a plug-in skips."""

from typing import Any

import pytest
import torch
from helpers import Make, Named

from helios.errors import NoRunError
from helios.testing import TinyDataModule, TinyModel

HOOKS = [
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_gradients_ready",
]


class Counting(TinyModel):
    """Counts the steps that were taken, and skips none itself."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.taken: list[bool] = []

    def train_step(self, batch: Any, state: Any) -> None:  # type: ignore[override]
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.taken.append(self.optimize(loss, self.optimizer, clip_value=1e-4))


class Gradients(Named):
    """Notes the largest gradient in each hook of the first batch."""

    def __init__(self) -> None:
        super().__init__("gradients")
        self._seen: dict[str, Any] = {}

    def _note(self, name: str, optimizer: Any) -> None:
        gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        largest = max((float(g.abs().max()) for g in gradients), default=None)
        self._seen.setdefault(name, largest)

    def on_before_backward(self, loss: Any, optimizer: Any, state: Any) -> None:
        assert loss.requires_grad
        self._note("before", optimizer)

    def on_after_backward(self, loss: Any, optimizer: Any) -> None:
        self._note("after", optimizer)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self._note("complete", optimizer)

    def on_gradients_ready(self, optimizer: Any) -> None:
        self._note("ready", optimizer)


class Skipping(Named):
    """Skips the second step in one of the hooks."""

    def __init__(self, hook: str, step: int = 2) -> None:
        super().__init__("skipping")
        self._after = 0
        self._skips: list[Any] = []

        def skip(state: Any) -> None:
            if state.current_iteration == step:
                self.trainer.skip_step("for a test")

        setattr(self, hook, skip)

    def on_after_optimizer_step(self) -> None:  # type: ignore[override]
        self._after += 1

    def on_optimizer_step_skipped(self, optimizer: Any, reason: str, state: Any) -> None:
        (parameter, *_) = optimizer.param_groups[0]["params"]
        self._skips.append((state.current_iteration, reason, parameter.grad))


def weights_of(model: TinyModel) -> torch.Tensor:
    return torch.cat([each.detach().reshape(-1) for each in model.net.parameters()])


def test_the_moments_of_the_gradients(make_trainer: Make) -> None:
    plugin = Gradients()
    make_trainer(plugins=[plugin], total_steps=1).fit(Counting(), TinyDataModule())
    assert plugin._seen["before"] is None
    assert plugin._seen["after"] == plugin._seen["complete"] > 1e-4
    assert plugin._seen["ready"] == pytest.approx(1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_skipped_step_counts_as_skipped(hook: str, precision: str, make_trainer: Make) -> None:
    plugin, model = Skipping(hook), Counting()
    trainer = make_trainer(
        plugins=[plugin], total_steps=4, train_unit="iteration", precision=precision
    )
    trainer.fit(model, TinyDataModule())
    assert model.taken == [True, False, True, True]
    assert plugin._after == 3
    assert plugin._skips == [(2, "for a test", None)]
    assert trainer.state.current_iteration == 4
    assert all(each.grad is None for each in model.net.parameters())


def test_a_skipped_loss_skips_its_whole_window(make_trainer: Make) -> None:
    class First(Named):
        def on_before_backward(self, state: Any) -> None:  # type: ignore[override]
            if state.global_iteration == 3:  # the first of the second window
                self.trainer.skip_step("for a test")

    model = Counting()
    trainer = make_trainer(
        plugins=[First()], total_steps=3, train_unit="iteration", accumulation_steps=2
    )
    trainer.fit(model, TinyDataModule())
    assert model.taken == [False, True, False, False, False, True]


def test_a_skipped_step_changes_no_weights(make_trainer: Make) -> None:
    def train(steps: int, *plugins: Any) -> torch.Tensor:
        model = Counting()
        make_trainer(plugins=plugins, total_steps=steps, train_unit="iteration").fit(
            model, TinyDataModule()
        )
        return weights_of(model)

    assert torch.equal(train(2, Skipping("on_gradients_ready")), train(1))


def test_a_step_can_only_be_skipped_in_its_hooks(make_trainer: Make) -> None:
    class Late(Named):
        def on_after_optimizer_step(self) -> None:  # type: ignore[override]
            self.trainer.skip_step("too late")

    class Again(Skipping):
        def on_optimizer_step_skipped(self) -> None:  # type: ignore[override]
            self.trainer.skip_step("too late")

    for plugin in (Late(), Again("on_gradients_ready")):
        with pytest.raises(NoRunError, match=r"on_before_backward.*on_gradients_ready"):
            make_trainer(plugins=[plugin]).fit(TinyModel(), TinyDataModule())


def test_the_first_reason_counts_and_an_overflow_is_a_reason_too(make_trainer: Make) -> None:
    class Hiding(Named):
        def on_after_backward(self, optimizer: Any, state: Any) -> None:  # type: ignore[override]
            if state.current_iteration == 3:
                optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))

        def on_gradients_ready(self, state: Any) -> None:  # type: ignore[override]
            if state.current_iteration == 2:
                self.trainer.skip_step("again")

    plugin = Skipping("on_before_backward")
    make_trainer(
        plugins=[plugin, Hiding()], total_steps=4, train_unit="iteration", precision="fp16"
    ).fit(TinyModel(), TinyDataModule())
    overflow = "its gradients overflowed in fp16"
    assert plugin._skips == [(2, "for a test", None), (3, overflow, None)]
    assert plugin._after == 2
