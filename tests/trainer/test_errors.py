"""What is refused, and how; and what becomes of a run that fails."""

import contextlib
import logging
import math
import os
import pathlib
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import tqdm
from torch.utils.data import IterableDataset, TensorDataset

import helios
from helios import DataModule, Model, Plugin, Trainer, TrainingState, hookimpl
from helios.errors import (
    CheckpointError,
    ConfigurationError,
    FrozenPlanError,
    InvalidPluginError,
)
from helios.plugins.preemption import PreemptionPlugin
from helios.plugins.progress import ProgressPlugin
from helios.testing import TinyDataModule, TinyModel

Make = Callable[..., Trainer]

# Arguments.

BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    # what is wrong -> arguments, and a pattern of the message: what, and what to write instead
    "unit": ({"train_unit": "batch"}, r"train_unit='batch' .* 'epoch' or 'iteration'"),
    "unit of another type": ({"train_unit": 3}, r"train_unit='?3'? .* 'epoch' or 'iteration'"),
    "steps: fraction": ({"total_steps": 2.5}, r"total_steps=2\.5 .* whole number, or math\.inf"),
    "steps: whole float": ({"total_steps": 2.0}, r"total_steps=2\.0 .* whole number, or math\.inf"),
    "steps: NaN": ({"total_steps": math.nan}, r"total_steps=nan .*whole number, or math\.inf"),
    "steps: minus infinity": ({"total_steps": -math.inf}, r"total_steps=-inf "),
    "steps: negative": ({"total_steps": -1}, r"total_steps=-1 is negative.* how long to train"),
    "steps: text": ({"total_steps": "10"}, r"total_steps='10': .* whole number, or math\.inf"),
    "steps: bool": ({"total_steps": True}, r"total_steps=True: .* whole number, or math\.inf"),
    "steps: none": ({"total_steps": None}, r"total_steps=None: .* whole number, or math\.inf"),
    "endless, but no cycle": (
        {"total_steps": math.inf, "early_stop_cycles": 0},
        r"total_steps=math\.inf with early_stop_cycles=0 .*give a number of steps",
    ),
    "both switches": (
        {"enable_deterministic": True, "enable_cudnn_benchmark": True},
        r"enable_deterministic=True .*enable_cudnn_benchmark=True.* leave one of them out",
    ),
    "CPU and GPUs": ({"use_cpu": True, "gpus": [0]}, r"use_cpu=True .*gpus=\[0\].* leave one"),
    "no folder to save in": (
        {"chkpt_frequency": 1},
        r"chkpt_frequency=1 without a folder.* run_root=\.\.\. or chkpt_root=",
    ),
    "one string for a list": ({"plugins": "ema"}, r"plugins='ema'.* plugins=\['ema'\]"),
    "one string to block": ({"block": "ema"}, r"block='ema'.* block=\['ema'\]"),
    "autoload": ({"autoload": 3}, r"autoload=3.* True, False, or a list"),
    "on_load_error": ({"on_load_error": "warn"}, r"on_load_error='warn'.* 'raise' or 'skip'"),
    "seed: negative": ({"random_seed": -1}, r"random_seed=-1: .* at least 0"),
    "seed: fraction": ({"random_seed": 0.5}, r"random_seed=0\.5: "),
    "cycles: negative": ({"early_stop_cycles": -1}, r"early_stop_cycles=-1: "),
    "accumulation: zero": ({"accumulation_steps": 0}, r"accumulation_steps=0: .* at least 1"),
    "accumulation: negative": ({"accumulation_steps": -2}, r"accumulation_steps=-2: .* at least 1"),
    "accumulation: fraction": ({"accumulation_steps": 1.5}, r"accumulation_steps=1\.5: "),
    **{
        f"{name}={value!r}": (
            {name: value, "chkpt_root": "."},
            rf"{name}={re.escape(repr(value))}: write a whole number of at least 1, or leave it",
        )
        for name in ("valid_frequency", "chkpt_frequency", "print_frequency")
        for value in (0, -1, 1.5, True, "2")
    },
}


@pytest.mark.parametrize("what", BAD_ARGUMENTS)
def test_bad_argument(make_trainer: Make, what: str) -> None:
    arguments, message = BAD_ARGUMENTS[what]
    with pytest.raises(ConfigurationError, match=f"(?s){message}"):
        make_trainer(**arguments)
    assert issubclass(ConfigurationError, ValueError)


REMOVED = {
    "enable_tensorboard": "helios-tensorboard",
    "enable_file_logging": "run_root",
    "log_path": "run_root",
    "log_root": "run_root",
    "run_path": "run_root",
    "wandb_args": "plug-in for Weights & Biases",
}


