"""The model's helpers and defaults, apart from what the loops prove."""

from typing import Any

import pytest
import torch
from helpers import Make
from torch import nn

from helios import Model, Plugin, TrainingState
from helios.model import MODEL_REGISTRY, create_model
from helios.testing import TinyDataModule, TinyModel


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return self.inner(x)


class Wrapping(Plugin):
    """Wraps networks."""

    def __init__(self) -> None:
        super().__init__("wrapping")
        self.seen: list[nn.Module] = []

    def setup(self) -> None: ...

    def prepare_module(self, module: nn.Module) -> nn.Module:
        self.seen.append(module)
        return Wrapped(module)


def test_prepare_moves_to_the_device(make_trainer: Make) -> None:
    class Meta(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.device = torch.device("meta")  # stands for a GPU
            module = nn.Linear(1, 1)
            self.net = self.prepare(module)
            self.same = self.net is module

    model = Meta()
    trainer = make_trainer()
    trainer.test(model, TinyDataModule(valid_size=0))
    assert model.same
    assert model.net.weight.device.type == "meta"


def test_prepare_leaves_it_to_a_plugin(make_trainer: Make) -> None:
    wrapping, model = Wrapping(), TinyModel()
    make_trainer(total_steps=1, plugins=[wrapping]).fit(model, TinyDataModule())
    assert type(model.net) is Wrapped
    assert model.net.inner is wrapping.seen[0]
    assert len(wrapping.seen) == 1


def test_properties_before_a_run() -> None:
    model = TinyModel("name")
    assert (model.save_name, model.metrics, model.is_distributed) == ("name", {}, False)
    assert (model.map_loc, model.rank) == ("", 0)
    with pytest.raises(AssertionError, match=r"known once fit\(\) or test\(\) has started"):
        _ = model.device
    with pytest.raises(AssertionError, match=r"known once fit\(\) or test\(\) has started"):
        _ = model.trainer
    with pytest.raises(AttributeError):
        model.save_name = "other"  # type: ignore[misc]  # it is read-only


def test_model_needs_setup() -> None:
    class NoSetup(Model):
        pass

    with pytest.raises(TypeError, match="setup"):
        NoSetup("x")  # type: ignore[abstract]  # that is the point


def test_defaults() -> None:
    class Plain(Model):
        def setup(self, fast_init: bool = False) -> None: ...

    model = Plain("x")
    state = TrainingState()
    assert model.train_step([], state) is None
    assert model.valid_step([], 0) is None
    assert model.test_step([], 0) is None
    assert model.have_metrics_improved() is True
    assert model.should_training_stop() is False
    assert model.should_advance_dataset_phase() is False
    assert model.append_metadata_to_chkpt_name("name") == "name"
    assert model.append_to_banner("banner") == "banner"
    assert model.trained_state_dict(1, x=2) == {}
    assert model.state_dict() == {}


def test_tables_of_losses_and_scores() -> None:
    # the founding releases' tables: when they are emptied, and what is summed
    model = TinyModel()
    state = TrainingState()
    for value in (1.0, 2.0):
        model.on_training_batch_start(state)
        assert model._loss_items == {}
        model._loss_items["loss"] = torch.tensor(value, requires_grad=True)
        model._loss_items["skipped"] = None
        model.on_training_batch_end(state)
    assert list(model._running_losses) == ["loss"]
    assert model._running_losses["loss"].item() == 3.0
    assert not model._running_losses["loss"].requires_grad
    model._val_scores["x"] = model._test_scores["x"] = 1
    model.on_validation_start(0)
    assert (model._val_scores, model._test_scores) == ({}, {"x": 1})
    model.on_testing_start()
    assert model._test_scores == {}
    model.on_validation_end(0)
    assert model._running_losses == {}


def test_optimizer_of_many_groups_is_clipped_as_one(make_trainer: Make) -> None:
    class Groups(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.net = self.prepare(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)))
            groups = [{"params": layer.parameters()} for layer in self.net]
            self.optimizer = torch.optim.SGD(groups, lr=1.0)
            self.moved: list[float] = []

        def train_step(self, batch: Any, state: TrainingState) -> None:
            features, labels = batch
            before = nn.utils.parameters_to_vector(self.net.parameters()).detach()
            loss = nn.functional.cross_entropy(self.net(features), labels)
            self.optimize(loss, self.optimizer, clip_norm=1e-3)
            after = nn.utils.parameters_to_vector(self.net.parameters()).detach()
            self.moved.append((after - before).norm().item())

    model = Groups()
    make_trainer(total_steps=1).fit(model, TinyDataModule())
    assert model.moved == pytest.approx([1e-3] * 6, rel=1e-2)


def test_two_optimizers(make_trainer: Make) -> None:
    class Steps(Plugin):
        def __init__(self) -> None:
            super().__init__("steps")
            self.seen: list[torch.optim.Optimizer] = []

        def setup(self) -> None: ...

        def on_after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.seen.append(optimizer)

    class Two(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.nets = [self.prepare(nn.Linear(4, 1)) for _ in range(2)]
            self.optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in self.nets]

        def train_step(self, batch: Any, state: TrainingState) -> None:
            for net, optimizer in zip(self.nets, self.optimizers, strict=True):
                self.optimize(net(batch[0]).mean(), optimizer)

    model, steps = Two(), Steps()
    state = make_trainer(total_steps=1, accumulation_steps=2, plugins=[steps]).fit(
        model, TinyDataModule()
    )
    assert steps.seen == model.optimizers * 3
    assert state.current_iteration == 3  # steps of the trainer, not of optimizers


def test_registry() -> None:
    assert MODEL_REGISTRY.get is not None

    @MODEL_REGISTRY.register
    class OnlyHere(TinyModel): ...

    model = create_model("OnlyHere", save_name="mine")
    assert type(model) is OnlyHere
    assert model.save_name == "mine"
    with pytest.raises(KeyError, match="Did you mean 'OnlyHere'"):
        create_model("OnlyHere_")
