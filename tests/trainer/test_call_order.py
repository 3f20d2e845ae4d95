"""The transcripts: every hook and every method of the model, with arguments, in order."""

import contextlib
import inspect
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest

from helios import Plugin, Trainer
from helios.plugins import HOOKS
from helios.testing import TinyDataModule, TinyModel

SHOWN = {"validation_cycle": "cycle", "step": "step", "phase": "phase", "should_log": "log"}
METHODS = [
    "setup",
    "state_dict",
    "load_state_dict",
    "load_for_testing",
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
    "on_testing_start",
    "on_testing_batch_start",
    "test_step",
    "on_testing_batch_end",
    "on_testing_end",
    "predict_step",
]


def note(who: str, name: str, arguments: dict[str, Any]) -> str:
    """Return a line of the transcript: arguments that are numbers or names are shown."""
    shown = [f"{SHOWN[key]}={value}" for key, value in arguments.items() if key in SHOWN]
    if "state" in arguments:
        state = arguments["state"]
        shown.append(f"epoch={state.global_epoch} batch={state.global_iteration}")
    if "metrics" in arguments:
        shown.append(",".join(arguments["metrics"]))
    return f"{who}.{name}({' '.join(shown)})"


def recording_plugin(lines: list[str]) -> Plugin:
    """Return a plug-in that implements every hook and records each call."""

    def implement(name: str) -> Callable[..., Any]:
        arguments = ", ".join(["self", *HOOKS[name].arguments])
        values = ", ".join(f"{a!r}: {a}" for a in HOOKS[name].arguments)
        namespace: dict[str, Any] = {}
        exec(f"def {name}({arguments}): return self._called({name!r}, {{{values}}})", namespace)
        return namespace[name]

    def called(self: Plugin, name: str, arguments: dict[str, Any]) -> Any:
        assert list(arguments) == list(HOOKS[name].arguments)
        lines.append(note("plugin", name, arguments))
        if name == "launch":
            return arguments["target"]()
        if name == "step_context":
            return context()
        for passed_on in ("batch", "batches", "module"):
            if passed_on in arguments and not name.startswith("on_"):
                return arguments[passed_on]
        return False if name == "should_training_stop" else None

    @contextlib.contextmanager
    def context() -> Any:
        lines.append("enter")
        yield
        lines.append("leave")

    hooks = {name: implement(name) for name in HOOKS}
    kind = type("Recording", (Plugin,), {**hooks, "_called": called})
    return kind("recorder")