@pytest.mark.parametrize("name", REMOVED)
def test_removed_argument_names_its_replacement(make_trainer: Make, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_trainer(**{name: None})
    assert f"Trainer({name}=...) is an argument of earlier releases" in str(caught.value)
    assert REMOVED[name] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("total_step", "total_steps"),
        ("valid_freqency", "valid_frequency"),
        ("chkpt_rot", "chkpt_root"),
        ("plugin", "plugins"),
        ("Run_Root", "run_root"),
    ],
)
def test_misspelt_argument_offers_the_nearest(make_trainer: Make, name: str, meant: str) -> None:
    with pytest.raises(TypeError) as caught:
        make_trainer(**{name: 1})
    assert f"no argument {name!r}" in str(caught.value)
    assert f"{meant!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["retur", "unknow", "self_", "xyz"])
def test_misspelt_argument_offers_only_arguments(make_trainer: Make, name: str) -> None:
    with pytest.raises(TypeError) as caught:
        make_trainer(**{name: 1})
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("argument", ["run_root", "chkpt_root", "src_root"])
def test_file_in_place_of_a_folder(
    make_trainer: Make, tmp_path: pathlib.Path, argument: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigurationError, match=f"{argument}=.*file.* is a file: name a folder"):
        make_trainer(**{argument: file})


def test_missing_source_folder(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"src_root=.*missing.* does not exist"):
        make_trainer(src_root=tmp_path / "missing")


def test_gpu_without_cuda(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="use_cpu=False asks for a GPU, but PyTorch finds none"):
        make_trainer(use_cpu=False)
    with pytest.raises(ConfigurationError, match=r"gpus=\[0\] asks for a GPU"):
        make_trainer(use_cpu=None, gpus=[0])
    assert make_trainer(use_cpu=None).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ([2], r"gpus=\[2\]: write numbers from 0 to 1"),
        ([-1], r"gpus=\[-1\]: write numbers from 0 to 1"),
        ([], r"gpus=\[\]: write numbers from 0 to 1"),
        ([0, 1], r"gpus=\[0, 1\]: .*one process, on one GPU"),
    ],
)
def test_gpus_that_are_not_there(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, gpus: list[int], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(use_cpu=None, gpus=gpus)
    assert make_trainer(use_cpu=None, gpus=[1]).device == torch.device("cuda", 1)
    assert make_trainer(use_cpu=None).device == torch.device("cuda", 0)
    assert make_trainer(use_cpu=True).device == torch.device("cpu")


def test_no_early_stop_cycle_never_means_no_training(make_trainer: Make) -> None:
    try:
        trainer = make_trainer(early_stop_cycles=0, valid_frequency=1)
    except ConfigurationError:
        return
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration > 0


# What fit() and test() are given.


class ForgetfulModel(TinyModel):
    def __init__(self) -> None:
        pass


class ForgetfulData(TinyDataModule):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("run", ["fit", "test"])
@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (TinyDataModule, TinyModel, r"a Model and a DataModule.*TinyDataModule where a Model"),
        (TinyModel, TinyModel, "TinyModel where a DataModule belongs"),
        (lambda: TinyModel, TinyDataModule, "where a Model belongs"),
        (TinyModel, lambda: None, "NoneType where a DataModule belongs"),
        (ForgetfulModel, TinyDataModule, r"ForgetfulModel.*super\(\).__init__\(.*add the call"),
        (TinyModel, ForgetfulData, r"ForgetfulData.*super\(\).__init__\(.*add the call"),
    ],
)
def test_wrong_objects(
    make_trainer: Make,
    run: str,
    model: Callable[[], Any],
    data: Callable[[], Any],
    message: str,
) -> None:
    with pytest.raises(TypeError, match=message):
        getattr(make_trainer(), run)(model(), data())


class TrainingStep(Model):
    """Written as for another trainer."""

    def setup(self) -> None:  # type: ignore[override]  # on purpose
        """Nothing."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Would never be called."""


class WithoutStep(TrainingStep):
    def setup(self, fast_init: bool = False) -> None:
        """Nothing."""


def test_model_without_a_training_step(make_trainer: Make) -> None:
    with pytest.raises(TypeError) as caught:
        make_trainer().fit(WithoutStep("net"), TinyDataModule())
    assert "WithoutStep has no train_step, so nothing would be trained" in str(caught.value)
    assert "write def train_step(self, batch, state)." in str(caught.value)
    make_trainer().test(WithoutStep("net"), TinyDataModule())  # has nothing to train


def test_near_name_of_the_training_step_is_offered(make_trainer: Make) -> None:
    class Near(WithoutStep):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            """Would never be called."""

    with pytest.raises(TypeError, match=r"Did you mean 'training_step'\?"):
        make_trainer().fit(Near("net"), TinyDataModule())


