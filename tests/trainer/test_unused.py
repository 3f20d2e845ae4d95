"""What a user wrote and a run will not use: said once, early, with what to write."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make, Named, numbers
from torch import nn

from helios import DataModule, Model, TrainingState
from helios.testing import TinyDataModule, TinyModel
from helios.trainer.arguments.methods import find_unused

Said = Callable[..., list[str]]


@pytest.fixture
def said(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> Said:
    """Return the function that trains or tests, and returns the warnings in their order."""

    def run(model: Any = None, data: Any = None, *, test: bool = False, **arguments: Any) -> Any:
        caplog.clear()
        trainer = make_trainer(**{"valid_frequency": 1, **arguments})
        with caplog.at_level(logging.WARNING, "helios"):
            getattr(trainer, "test" if test else "fit")(
                model or TinyModel(), data or TinyDataModule()
            )
        return [record.getMessage() for record in caplog.records]

    return run


def model_with(base: type[Model] = TinyModel, *mixins: type, **methods: Any) -> Any:
    return type("Net", (base, *mixins), methods)()


def nothing(self: Any, *arguments: Any) -> None: ...


class Step(Model):
    """Trains, and nothing else."""

    def __init__(self) -> None:
        super().__init__("step")

    setup = TinyModel.setup
    train_step = TinyModel.train_step


def test_nothing_is_said_of_a_complete_model(said: Said) -> None:
    assert said() == []
    assert said(test=True) == []
    assert said(Step(), valid_frequency=None) == []


# Methods that nobody calls.


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("validation_step", "write def valid_step(self, batch, step)"),
        ("training_step", "write def train_step(self, batch, state)"),
        ("configure_optimizers", "call self.optimize(loss, optimizer) in train_step"),
        ("on_train_start", "write def on_training_start(self)"),
        ("on_train_end", "write def on_training_end(self)"),
        ("on_train_epoch_end", "write def on_training_epoch_end(self, current_epoch)"),
        ("on_train_batch_end", "write def on_training_batch_end(self, state, should_log)"),
        ("on_validation_epoch_end", "write on_validation_end(self, validation_cycle)"),
        ("on_test_start", "write def on_testing_start(self)"),
        ("on_save_checkpoint", "write state_dict(self)"),
        ("on_training_begin", "write def on_training_start(self)"),
        ("on_train_epoch_begin", "write def on_training_epoch_start(self, current_epoch)"),
        ("on_step_end", "write on_training_batch_end(self, state, should_log)"),
        ("on_before_backward_pass", "a Model has on_training_start, on_training_epoch_start"),
        ("on_before_backward", "it is a hook of plug-ins, so write it in a Plugin"),
        ("on_sanity_check_epoch", "a Model has on_training_start, on_training_epoch_start"),
        ("prediction_step", "write predict_step(self, batch, step), and call trainer.predict"),
        ("create_optimizer", "call self.optimize(loss, optimizer) in train_step"),
        ("test_step_end", "write on_testing_batch_end(self, step)"),
        ("train_steps", "write def train_step(self, batch, state)"),
        ("state_dicts", "write def state_dict(self)"),
        ("train_dataloader", "write it in the DataModule"),
        ("prepare_data", "write it in the DataModule"),
        ("should_train_stop", "write def should_training_stop(self)"),
        ("have_metric_improved", "write def have_metrics_improved(self)"),
        ("load_for_test", "write def load_for_testing(self)"),
        ("user_state_dict", "write state_dict(self)"),
        ("batch_to_device", "CUDAPlugin"),
        ("on_log", "it is a hook of plug-ins, so write it in a Plugin"),
        ("teardown", "it is a hook of plug-ins, so write it in a Plugin"),
        ("process_training_batch", "it is a hook of plug-ins, so write it in a Plugin"),
    ],
)
def test_method_that_nobody_calls(said: Said, name: str, instead: str) -> None:
    (warning,) = said(model_with(**{name: nothing}))
    assert warning.startswith(f"Net.{name}() is never called (")
    assert "test_unused.py:" in warning
    assert warning.endswith(f"{instead}.") or instead in warning


@pytest.mark.parametrize(
    "name",
    [
        *("val_dataloader", "vaild_dataloader", "on_training_start", "transfer_batch_to_device"),
        *("train_dataloaders", "get_train_dataloader", "val_loader", "collate_fn", "train_step"),
        *("on_train_start", "on_before_batch_transfer"),
    ],
)
def test_method_of_a_data_module_that_nobody_calls(said: Said, name: str) -> None:
    (warning,) = said(data=type("Data", (TinyDataModule,), {name: nothing})())
    assert warning.startswith(f"Data.{name}() is never called (")


@pytest.mark.parametrize(
    "name",
    [
        "forward",
        "compute_loss",
        "accuracy",
        "pretrain_step",
        "training_loss",
        "evaluate",
        "build",
        "test_steps_of_phase",
        "_validation_step",
        "on_gpu",
        "encode",
        "sample",
        "trained",
        "generator_step",
        "discriminator_step",
        "setup_encoder",
        "metric",
        "step",
    ],
)
def test_helper_with_a_harmless_name(said: Said, name: str) -> None:
    assert said(model_with(**{name: nothing})) == []


def test_helper_that_the_model_calls_itself(said: Said) -> None:
    class Helping(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.configure_optimizers()

        def configure_optimizers(self) -> None: ...

        def valid_step(self, batch: Any, step: int) -> Any:
            return [self.validation_step(each) for each in [batch]]

        def validation_step(self, batch: Any) -> Any:
            return super().valid_step(batch, 0)

    assert said(Helping()) == []


def test_value_or_property_with_such_a_name(said: Said) -> None:
    assert said(model_with(configure_optimizers=3, validation_step=property(nothing))) == []


def test_method_of_a_mixin_that_the_base_hides(said: Said) -> None:
    class Validating:
        valid_step = TinyModel.valid_step

    warnings = said(model_with(Step, Validating))
    assert warnings[0] == (
        "Validating.valid_step() is never called, because Model.valid_step() comes first among the"
        " bases of Net: write class Net(Validating, Model)."
    )
    assert said(type("Net", (Validating, Step), {})()) == []


def test_methods_of_libraries_are_not_the_users(said: Said) -> None:
    assert list(find_unused(model_with(TinyModel, nn.Module))) == []


# Validation.


def test_valid_step_without_a_frequency(said: Said) -> None:
    (warning,) = said(valid_frequency=None)
    assert warning == (
        "TinyModel.valid_step() is never called in this run: pass Trainer(valid_frequency=...),"
        " the number of epochs between validations."
    )


def test_frequency_without_a_validation_set(said: Said) -> None:
    for model in (TinyModel(), Step()):
        (warning,) = said(model, TinyDataModule(valid_size=0))
        assert "Trainer(valid_frequency=1) validates nothing, because TinyDataModule" in warning
        assert "assign self._valid_dataset = self._create_dataset(...) in setup()" in warning


def test_model_that_judges_without_a_validation_set(said: Said) -> None:
    model = model_with(Step, have_metrics_improved=lambda self: True)
    assert said(model, TinyDataModule(valid_size=0), early_stop_cycles=1) == []


def test_frequency_that_is_never_reached(said: Said) -> None:
    (warning,) = said(valid_frequency=3, total_steps=2)
    assert "Trainer(valid_frequency=3) is more than total_steps=2" in warning


def test_frequency_without_a_valid_step(said: Said) -> None:
    (warning,) = said(Step())
    assert "computes nothing, because Step has no valid_step: write def valid_step(" in warning
    observer = type("Observer", (Named,), {"on_validation_batch_end": nothing_at_all})()
    assert said(Step(), plugins=[observer]) == []


def nothing_at_all(self: Any) -> None: ...


# Verdicts.


@pytest.mark.parametrize("arguments", [{"early_stop_cycles": 2}, {"keep_best": 1}])
def test_verdict_that_nobody_gives(said: Said, tmp_path: Any, arguments: dict[str, int]) -> None:
    (name,) = arguments
    folders = itertools.count()

    def said_of(*model: Any, **more: Any) -> list[str]:
        return said(*model, run_root=tmp_path / str(next(folders)), **arguments, **more)

    (warning,) = said_of()
    assert f"Trainer({name}={arguments[name]}) has no effect, because nothing says" in warning
    assert 'pass best=("loss", "min")' in warning
    assert "TinyModel.have_metrics_improved()" in warning
    (warning,) = said_of(Step(), valid_frequency=None)
    assert f"Trainer({name}={arguments[name]}) has no effect without validations" in warning
    assert "pass valid_frequency=..., too" in warning
    assert said_of(best=("accuracy", "max")) == []
    assert said_of(model_with(have_metrics_improved=lambda self: True)) == []


def test_arguments_without_what_they_need(said: Said) -> None:
    (warning,) = said(async_checkpoints=True)
    assert "async_checkpoints=True) has no effect without run_root" in warning
    (warning,) = said(import_prefix="package")
    assert "import_prefix='package') has no effect without src_root" in warning


# Tests.


def test_without_a_test_set(said: Said) -> None:
    (warning,) = said(data=TinyDataModule(valid_size=0), test=True)
    assert warning == (
        "nothing is tested, because TinyDataModule has no test set: assign self._test_dataset ="
        " self._create_dataset(...) in setup()."
    )


def test_without_a_test_step(said: Said) -> None:
    (warning,) = said(Step(), test=True)
    assert "nothing is tested, because Step has no test_step: write def test_step(" in warning


# Datasets.


@pytest.mark.parametrize("name", ["_val_dataset", "_validation_dataset", "valid_set"])
def test_dataset_in_another_attribute(said: Said, name: str) -> None:
    class Data(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            setattr(self, name, self._create_dataset(numbers(3), {}))

    warning, *_ = said(data=Data())
    assert warning.startswith(f"Data.{name} holds a dataset that no run uses.")
    assert "Assign it to self._train_dataset or self._valid_dataset" in warning
    assert "Did you mean '_valid_dataset'" in warning


def test_dataset_that_two_attributes_hold(said: Said) -> None:
    class Data(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            self.kept = self._valid_dataset

    assert said(data=Data()) == []


def test_validation_set_without_parameters_is_refused_at_once(make_trainer: Make) -> None:
    class Data(DataModule):
        def setup(self) -> None:
            self._train_dataset = self._create_dataset(numbers(3), {})
            self._valid_dataset = numbers(3)  # type: ignore[assignment]  # on purpose

    with pytest.raises(TypeError, match=r"a TensorDataset .*self\._create_dataset\(dataset"):
        make_trainer().fit(TinyModel(), Data())


# Steps that train nothing.


class Loss(TinyModel):
    """Computes a loss."""

    def loss(self, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        return loss


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"loss": x}, lambda x: (x, 1)])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_loss_that_nobody_optimizes(said: Said, wrap: Any, accumulation_steps: int) -> None:
    batches = []

    class Forgetful(Loss):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            batches.append(state.global_iteration)
            return wrap(self.loss(batch))

    (warning,) = said(Forgetful(), accumulation_steps=accumulation_steps, total_steps=2)
    assert warning == (
        "Forgetful.train_step() returns a loss, but nothing has been trained: Helios does not use"
        " the returned value. Call self.optimize(loss, optimizer) in train_step."
    )


def test_loss_that_nobody_optimizes_is_said_after_the_first_step(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    said = []

    class Forgetful(Loss):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            said.append(caplog.text.count("nothing has been trained"))
            return self.loss(batch)

    make_trainer(total_steps=2).fit(Forgetful(), TinyDataModule(train_size=12))
    assert said == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("total_steps", [1, 3])
def test_step_that_neither_trains_nor_returns_a_loss(said: Said, total_steps: int) -> None:
    class Forgetful(Loss):
        def train_step(self, batch: Any, state: TrainingState) -> None:
            self.log("loss", self.loss(batch))

    (warning,) = said(Forgetful(), total_steps=total_steps)
    assert warning.startswith("nothing has been trained: no weights have changed, and Forgetful")


def test_steps_by_hand(said: Said) -> None:
    class ByHand(Loss):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            loss = self.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            if state.global_iteration % 3 == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
            return loss

    assert said(ByHand()) == []


def test_step_that_a_plugin_takes(said: Said) -> None:
    class Stepping(Named):
        def on_training_batch_end(self, outputs: torch.Tensor) -> None:
            outputs.backward()  # type: ignore[no-untyped-call]
            self.trainer.model.optimizer.step()  # type: ignore[attr-defined]

    model = model_with(Loss, train_step=lambda self, batch, state: self.loss(batch))
    assert said(model, plugins=[Stepping()]) == []


def test_steps_that_begin_later(said: Said) -> None:
    class WarmsUp(Loss):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            if state.global_iteration > 2:
                self.optimize(self.loss(batch), self.optimizer)

    assert said(WarmsUp()) == []


def test_model_without_weights_trains_nothing_on_purpose(said: Said) -> None:
    class Counting(Model):
        def setup(self) -> None:  # type: ignore[override]
            self.count = 0

        def train_step(self, batch: Any, state: TrainingState) -> None:
            self.count += 1

    assert said(Counting("counting"), valid_frequency=None) == []


def test_run_that_is_over_trains_nothing_on_purpose(said: Said, tmp_path: Any) -> None:
    assert said(run_root=tmp_path) == []
    assert said(run_root=tmp_path) == []


def test_steps_that_fp16_skips(said: Said) -> None:
    class Overflowing(Loss):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.optimize(self.loss(batch) * float("inf"), self.optimizer)

    assert "nothing has been trained" not in str(said(Overflowing(), precision="fp16"))