def recording_model(lines: list[str]) -> TinyModel:
    """Return a model that records each call of its methods."""

    def wrap(name: str) -> Callable[..., Any]:
        original = getattr(TinyModel, name)

        def method(self: TinyModel, *args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(original).bind(self, *args, **kwargs)
            lines.append(note("model", name, dict(bound.arguments)))
            return original(self, *args, **kwargs)

        return method

    return type("RecordingModel", (TinyModel,), {name: wrap(name) for name in METHODS})()


class RecordingData(TinyDataModule):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(train_size=4, batch_size=2, valid_size=3)
        self._lines = lines

    def prepare_data(self) -> None:
        self._lines.append("data.prepare_data()")

    def setup(self) -> None:
        self._lines.append("data.setup()")
        super().setup()

    def teardown(self) -> None:
        self._lines.append("data.teardown()")


def transcript(run: str, tmp_path: Any, **arguments: Any) -> list[str]:
    lines: list[str] = []
    trainer = Trainer(
        use_cpu=True,
        print_banner=False,
        plugins=[recording_plugin(lines)],
        chkpt_root=tmp_path,
        **{"total_steps": 1, "print_frequency": 2, **arguments},
    )
    getattr(trainer, run)(recording_model(lines), RecordingData(lines))
    return lines


START = """
data.prepare_data()
plugin.configure_trainer()
plugin.configure_model()
plugin.launch()
plugin.setup()
data.setup()
model.setup()
plugin.prepare_module()
plugin.on_model_ready()
"""

BATCH = """
plugin.process_training_batch(epoch=0 batch={batch})
plugin.on_training_batch_start(epoch=0 batch={batch})
model.on_training_batch_start(epoch=0 batch={batch})
plugin.step_context(phase=training)
enter
model.train_step(epoch=0 batch={batch})
plugin.on_before_backward(epoch=0 batch={batch})
plugin.on_after_backward(epoch=0 batch={batch})
plugin.on_before_optimizer_step(epoch=0 batch={batch})
plugin.on_gradients_ready(epoch=0 batch={batch})
plugin.on_after_optimizer_step(epoch=0 batch={batch})
leave
plugin.on_training_batch_end(epoch=0 batch={batch})
model.on_training_batch_end(log={log} epoch=0 batch={batch})
{logged}
plugin.should_training_stop()
model.should_training_stop()
"""

FIRST_BATCH = BATCH.format(batch=1, log=False, logged="")
SECOND_BATCH = BATCH.format(
    batch=2, log=True, logged="plugin.on_log(phase=training epoch=0 batch=2 loss)"
)

TRAINING_START = """
plugin.on_training_start()
model.on_training_start()
model.train()
plugin.on_training_epoch_start(epoch=0 batch=0)
model.on_training_epoch_start()
plugin.wrap_batches(phase=training)
"""

VALIDATION = """
plugin.wrap_batches(phase=validation)
model.eval()
plugin.on_validation_start(cycle=0)
model.on_validation_start(cycle=0)
plugin.process_validation_batch(step=0)
plugin.on_validation_batch_start(step=0)
model.on_validation_batch_start(step=0)
plugin.step_context(phase=validation)
enter
model.valid_step(step=0)
leave
plugin.on_validation_batch_end(step=0)
model.on_validation_batch_end(step=0)
model.train()
plugin.on_validation_end(cycle=0)
model.on_validation_end(cycle=0)
plugin.on_log(phase=validation epoch=0 batch={batch} accuracy)
model.have_metrics_improved()
plugin.on_validation_results(cycle=0 accuracy)
plugin.should_training_stop()
model.should_training_stop()
"""

EPOCH_END = """
plugin.on_training_epoch_end(epoch=0 batch=2)
model.on_training_epoch_end()
model.should_advance_dataset_phase()
"""

SAVE = """
model.state_dict()
plugin.on_checkpoint_saved(epoch={epoch} batch={batch})
"""

END = """
plugin.on_training_end()
model.on_training_end()
data.teardown()
plugin.teardown()
"""


def lines_of(*parts: str) -> list[str]:
    return [line for part in parts for line in part.splitlines() if line]


def test_epochs(tmp_path: Any) -> None:
    assert transcript("fit", tmp_path, valid_frequency=1, chkpt_frequency=1) == lines_of(
        START,
        TRAINING_START,
        FIRST_BATCH,
        SECOND_BATCH,
        VALIDATION.format(batch=2),
        EPOCH_END,
        SAVE.format(epoch=1, batch=2),
        END,
    )


def test_the_picture_of_the_documentation_shows_this_order(tmp_path: Any) -> None:
    root = pathlib.Path(__file__).parents[2]
    text = (root / "docs" / "hooks.md").read_text(encoding="utf-8")
    picture = text.partition("## The order of a run")[2].split("```")[1]
    shown = re.findall(r"^ *(\w+)", picture, re.MULTILINE)
    lines = transcript("fit", tmp_path, valid_frequency=1, chkpt_frequency=1, print_frequency=1)
    called = dict.fromkeys(re.findall(r"^plugin\.(\w+)", "\n".join(lines), re.MULTILINE))
    elsewhere = {name for name in HOOKS if "testing" in name or "prediction" in name} | {
        "on_checkpoint_loaded",
        "on_exception",
        "on_optimizer_step_skipped",
    }
    assert list(called) == [name for name in shown if name not in elsewhere]


def test_iterations(tmp_path: Any) -> None:
    arguments = {"train_unit": "iteration", "total_steps": 2, "valid_frequency": 1}
    second = VALIDATION.format(batch=2).replace("cycle=0", "cycle=1")
    assert transcript("fit", tmp_path, chkpt_frequency=1, **arguments) == lines_of(
        START,
        TRAINING_START,
        FIRST_BATCH,
        VALIDATION.format(batch=1),
        SAVE.format(epoch=0, batch=1),
        SECOND_BATCH,
        second,
        EPOCH_END,
        SAVE.format(epoch=1, batch=2),
        END,
    )


def test_testing(tmp_path: Any) -> None:
    testing = """
plugin.wrap_batches(phase=testing)
plugin.on_testing_start()
model.on_testing_start()
model.eval()
plugin.process_testing_batch(step=0)
plugin.on_testing_batch_start(step=0)
model.on_testing_batch_start(step=0)
plugin.step_context(phase=testing)
enter
model.test_step(step=0)
model.valid_step(step=0)
leave
plugin.on_testing_batch_end(step=0)
model.on_testing_batch_end(step=0)
plugin.on_testing_end()
model.on_testing_end()
plugin.on_log(phase=testing epoch=0 batch=0 accuracy)
data.teardown()
plugin.teardown()
"""
    assert transcript("test", tmp_path) == lines_of(START, "model.load_for_testing()", testing)


def test_validation_alone(tmp_path: Any) -> None:
    validation = VALIDATION.format(batch=0).partition("model.have_metrics_improved()")[0]
    before, after = validation.split("plugin.on_log")
    assert transcript("validate", tmp_path) == lines_of(
        START,
        "model.load_for_testing()",
        before,
        "model.eval()\nplugin.on_log" + after,
        "data.teardown()\nplugin.teardown()",
    )


def test_prediction(tmp_path: Any) -> None:
    prediction = """
plugin.wrap_batches(phase=prediction)
plugin.on_prediction_start()
model.eval()
plugin.process_prediction_batch(step=0)
plugin.on_prediction_batch_start(step=0)
plugin.step_context(phase=prediction)
enter
model.predict_step(step=0)
leave
plugin.on_prediction_batch_end(step=0)
plugin.on_prediction_end()
data.teardown()
plugin.teardown()
"""
    assert transcript("predict", tmp_path) == lines_of(
        START, "model.load_for_testing()", prediction
    )


def test_resumed_run_is_told_of_the_checkpoint(tmp_path: Any) -> None:
    transcript("fit", tmp_path)
    assert transcript("fit", tmp_path) == lines_of(
        START,
        "model.load_state_dict()",
        "plugin.on_checkpoint_loaded(epoch=1 batch=2)",
        TRAINING_START.split("plugin.on_training_epoch_start")[0],
        END,
    )


def test_failing_run_is_told_and_torn_down(tmp_path: Any) -> None:
    lines: list[str] = []
    model = recording_model(lines)
    model.train_step = lambda batch, state: 1 / 0  # type: ignore[method-assign]
    trainer = Trainer(
        total_steps=1, use_cpu=True, print_banner=False, plugins=[recording_plugin(lines)]
    )
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.fit(model, RecordingData(lines))
    assert lines[-3:] == lines_of(
        "plugin.on_exception(epoch=0 batch=1)", "data.teardown()", "plugin.teardown()"
    )
    (message,) = caught.value.__notes__
    assert message.startswith("Helios was training 'tiny': epoch 0, batch 0 of it, iteration 1")