@pytest.mark.parametrize("run", ["fit", "test"])
def test_setup_without_fast_init(make_trainer: Make, run: str) -> None:
    with pytest.raises(
        TypeError, match=r"setup\(\) takes no fast_init: write def setup\(self, fas"
    ):
        getattr(make_trainer(), run)(TrainingStep("net"), TinyDataModule())


def test_nothing_to_train(make_trainer: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"total_steps is 0.*Trainer\(total_steps="):
        make_trainer(total_steps=0).fit(TinyModel(), TinyDataModule())


class Data(DataModule):
    """Uses one dataset for everything."""

    def __init__(self, dataset: Any, **params: Any) -> None:
        super().__init__()
        self._dataset, self._params = dataset, params

    def setup(self) -> None:
        if self._dataset is not None:
            self._train_dataset = self._create_dataset(self._dataset, self._params)


class Nothing(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([])


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (lambda: Data(None), ConfigurationError, r"Data has no training set: .*_train_dataset ="),
        (
            lambda: Data(TensorDataset(torch.zeros(0))),
            ConfigurationError,
            "dataset TensorDataset is empty",
        ),
        (
            lambda: Data(TensorDataset(torch.zeros(3)), batch_size=4, drop_last=True),
            ConfigurationError,
            "drop_last=True .*lower batch_size",
        ),
        (
            lambda: Data(Nothing()),
            ConfigurationError,
            "stream Nothing has no batch in epoch 0: let __iter__ start anew",
        ),
    ],
    ids=["none", "empty", "no whole batch", "stream"],
)
def test_no_batches(
    make_trainer: Make, data: Callable[[], Data], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"(?s){message}"):
        make_trainer().fit(TinyModel(), data())


@pytest.mark.parametrize("phase", ["training", "validation", "testing"])
def test_batch_hook_that_forgets_to_return(make_trainer: Make, phase: str) -> None:
    class Forgetful(Plugin):
        def __init__(self) -> None:
            super().__init__("forgetful")

        def setup(self) -> None: ...

    def process(self: Any, batch: Any) -> None: ...

    setattr(Forgetful, f"process_{phase}_batch", process)
    trainer = make_trainer(plugins=[Forgetful()], valid_frequency=1)
    run = trainer.test if phase == "testing" else trainer.fit
    with pytest.raises(InvalidPluginError) as caught:
        run(TinyModel(), TinyDataModule())
    message = str(caught.value)
    assert f"returned None from process_{phase}_batch: return the batch" in message
    assert "'forgetful'" in message
    assert pathlib.Path(__file__).name in message


@pytest.mark.parametrize(
    "moment",
    ["configure_trainer", "configure_model", "setup", "on_training_start", "on_training_batch_end"],
)
def test_second_run_inside_of_a_run(make_trainer: Make, moment: str) -> None:
    class Nesting(Plugin):
        def __init__(self) -> None:
            super().__init__("nesting")
            self._refused: list[BaseException] = []

        def setup(self) -> None: ...

    def nest(self: Nesting) -> None:
        for run in (trainer.fit, trainer.test):
            with pytest.raises(ConfigurationError, match="in the middle of a run") as caught:
                run(TinyModel(), TinyDataModule())
            self._refused.append(caught.value)
        with pytest.raises(FrozenPlanError, match="while a run is going on"):
            trainer.register_plugin(ProgressPlugin())

    def configure(self: Nesting, trainer: Trainer) -> None:  # plug-ins may be registered here
        with pytest.raises(ConfigurationError, match="in the middle of a run") as caught:
            trainer.fit(TinyModel(), TinyDataModule())
        self._refused.append(caught.value)

    is_early = moment.startswith("configure")
    function: Any = nest
    if is_early:
        function = {
            "configure_trainer": lambda self, trainer: configure(self, trainer),
            "configure_model": lambda self, model: configure(self, trainer),
        }[moment]
    setattr(Nesting, moment, function)
    plugin = Nesting()
    trainer = make_trainer(total_steps=1, plugins=[plugin])
    state = trainer.fit(TinyModel(), TinyDataModule())
    assert plugin._refused
    # the run that was going on is none the worse for it
    assert state is trainer.state
    assert (state.global_epoch, state.global_iteration) == (1, 6)


def test_refused_run_keeps_a_request_to_stop(make_trainer: Make) -> None:
    class Stop(Plugin):
        def __init__(self) -> None:
            super().__init__("stop")

        def setup(self) -> None: ...

        def on_training_batch_end(self) -> None:
            self.trainer.request_stop("enough")
            with contextlib.suppress(ConfigurationError):
                self.trainer.fit(TinyModel(), TinyDataModule())

    trainer = make_trainer(plugins=[Stop()])
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 1
    assert [request.reason for request in trainer.stop_requests] == ["enough"]


# Errors of the user's code.


class UserError(Exception):
    """What user code raises; with a message, so that a changed one would show."""


