"""Methods of models and data modules: their arguments, and whether a call runs their body."""

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import Make

from helios import Model, TrainingState
from helios.testing import TinyDataModule, TinyModel

base: Any = TinyModel


def setup_without_flag(self: Any) -> None:
    base.setup(self)


def setup_of_later_releases(self: Any, for_inference: bool = False) -> None:
    self.seen = for_inference
    base.setup(self)


def setup_with_any(self: Any, *args: Any) -> None:
    (self.seen,) = args
    base.setup(self)


def setup_with_keywords(self: Any, **kwargs: Any) -> None:
    self.seen = kwargs["fast_init"]
    base.setup(self)


def setup_with_another_default(self: Any, stage: str | None = None) -> None:
    assert stage is None
    base.setup(self)


@pytest.mark.parametrize(
    "setup",
    [
        setup_without_flag,
        setup_of_later_releases,
        setup_with_any,
        setup_with_keywords,
        setup_with_another_default,
    ],
)
def test_setup_of_other_releases(make_trainer: Make, setup: Any) -> None:
    model, trainer = type("Net", (TinyModel,), {"setup": setup})(), make_trainer()
    assert trainer.fit(model, TinyDataModule()).global_iteration > 0
    assert getattr(model, "seen", False) is False
    trainer.test(model, TinyDataModule())
    assert getattr(model, "seen", True) is True


@pytest.mark.parametrize("has_folder", [True, False])
@pytest.mark.parametrize("flag", [None, "for_inference", "fast_init"])
def test_load_state_dict_of_other_releases(
    make_trainer: Make, tmp_path: Any, has_folder: bool, flag: str | None
) -> None:
    seen = []

    def without(self: Any, state_dict: Any) -> None:
        seen.append(True)
        base.load_state_dict(self, state_dict)

    def later(self: Any, state_dict: Any, for_inference: bool = False) -> None:
        seen.append(for_inference)
        base.load_state_dict(self, state_dict)

    def present(self: Any, state_dict: Any, fast_init: bool = False) -> None:
        seen.append(fast_init)
        base.load_state_dict(self, state_dict)

    method = {None: without, "for_inference": later, "fast_init": present}[flag]
    model = type("Net", (TinyModel,), {"load_state_dict": method})()
    trainer = make_trainer(run_root=tmp_path if has_folder else None)
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert seen == [True]


@pytest.mark.parametrize(
    ("name", "method", "signature"),
    [
        ("train_step", lambda self, batch: None, "train_step(self, batch, state)"),
        ("valid_step", lambda self, batch: None, "valid_step(self, batch, step)"),
        ("on_training_epoch_end", lambda self: None, "on_training_epoch_end(self, current_epoch)"),
        (
            "on_training_batch_end",
            lambda self, state: None,
            "on_training_batch_end(self, state, should_log)",
        ),
        ("have_metrics_improved", lambda self, m: True, "have_metrics_improved(self)"),
        ("load_state_dict", lambda self: None, "load_state_dict(self, state_dict, fast_init"),
    ],
)
@pytest.mark.parametrize("run", ["fit", "test"])
def test_method_with_other_arguments(
    make_trainer: Make, name: str, method: Any, signature: str, run: str
) -> None:
    model = type("Net", (TinyModel,), {name: method})()
    with pytest.raises(TypeError) as caught:
        getattr(make_trainer(), run)(model, TinyDataModule())
    assert f"Net.{name}() has other arguments than Helios passes: write" in str(caught.value)
    assert f"def {signature}" in str(caught.value)


def test_setup_of_a_data_module_with_other_arguments(make_trainer: Make) -> None:
    data = type("Data", (TinyDataModule,), {"setup": lambda self, stage: None})()
    with pytest.raises(TypeError, match=r"Data\.setup\(\) has other arguments .*def setup\(self\)"):
        make_trainer().fit(TinyModel(), data)


def test_more_arguments_with_defaults_are_fine(make_trainer: Make) -> None:
    class More(TinyModel):
        def train_step(self, batch: Any, state: TrainingState, weight: float = 1.0) -> Any:
            return super().train_step(batch, state)

        def on_training_batch_end(self, *args: Any, **kwargs: Any) -> None: ...

    assert make_trainer().fit(More(), TinyDataModule()).global_iteration > 0


async def coroutine(self: Any, *args: Any, **kwargs: Any) -> None: ...


def generator(self: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
    yield


@pytest.mark.parametrize("method", [coroutine, generator])
@pytest.mark.parametrize("name", ["setup", "train_step", "valid_step", "on_training_end", "train"])
def test_method_whose_call_does_not_run_its_body(
    make_trainer: Make, name: str, method: Any
) -> None:
    model = type("Net", (TinyModel,), {name: method})()
    with pytest.raises(TypeError) as caught:
        make_trainer().fit(model, TinyDataModule())
    assert f"Net.{name}() " in str(caught.value)
    assert "so its body would never run" in str(caught.value)
    assert "hookimpl" not in str(caught.value)


@pytest.mark.parametrize("name", ["setup", "prepare_data", "teardown", "valid_dataloader"])
def test_async_method_of_a_data_module(make_trainer: Make, name: str) -> None:
    data = type("Data", (TinyDataModule,), {name: coroutine})()
    with pytest.raises(TypeError, match=rf"Data\.{name}\(\) is an async function"):
        make_trainer().fit(TinyModel(), data)


def test_model_of_the_base_class_alone_needs_two_methods(make_trainer: Make) -> None:
    class Small(Model):
        def setup(self) -> None:  # type: ignore[override]  # the flag is optional
            base.setup(self)

        train_step = TinyModel.train_step

    assert make_trainer().fit(Small("small"), TinyDataModule()).global_iteration > 0
