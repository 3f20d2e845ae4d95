"""A part of a network that is in evaluation mode while training stays so: a frozen backbone."""

import copy
import logging
from typing import Any

import pytest
import torch
from helpers import Make
from torch import nn

from helios import TrainingState
from helios.testing import TinyDataModule, TinyModel


class Frozen(TinyModel):
    """Trains a head on a backbone; records the modes of all modules in each step."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[dict[str, bool]] = []

    def setup(self, fast_init: bool = False) -> None:
        norm = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.backbone = self.prepare(norm).requires_grad_(False).eval()
        self.net = self.prepare(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.freeze()

    def freeze(self) -> None:
        """Set the modes; the subclasses do it in other ways."""

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        self._seen.append(modes(self))
        loss = nn.functional.cross_entropy(self.net(self.backbone(batch[0])), batch[1])
        self.optimize(loss, self.optimizer)

    def valid_step(self, batch: Any, step: int) -> Any:
        assert not any(modes(self).values())


def modes(model: Any) -> dict[str, bool]:
    return {
        f"{name}.{label}": module.training
        for name, network in model.networks()
        for label, module in network.named_modules()
    }


def are_frozen(seen: dict[str, bool]) -> bool:
    return all(mode == name.startswith("net") for name, mode in seen.items())


@pytest.mark.parametrize("valid_frequency", [None, 1, 2])
@pytest.mark.parametrize("train_unit", ["epoch", "iteration"])
def test_backbone_stays_in_evaluation_mode(
    make_trainer: Make, valid_frequency: Any, train_unit: str
) -> None:
    model = Frozen()
    trainer = make_trainer(total_steps=5, valid_frequency=valid_frequency, train_unit=train_unit)
    trainer.fit(model, TinyDataModule())
    assert len(model._seen) >= 5
    assert all(map(are_frozen, model._seen))
    assert not model.backbone[1].running_mean.any()
    assert model.net[0].running_mean.any()
    assert are_frozen(modes(model))


def test_backbone_stays_in_evaluation_mode_after_a_resume(
    make_trainer: Make, tmp_path: Any
) -> None:
    for total_steps in (1, 3):
        model = Frozen()
        trainer = make_trainer(total_steps=total_steps, valid_frequency=1, run_root=tmp_path)
        trainer.fit(model, TinyDataModule())
        assert all(map(are_frozen, model._seen))
    assert len(model._seen) == 12


def test_layer_inside_of_a_trained_network(make_trainer: Make) -> None:
    class Inside(Frozen):
        def freeze(self) -> None:
            self.net[0].eval()

    model = Inside()
    make_trainer(total_steps=2, valid_frequency=1).fit(model, TinyDataModule())
    for seen in model._seen:
        assert [name for name, mode in seen.items() if mode] == ["net.", "net.1"]
    assert not model.net[0].running_mean.any()


@pytest.mark.parametrize("hook", ["on_training_start", "on_training_epoch_start"])
def test_part_that_is_frozen_later(make_trainer: Make, hook: str) -> None:
    class Later(Frozen):
        pass

    def freeze(self: Later, *epoch: int) -> None:
        if epoch in ((), (1,)):
            self.net[0].eval()

    setattr(Later, hook, freeze)
    model = Later()
    make_trainer(total_steps=3, valid_frequency=1).fit(model, TinyDataModule())
    first = 0 if hook == "on_training_start" else 6
    assert [seen["net.0"] for seen in model._seen] == [True] * first + [False] * (18 - first)


def test_part_that_is_trained_later(make_trainer: Make, tmp_path: Any) -> None:
    class Unfrozen(Frozen):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            if current_epoch == 1:
                self.backbone.train()

    for total_steps in (2, 3):
        model = Unfrozen()
        trainer = make_trainer(total_steps=total_steps, valid_frequency=1, run_root=tmp_path)
        trainer.fit(model, TinyDataModule())
    assert [seen["backbone.1"] for seen in model._seen] == [True] * 6


def test_network_that_freezes_itself(make_trainer: Make) -> None:
    class Own(nn.Sequential):
        def train(self, mode: bool = True) -> "Own":
            super().train(mode)
            self[1].eval()
            return self

    class WithOwn(Frozen):
        def freeze(self) -> None:
            self.net = self.prepare(Own(*self.net, nn.BatchNorm1d(2)))
            self.net[1] = nn.BatchNorm1d(4)
            self.net.append(nn.Linear(4, 2))
            self.net.pop(2)
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    model = WithOwn()
    make_trainer(total_steps=2, valid_frequency=1).fit(model, TinyDataModule())
    assert {seen["net.0"] for seen in model._seen} == {True}
    assert {seen["net.1"] for seen in model._seen} == {False}


def test_frozen_network_is_not_switched_there_and_back(make_trainer: Make) -> None:
    switches = []

    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> "Merging":
            switches.append(mode)
            super().train(mode)
            return self

    class WithMerging(Frozen):
        def freeze(self) -> None:
            self.backbone = self.prepare(Merging(4, 4)).requires_grad_(False).eval()

    make_trainer(total_steps=2, valid_frequency=1).fit(WithMerging(), TinyDataModule())
    assert True not in switches


def test_methods_of_the_model_may_switch_by_hand(make_trainer: Make) -> None:
    class ByHand(Frozen):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            self.eval()
            assert not any(modes(self).values())
            self.eval()
            self.train()
            self.net.eval()
            self.train()

    model = ByHand()
    make_trainer(total_steps=2, valid_frequency=1).fit(model, TinyDataModule())
    assert all(map(are_frozen, model._seen))


def test_own_train_has_the_last_word(make_trainer: Make) -> None:
    class Own(Frozen):
        def train(self) -> None:
            for _, network in self.networks():
                network.train()

    model = Own()
    make_trainer(total_steps=2, valid_frequency=1).fit(model, TinyDataModule())
    assert all(all(seen.values()) for seen in model._seen)


@pytest.mark.parametrize("between", ["test", "error in validation"])
def test_network_that_setup_keeps_trains_in_the_next_run(make_trainer: Make, between: str) -> None:
    class Keeping(Frozen):
        fails = False

        def setup(self, fast_init: bool = False) -> None:
            if "net" not in vars(self):
                super().setup(fast_init)

        def valid_step(self, batch: Any, step: int) -> Any:
            if self.fails:
                raise OSError("in validation")

    model, trainer = Keeping(), make_trainer(total_steps=1, valid_frequency=1)
    trainer.fit(model, TinyDataModule())
    if between == "test":
        trainer.test(model, TinyDataModule())
    else:
        model.fails = True
        with pytest.raises(OSError, match="in validation"):
            trainer.fit(model, TinyDataModule())
        model.fails = False
    assert not model.net.training
    copy.deepcopy(model)
    trainer.fit(model, TinyDataModule())
    assert all(map(are_frozen, model._seen))


def test_outside_of_a_run_all_networks_switch(make_trainer: Make) -> None:
    model = Frozen()
    make_trainer(total_steps=1).fit(model, TinyDataModule())
    model.eval()
    assert not any(modes(model).values())
    model.train()
    assert all(modes(model).values())


@pytest.mark.parametrize("is_trained", [True, False])
def test_trained_network_in_evaluation_mode_is_said(
    make_trainer: Make, caplog: pytest.LogCaptureFixture, is_trained: bool
) -> None:
    class Loaded(Frozen):
        """Some libraries return a loaded network in evaluation mode."""

        def freeze(self) -> None:
            if is_trained:
                self.net.eval()

    with caplog.at_level(logging.WARNING, "helios"):
        make_trainer(valid_frequency=1).fit(Loaded(), TinyDataModule())
    said = "Loaded.net is trained in evaluation mode, so its dropout and batch normalization stay"
    assert (said in caplog.text) == is_trained
    assert ("call self.net.train() in setup() if you do not mean this" in caplog.text) == is_trained