class Failing:
    """Raises one error where it is told to."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error = where, error

    def __call__(self, where: str) -> None:
        if where == self.where:
            raise self.error


def overriding(base: type, who: str, fail: Failing, names: list[str]) -> type:
    """Derive a class whose methods fail before they do what they do."""

    def method(name: str) -> Callable[..., Any]:
        inherited = getattr(base, name)

        def failing(self: Any, *arguments: Any, **keywords: Any) -> Any:
            fail(f"{who}.{name}")
            return inherited(self, *arguments, **keywords)

        return failing

    return type(f"Failing{base.__name__}", (base,), {name: method(name) for name in names})


MODEL_METHODS = [
    "setup",
    "append_to_banner",
    "append_metadata_to_chkpt_name",
    "state_dict",
    "train",
    "eval",
    "on_training_start",
    "on_training_epoch_start",
    "on_training_batch_start",
    "train_step",
    "on_training_batch_end",
    "on_training_epoch_end",
    "on_training_end",
    "should_training_stop",
    "on_validation_start",
    "on_validation_batch_start",
    "valid_step",
    "on_validation_batch_end",
    "on_validation_end",
    "have_metrics_improved",
    "should_advance_dataset_phase",
    "load_for_testing",
    "on_testing_start",
    "on_testing_batch_start",
    "test_step",
    "on_testing_batch_end",
    "on_testing_end",
]
DATA_METHODS = ["prepare_data", "setup", "train_dataloader", "valid_dataloader", "test_dataloader"]


class FailingPlugin(Plugin):
    """Implements every hook in which it can fail."""

    def __init__(self, fail: Failing) -> None:
        super().__init__("failing")
        self._fail = lambda hook: fail(f"plugin.{hook}")
        self.told: list[BaseException] = []

    def configure_trainer(self, trainer: Trainer) -> None:
        self._fail("configure_trainer")

    def configure_model(self, model: Model) -> None:
        self._fail("configure_model")

    def launch(self, target: Callable[[], Any]) -> Any:
        self._fail("launch")
        return target()

    def setup(self) -> None:
        self._fail("setup")

    def prepare_module(self, module: Any) -> Any:
        self._fail("prepare_module")
        return module

    def wrap_batches(self, batches: Any) -> Any:
        self._fail("wrap_batches")
        return batches

    def step_context(self) -> None:
        self._fail("step_context")

    def on_training_start(self) -> None:
        self._fail("on_training_start")

    def on_training_epoch_start(self) -> None:
        self._fail("on_training_epoch_start")

    def process_training_batch(self, batch: Any) -> Any:
        self._fail("process_training_batch")
        return batch

    def on_training_batch_start(self) -> None:
        self._fail("on_training_batch_start")

    def on_before_optimizer_step(self) -> None:
        self._fail("on_before_optimizer_step")

    def on_after_optimizer_step(self) -> None:
        self._fail("on_after_optimizer_step")

    def on_training_batch_end(self) -> None:
        self._fail("on_training_batch_end")

    def on_log(self) -> None:
        self._fail("on_log")

    def should_training_stop(self) -> bool:
        self._fail("should_training_stop")
        return False

    def on_training_epoch_end(self) -> None:
        self._fail("on_training_epoch_end")

    def on_training_end(self) -> None:
        self._fail("on_training_end")

    def on_validation_start(self) -> None:
        self._fail("on_validation_start")

    def process_validation_batch(self, batch: Any) -> Any:
        self._fail("process_validation_batch")
        return batch

    def on_validation_batch_end(self) -> None:
        self._fail("on_validation_batch_end")

    def on_validation_end(self) -> None:
        self._fail("on_validation_end")

    def on_testing_start(self) -> None:
        self._fail("on_testing_start")

    def process_testing_batch(self, batch: Any) -> Any:
        self._fail("process_testing_batch")
        return batch

    def on_testing_batch_end(self) -> None:
        self._fail("on_testing_batch_end")

    def on_testing_end(self) -> None:
        self._fail("on_testing_end")

    def on_checkpoint_saved(self) -> None:
        self._fail("on_checkpoint_saved")

    def teardown(self) -> None:
        self._fail("teardown")

    def on_exception(self, error: BaseException) -> None:
        self.told.append(error)


PLUGIN_HOOKS = [n for n in vars(FailingPlugin) if not n.startswith("_") and n != "on_exception"]
PLACES = [
    *(f"data.{name}" for name in [*DATA_METHODS, "teardown"]),
    *(f"model.{name}" for name in MODEL_METHODS),
    *(f"plugin.{name}" for name in PLUGIN_HOOKS),
]


def is_of_testing(place: str) -> bool:
    return "test" in place


def run_that_fails(
    make_trainer: Make, root: pathlib.Path, place: str, error: BaseException
) -> tuple[FailingPlugin, Trainer]:
    """Fit or test where the error comes up; check that it comes out, the object itself."""
    fail = Failing(place, error)
    plugin = FailingPlugin(fail)
    model = overriding(TinyModel, "model", fail, MODEL_METHODS)()
    data = overriding(TinyDataModule, "data", fail, [*DATA_METHODS, "teardown"])()
    folder = {} if is_of_testing(place) else {"run_root": root, "chkpt_frequency": 1}
    trainer = make_trainer(
        total_steps=1, valid_frequency=1, print_frequency=2, plugins=[plugin], **folder
    )
    run = trainer.test if is_of_testing(place) else trainer.fit
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one is checked below
        run(model, data)
    assert caught.value is error
    return plugin, trainer


def notes_of(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


@pytest.mark.parametrize("place", PLACES)
def test_error_comes_out_as_it_is(make_trainer: Make, tmp_path: pathlib.Path, place: str) -> None:
    error = UserError("the user's own message")
    plugin, _ = run_that_fails(make_trainer, tmp_path, place, error)
    assert error.args == ("the user's own message",)
    assert error.__cause__ is None
    assert len(notes_of(error)) == 1
    (note,) = notes_of(error)
    assert note.startswith("Helios was ")
    assert "'tiny'" in note
    if place.startswith("plugin."):
        hook = place.removeprefix("plugin.")
        assert f"{hook} of plug-in 'failing'" in note
        assert "not installed" in note  # the distribution, were there one
        assert pathlib.Path(__file__).name in note
    else:
        assert "of plug-in" not in note, "a plug-in is blamed for what it did not do"
    assert plugin.told == [error]


@pytest.mark.parametrize(
    ("place", "doing"),
    [
        ("model.setup", "setting up 'tiny'"),
        ("model.train_step", "training 'tiny': epoch 0, batch 0 of it, iteration 1"),
        ("model.on_training_epoch_end", "training 'tiny': epoch 0, batch 6 of it, iteration 6"),
        ("model.on_training_end", "ending the training of 'tiny': epoch 1"),
        ("model.test_step", "testing 'tiny'"),
        ("data.teardown", "tearing down"),
        ("plugin.teardown", "tearing down"),
    ],
)
def test_note_says_what_was_going_on(
    make_trainer: Make, tmp_path: pathlib.Path, place: str, doing: str
) -> None:
    error = UserError()
    run_that_fails(make_trainer, tmp_path, place, error)
    assert doing in "".join(notes_of(error))


def test_note_of_an_installed_plugin_names_its_distribution(
    make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = UserError()

    def fail(self: PreemptionPlugin) -> None:
        raise error

    monkeypatch.setattr(PreemptionPlugin, "on_training_end", fail)
    with pytest.raises(UserError):
        make_trainer(plugins=["preemption"]).fit(TinyModel(), TinyDataModule())
    (note,) = notes_of(error)
    wanted = f"on_training_end of plug-in 'preemption' (helios-trainer {helios.__version__}, "
    assert wanted in note


class Indirect(Plugin):
    """Fails in what its hooks return, not in the hooks."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__("indirect")
        self._where, self._error = where, error

    def setup(self) -> None: ...

    def wrap_batches(self, batches: Any, phase: str) -> Iterator[Any]:
        yield from batches
        if self._where == "wrap_batches":
            raise self._error

    @contextlib.contextmanager
    def _around(self) -> Iterator[None]:
        if self._where == "entering":
            raise self._error
        yield
        if self._where == "leaving":
            raise self._error

    def step_context(self, phase: str) -> Any:
        return self._around()

    def state_dict(self) -> dict[str, Any]:
        if self._where == "state_dict":
            raise self._error
        return {"x": 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._where == "load_state_dict":
            raise self._error


@pytest.mark.parametrize(
    "where", ["wrap_batches", "entering", "leaving", "state_dict", "load_state_dict"]
)
def test_note_names_a_plugin_that_fails_outside_of_its_hooks(
    make_trainer: Make, tmp_path: pathlib.Path, where: str
) -> None:
    error = UserError()
    arguments = {"total_steps": 1, "chkpt_root": tmp_path}
    if where == "load_state_dict":
        make_trainer(plugins=[Indirect("", error)], **arguments).fit(TinyModel(), TinyDataModule())
    trainer = make_trainer(plugins=[Indirect(where, error)], **arguments)
    with pytest.raises(UserError) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    assert caught.value is error
    (note,) = notes_of(error)
    assert "plug-in 'indirect' (not installed" in note


@pytest.mark.parametrize("run", ["fit", "test"])
def test_step_context_that_swallows_errors(make_trainer: Make, run: str) -> None:
    class Suppressing(Plugin):
        def __init__(self) -> None:
            super().__init__("suppressing")

        def setup(self) -> None: ...

        def step_context(self) -> Any:
            return contextlib.suppress(UserError)

    class Failing(FailingModel):
        def test_step(self, batch: Any, step: int) -> Any:
            raise UserError

    trainer = make_trainer(total_steps=1, plugins=[Suppressing()])
    with pytest.raises((UserError, InvalidPluginError)):
        getattr(trainer, run)(Failing(), TinyDataModule())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["model.train_step", "plugin.on_training_batch_end"])
