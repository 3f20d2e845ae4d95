"""Validation and tests: which weights they use, their modes, hooks and metrics."""

import pathlib
from typing import Any

import torch
from helpers import Make, Named
from torch import nn

from helios import TrainingState
from helios.testing import TinyDataModule, TinyModel, equal


def test_test_after_fit_keeps_the_weights(make_trainer: Make) -> None:
    model = TinyModel()
    trainer = make_trainer()
    trainer.fit(model, TinyDataModule())
    trained = {name: value.clone() for name, value in model.net.state_dict().items()}
    trainer.test(model, TinyDataModule())
    assert equal(dict(model.net.state_dict()), trained)
    assert not model.net.training


def test_plugins_are_asked_for_their_state_while_they_are_set_up(make_trainer: Make) -> None:
    class Releasing(Named):
        def setup(self) -> None:
            self._counts = [0]

        def on_training_batch_end(self) -> None:
            self._counts[0] += 1

        def on_testing_start(self) -> None:
            self.at_the_test = self._counts[0]

        def state_dict(self) -> dict[str, Any]:
            return {"count": self._counts[0]}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._counts[0] = state_dict["count"]

        def teardown(self) -> None:
            del self._counts

    plugin, model = Releasing(), TinyModel()
    trainer = make_trainer(total_steps=1, plugins=[plugin])
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert plugin.at_the_test == 6


def test_test_of_another_model_loads_its_own_weights(make_trainer: Make) -> None:
    class Loading(TinyModel):
        loaded = 0

        def load_for_testing(self) -> None:
            self.loaded += 1
            nn.init.ones_(self.net[0].weight)

    trainer = make_trainer(total_steps=1)
    trainer.fit(TinyModel(), TinyDataModule())
    model = Loading()
    trainer.test(model, TinyDataModule())
    assert model.loaded == 1
    assert torch.equal(model.net[0].weight, torch.ones(8, 4))


def test_test_of_a_checkpoint(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Loading(TinyModel):
        def load_for_testing(self) -> None:
            raise AssertionError("there is a checkpoint")

    trained = TinyModel()
    make_trainer(chkpt_root=tmp_path, valid_frequency=1).fit(trained, TinyDataModule())
    trainer, model = make_trainer(chkpt_root=tmp_path), Loading()
    trainer.test(model, TinyDataModule())
    assert equal(dict(model.net.state_dict()), dict(trained.net.state_dict()))
    assert trainer.state.global_epoch == 2


def test_test_with_fast_init(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Fast(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup()
            if fast_init:
                del self.optimizer, self.scheduler

    model = Fast()
    trainer = make_trainer(chkpt_root=tmp_path)
    trainer.fit(model, TinyDataModule())
    trained = {name: value.clone() for name, value in model.net.state_dict().items()}
    trainer.test(model, TinyDataModule())
    assert equal(dict(model.net.state_dict()), trained)


def test_test_without_a_test_set(make_trainer: Make) -> None:
    calls: list[str] = []

    class Telling(Named):
        def on_testing_start(self) -> None:
            calls.append("start")

        def teardown(self) -> None:
            calls.append("teardown")

    trainer = make_trainer(plugins=[Telling()])
    trainer.test(TinyModel(), TinyDataModule(valid_size=0))
    assert calls == ["teardown"]


def test_no_validation_set(make_trainer: Make) -> None:
    calls: list[str] = []

    class Asked(TinyModel):
        def eval(self) -> None:
            calls.append("eval")

        def on_validation_start(self, validation_cycle: int) -> None:
            calls.append("start")

        def have_metrics_improved(self) -> bool:
            calls.append("improved?")
            return True

    trainer = make_trainer(total_steps=2, valid_frequency=1)
    state = trainer.fit(Asked(), TinyDataModule(valid_size=0))
    assert calls == ["improved?", "improved?"]
    assert state.validation_cycles == 2


def test_metrics_are_there_when_improvement_is_asked_for(make_trainer: Make) -> None:
    seen: list[dict[str, Any]] = []

    class Asked(TinyModel):
        def on_validation_end(self, validation_cycle: int) -> None:
            self.metrics["own"] = validation_cycle

        def have_metrics_improved(self) -> bool:
            seen.append(dict(self.metrics))
            return True

    make_trainer(total_steps=2, valid_frequency=1).fit(Asked(), TinyDataModule())
    assert [metrics["own"] for metrics in seen] == [0, 1]
    assert all(set(metrics) == {"own", "accuracy"} for metrics in seen)


def test_modes(make_trainer: Make) -> None:
    modes: list[tuple[str, bool, bool]] = []

    class Modes(TinyModel):
        def _note(self, where: str) -> None:
            modes.append((where, self.net.training, torch.is_grad_enabled()))

        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self._note("train")
            return super().train_step(batch, state)

        def valid_step(self, batch: Any, step: int) -> Any:
            self._note("valid")

        def test_step(self, batch: Any, step: int) -> Any:
            self._note("test")

    trainer, model = make_trainer(total_steps=2, valid_frequency=1), Modes()
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert set(modes) == {("train", True, True), ("valid", False, False), ("test", False, False)}