def test_interrupt_passes(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    kind: type[BaseException],
    place: str,
) -> None:
    error = kind("now")
    plugin, _ = run_that_fails(make_trainer, tmp_path, place, error)
    assert plugin.told == [error]
    assert [r.levelname for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_errors_are_logged_as_faults(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    error = UserError("a fault")
    run_that_fails(make_trainer, tmp_path, "model.train_step", error)
    faults = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [fault.exc_info[1] for fault in faults if fault.exc_info] == [error]
    log = (tmp_path / "helios.log").read_text()
    assert log.count("UserError: a fault") == 1


@pytest.mark.parametrize("run", ["fit", "test"])
@pytest.mark.parametrize("listed", ["train_exceptions", "test_exceptions"])
@pytest.mark.parametrize("kind", [UserError, type("Derived", (UserError,), {})])
def test_expected_errors_are_no_faults(
    make_trainer: Make,
    caplog: pytest.LogCaptureFixture,
    run: str,
    listed: str,
    kind: type[Exception],
) -> None:
    error = kind("expected")

    class Expecting(Plugin):
        def __init__(self) -> None:
            super().__init__("expecting")

        def configure_trainer(self, trainer: Trainer) -> None:
            append = {
                "train_exceptions": self._append_train_exceptions,
                "test_exceptions": self._append_test_exceptions,
            }[listed]
            append([KeyError, UserError], trainer)

        def setup(self) -> None:
            raise error

    trainer = make_trainer(plugins=[Expecting()])
    with pytest.raises(UserError) as caught:
        getattr(trainer, run)(TinyModel(), TinyDataModule())
    assert caught.value is error
    is_expected = listed.startswith({"fit": "train", "test": "test"}[run])
    faults = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(faults) == (not is_expected)


# Tearing down.


class Lasting(Plugin):
    """Writes down when it is set up and torn down; fails where it is told to."""

    def __init__(self, plug_id: str, events: list[str], fail: Callable[[str], None]) -> None:
        super().__init__(plug_id)
        self._events, self._fail = events, fail

    def setup(self) -> None:
        self._fail(f"{self.plug_id}.setup")
        self._events.append(f"setup {self.plug_id}")

    def on_exception(self, error: BaseException) -> None:
        self._events.append(f"told {self.plug_id} {type(error).__name__}")
        self._fail(f"{self.plug_id}.on_exception")

    def teardown(self) -> None:
        self._events.append(f"teardown {self.plug_id}")
        self._fail(f"{self.plug_id}.teardown")


class LastingData(TinyDataModule):
    def __init__(self, events: list[str], fail: Callable[[str], None]) -> None:
        super().__init__()
        self._events, self._fail = events, fail

    def setup(self) -> None:
        super().setup()
        self._events.append("setup data")

    def teardown(self) -> None:
        self._events.append("teardown data")
        self._fail("data.teardown")


def run_with_three(
    make_trainer: Make, fail: Callable[[str], None], model: Model | None = None
) -> tuple[list[str], BaseException | None]:
    """Fit with three plug-ins; return what happened, and what came out."""
    events: list[str] = []
    plugins = [Lasting(plug_id, events, fail) for plug_id in "abc"]
    try:
        trainer = make_trainer(total_steps=1, plugins=plugins)
        trainer.fit(model or TinyModel(), LastingData(events, fail))
    except BaseException as error:
        return events, error
    return events, None


class FailingModel(TinyModel):
    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        raise UserError("the model's")


def failing_at(**errors: BaseException) -> Callable[[str], None]:
    wanted = {place.replace("_", ".", 1): error for place, error in errors.items()}

    def fail(place: str) -> None:
        if place in wanted:
            raise wanted[place]

    return fail


ALL_SET_UP = ["setup a", "setup b", "setup c", "setup data"]
ALL_TORN_DOWN = ["teardown data", "teardown c", "teardown b", "teardown a"]
ALL_TOLD = ["told a UserError", "told b UserError", "told c UserError"]


def test_teardown_after_success(make_trainer: Make) -> None:
    events, error = run_with_three(make_trainer, failing_at())
    assert error is None
    assert events == ALL_SET_UP + ALL_TORN_DOWN


def test_teardown_after_failure(make_trainer: Make) -> None:
    events, error = run_with_three(make_trainer, failing_at(), FailingModel())
    assert isinstance(error, UserError)
    assert events == ALL_SET_UP + ALL_TOLD + ALL_TORN_DOWN


def test_only_what_was_set_up_is_torn_down(make_trainer: Make) -> None:
    mine = UserError()
    events, error = run_with_three(make_trainer, failing_at(b_setup=mine))
    assert error is mine
    assert events == ["setup a", *ALL_TOLD, "teardown a"]


@pytest.mark.parametrize("failing", ["a", "b", "c", "data"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, SystemExit])
def test_teardown_goes_on_after_a_failure_of_its_own(
    make_trainer: Make, failing: str, kind: type[BaseException]
) -> None:
    benchmark = torch.backends.cudnn.benchmark
    fail = failing_at(**{f"{failing}_teardown": kind("late")})
    events, error = run_with_three(make_trainer, fail)
    assert [event for event in events if event.startswith("teardown")] == ALL_TORN_DOWN
    assert isinstance(error, kind)
    assert torch.backends.cudnn.benchmark is benchmark


def test_teardown_that_fails_does_not_hide_the_error(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    late = [OSError("late in a"), OSError("late in c")]
    fail = failing_at(a_teardown=late[0], c_teardown=late[1])
    events, error = run_with_three(make_trainer, fail, FailingModel())
    assert events == ALL_SET_UP + ALL_TOLD + ALL_TORN_DOWN
    assert str(error) == "the model's"
    notes = notes_of(error)  # type: ignore[arg-type]  # there is one
    assert len([note for note in notes if note.startswith("Helios was")]) == 1
    (group,) = [note for note in notes if "late in" in note]
    assert notes.index(group) == len(notes) - 1  # after what is said of the first cause
    assert "ExceptionGroup: tearing down has failed as well (2 sub-exceptions)" in group
    assert 0 < group.index("OSError: late in c") < group.index("OSError: late in a")
    assert group.count("in teardown") == 2  # where each of them came from
    logged = [r.exc_info[1] for r in caplog.records if r.exc_info]
    assert [error, late[1], late[0]] == logged


def test_one_failure_of_teardown_beside_the_error(make_trainer: Make) -> None:
    fail = failing_at(b_teardown=OSError("late in b"))
    _, error = run_with_three(make_trainer, fail, FailingModel())
    assert notes_of(error)[-1] == "while tearing down: OSError: late in b"  # type: ignore[arg-type]  # there is one


def test_two_failures_of_teardown_alone(make_trainer: Make) -> None:
    late = [OSError("late in a"), OSError("late in c")]
    fail = failing_at(a_teardown=late[0], c_teardown=late[1])
    events, error = run_with_three(make_trainer, fail)
    assert [event for event in events if event.startswith("teardown")] == ALL_TORN_DOWN
    assert isinstance(error, ExceptionGroup)
    assert set(error.exceptions) == set(late)


@pytest.mark.parametrize("kind", [OSError, SystemExit])
def test_on_exception_that_fails_is_only_logged(
    make_trainer: Make, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    fail = failing_at(b_on_exception=kind("in the handler"))
    events, error = run_with_three(make_trainer, fail, FailingModel())
    assert events == ALL_SET_UP + ALL_TOLD + ALL_TORN_DOWN
    assert str(error) == "the model's"
    assert "'b'" in caplog.text
    assert "in the handler" in caplog.text


def test_objects_with_hookimpls_are_told_and_torn_down(make_trainer: Make) -> None:
    class Plain:
        def __init__(self) -> None:
            self.events: list[str] = []

        @hookimpl
        def setup(self) -> None:
            self.events.append("setup")

        @hookimpl
        def on_exception(self, error: BaseException) -> None:
            self.events.append(str(error))

        @hookimpl
        def teardown(self) -> None:
            self.events.append("teardown")

    plain = Plain()
    with pytest.raises(UserError):
        make_trainer(plugins=[plain]).fit(FailingModel(), TinyDataModule())
    assert plain.events == ["setup", "the model's", "teardown"]


# What a run changes in its process.


def process_state() -> dict[str, Any]:
    logger = logging.getLogger("helios")
    return {
        "handlers": list(logger.handlers),
        "level": logger.level,
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "SIGTERM": signal.getsignal(signal.SIGTERM),
        "SIGINT": signal.getsignal(signal.SIGINT),
        "gradients": torch.is_grad_enabled(),
        "bars": list(tqdm.std.tqdm._instances),  # type: ignore[attr-defined]  # tqdm's own list
    }


PROCESS_PLACES = [
    "",
    "data.prepare_data",
    "plugin.setup",
    "model.setup",
    "model.train_step",
    "model.valid_step",
    "plugin.on_validation_batch_end",
    "plugin.on_training_end",
    "model.test_step",
    "plugin.teardown",
]


class Looking(Plugin):
    """Sees what a run has changed while it is going on."""

    def __init__(self) -> None:
        super().__init__("looking")
        self._seen: dict[str, Any] = {}

    def setup(self) -> None: ...

    def on_training_batch_end(self) -> None:
        self._seen = process_state()


@pytest.mark.parametrize("place", PROCESS_PLACES)
@pytest.mark.parametrize("switch", ["enable_deterministic", "enable_cudnn_benchmark"])
def test_process_is_left_as_it_was(
    make_trainer: Make, tmp_path: pathlib.Path, place: str, switch: str
) -> None:
    before = process_state()
    fail = Failing(place, UserError())
    looking = Looking()
    trainer = make_trainer(
        total_steps=1,
        valid_frequency=1,
        run_root=tmp_path,
        enable_progress_bar=True,
        plugins=[FailingPlugin(fail), PreemptionPlugin(), ProgressPlugin(), looking],
        **{switch: True},
    )
    model = overriding(TinyModel, "model", fail, MODEL_METHODS)()
    data = overriding(TinyDataModule, "data", fail, DATA_METHODS)()
    expected = pytest.raises(UserError) if place else contextlib.nullcontext()
    with expected:
        if is_of_testing(place):
            trainer.test(model, data)
        else:
            trainer.fit(model, data)
    assert process_state() == before
    if place in ("", "plugin.on_training_end"):  # and it had been changed
        same = {what for what, value in looking._seen.items() if value == before[what]}
        untouched = "benchmark" if switch == "enable_deterministic" else "deterministic"
        workspace = {"workspace"} if untouched == "deterministic" else set()
        assert same == {"warn only", "gradients", untouched} | workspace


def test_deterministic_warnings_stay_warnings(make_trainer: Make) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        make_trainer(total_steps=1).fit(TinyModel(), TinyDataModule())
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_chosen_workspace_is_kept(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_trainer(total_steps=1, enable_deterministic=True).fit(TinyModel(), TinyDataModule())
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


# After a failure.


@pytest.mark.parametrize(
    "place",
    [
        "data.prepare_data",
        "plugin.configure_trainer",
        "plugin.configure_model",
        "plugin.setup",
        "model.setup",
        "model.train_step",
        "model.valid_step",
        "plugin.on_training_end",
        "plugin.teardown",
    ],
)
def test_trainer_can_be_used_again(make_trainer: Make, place: str) -> None:
    fail = Failing(place, UserError())
    trainer = make_trainer(valid_frequency=1, print_frequency=4, plugins=[FailingPlugin(fail)])
    model = overriding(TinyModel, "model", fail, MODEL_METHODS)()
    data = overriding(TinyDataModule, "data", fail, DATA_METHODS)()
    with pytest.raises(UserError):
        trainer.fit(model, data)
    trainer.register_plugin(Looking())
    fail.where = ""
    state = trainer.fit(model, data)
    untouched = TinyModel()
    make_trainer(valid_frequency=1, print_frequency=4).fit(untouched, TinyDataModule())
    assert state.global_iteration == 12
    assert torch.equal(model.net[0].weight, untouched.net[0].weight)
    assert model.metrics == untouched.metrics


def test_configuring_is_repeated_where_it_has_failed(make_trainer: Make) -> None:
    class Configuring(Plugin):
        def __init__(self) -> None:
            super().__init__("configuring")
            self.calls = 0

        def configure_model(self, model: Model) -> None:
            self.calls += 1
            if self.calls == 1:
                raise UserError
            model._save_name += "-configured"

        def setup(self) -> None: ...

    trainer, model = make_trainer(plugins=[Configuring()]), TinyModel()
    with pytest.raises(UserError):
        trainer.fit(model, TinyDataModule())
    trainer.fit(model, TinyDataModule())
    trainer.fit(model, TinyDataModule())
    assert model.save_name == "tiny-configured"


def test_model_of_a_failed_run_is_not_taken_for_a_trained_one(make_trainer: Make) -> None:
    class Loading(TinyModel):
        loaded = False
        fails = False

        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            if self.fails and not fast_init:
                raise UserError

        def load_for_testing(self) -> None:
            self.loaded = True

    trainer, model = make_trainer(total_steps=1), Loading()
    trainer.fit(model, TinyDataModule())
    model.fails = True
    with pytest.raises(UserError):
        trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert model.loaded


def test_checkpoint_error_of_other_data_says_what_to_do(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    arguments = {"train_unit": "iteration", "chkpt_root": tmp_path}
    make_trainer(total_steps=5, **arguments).fit(TinyModel(), TinyDataModule())
    with pytest.raises(CheckpointError) as caught:
        make_trainer(total_steps=9, **arguments).fit(TinyModel(), TinyDataModule(train_size=12))
    message = str(caught.value)
    assert "after batch 5 of an epoch" in message
    assert "now has 3 batches" in message
    assert "restore the data" in message
