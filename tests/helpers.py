"""Stand-ins, recorders and checks that several test modules share."""

import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jsonschema
import pytest
import referencing
import torch
from torch.utils.data import TensorDataset

from helios import Model, Plugin, Trainer, TrainingState, hookimpl
from helios.plugins import PluginManager
from helios.testing import TinyModel

Make = Callable[..., Trainer]
"""The type of the fixture ``make_trainer``."""

OVERRIDES = ["training_batch", "validation_batch", "testing_batch", "should_training_stop"]
"""The fields of ``UniquePluginOverrides``, in order."""
SCHEMAS = pathlib.Path(__file__).parents[1] / "docs" / "schemas"
"""The schemas of what commands print with ``--json``."""


# Errors.


class UserError(Exception):
    """An error that user code raises; tests give it a message to show whether Helios changes it."""


class Fault(Exception):
    """An error that a hook raises."""


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an error."""
    return list(getattr(error, "__notes__", []))


# Plug-ins and models.


class Named(Plugin):
    """A plug-in with an id that implements only what it must."""

    def __init__(self, plug_id: str = "named") -> None:
        super().__init__(plug_id)

    def setup(self) -> None: ...


class ObjectWithHooks:
    """An object of another class than ``Plugin`` that implements a hook."""

    @hookimpl
    def on_training_start(self) -> None: ...


class Logs(Named):
    """Records what Helios logs, and the steps and batches at which it does."""

    def __init__(self) -> None:
        super().__init__("logs")
        self.calls: list[tuple[int, int, dict[str, float]]] = []

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        assert all(type(value) is float for value in metrics.values())
        self.calls.append((state.current_iteration, state.global_iteration, metrics))

    @property
    def at(self) -> list[tuple[int, int]]:
        return [(step, batch) for step, batch, _ in self.calls]


class Recording(TinyModel):
    """Records its losses, and for each batch whether Helios logs after it."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.should_log: list[bool] = []

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        loss = super().train_step(batch, state)
        self.losses.append(loss.item())
        return loss

    def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
        super().on_training_batch_end(state, should_log)
        self.should_log.append(should_log)


class Keeping(Named):
    """Keeps the state that it is given, and records what happens to checkpoints."""

    def __init__(self, state: Any = None, plug_id: str = "keeping") -> None:
        super().__init__(plug_id)
        self.state = {} if state is None else state
        self.events: list[tuple[str, str]] = []

    def on_checkpoint_saved(self, path: pathlib.Path) -> None:
        self.events.append(("saved", path.name))

    def on_checkpoint_loaded(self, path: pathlib.Path) -> None:
        self.events.append(("loaded", path.name))

    def state_dict(self) -> dict[str, Any]:
        return self.state  # type: ignore[no-any-return]  # whatever the test says

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


class FailingModel(TinyModel):
    """Fails in its first step."""

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        raise UserError("the model's")


class ReadAhead:
    """Fetches two batches more than are consumed, as a plug-in that copies them to a GPU does."""

    @hookimpl
    def wrap_batches(self, batches: Iterable[Any], phase: str) -> Iterator[Any]:
        fetched = []
        for batch in batches:
            fetched.append(batch)
            if len(fetched) > 2:
                yield fetched.pop(0)
        yield from fetched


# Data and checkpoints.


def numbers(count: int) -> TensorDataset:
    """Return a dataset of the numbers from 0."""
    return TensorDataset(torch.arange(count))


def names(folder: pathlib.Path) -> list[str]:
    """Return the names of the files in a folder, sorted, without links."""
    return [path.name for path in files(folder)]


def files(folder: pathlib.Path, pattern: str = "*") -> list[pathlib.Path]:
    """Return the files in a folder, sorted, without links such as ``last.pth``."""
    return sorted(path for path in folder.glob(pattern) if not path.is_symlink())


def read(path: pathlib.Path) -> dict[str, Any]:
    """Return the content of a checkpoint, read without Helios."""
    payload: dict[str, Any] = torch.load(path, weights_only=True)
    return payload


def valid_document(text: str) -> Any:
    """Return the object that a command printed, after a check against the schema."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads(text, parse_constant=refuse)
    registry: Any = referencing.Registry()
    for path in SCHEMAS.glob("*.json"):
        schema = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        registry = registry.with_resource(path.name, referencing.Resource.from_contents(schema))
    root = {"$ref": "helios.json"}
    jsonschema.Draft202012Validator(root, registry=registry).validate(document)
    return document


# Failures at a chosen place: a hook, or a method of the model or the data.


class Failing:
    """Raises one error, at one place."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error = where, error

    def __call__(self, where: str) -> None:
        if where == self.where:
            raise self.error


def overriding(base: type, who: str, fail: Failing, names: list[str]) -> type:
    """Derive a class whose methods may fail before they do anything else."""

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
    """Implements every hook in which it can fail, and records the errors that it is told of."""

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


def is_of_testing(place: str) -> bool:
    return "test" in place


# Registration.


class Observer(Named):
    """A plug-in that claims nothing, but shows in pluggy's view."""

    # As if defined elsewhere: each plan would look for its line in this long file.
    __module__ = "elsewhere"

    def on_training_start(self) -> None:
        pass


def table(manager: PluginManager) -> list[Any]:
    """Return all that the manager itself holds."""
    rows = [
        (key, row.id, row.plugin, row.reason, row.explicit, row.hooks, dict(row.claims))
        for key, row in manager.rows.items()
    ]
    return [rows, list(manager.inactive)]


def pluggy_view(manager: PluginManager) -> list[Any]:
    """Return all that pluggy can be asked."""
    implementations = {
        name: [(i.plugin_name, i.plugin, i.function) for i in caller.get_hookimpls()]
        for name, caller in vars(manager.hook).items()
    }
    return [manager.get_plugins(), manager.list_name_plugin(), implementations]


def plan(trainer: Trainer) -> dict[str, Any]:
    """Return what the plan would be if the trainer were launched now."""
    frozen = trainer.plugin_manager.freeze().to_dict()
    trainer.plugin_manager.frozen = False
    return frozen


def assert_refused(
    trainer: Trainer, action: Callable[[], object], error: type[Exception]
) -> Exception:
    """Check that an action fails and has no effect, and return its error."""
    manager = trainer.plugin_manager
    shown, planned = trainer.plan, plan(trainer)
    before, view = table(manager), pluggy_view(manager)
    with pytest.raises(error) as caught:
        action()
    assert table(manager) == before
    assert pluggy_view(manager) == view
    assert trainer.plan is shown
    assert plan(trainer) == planned
    return caught.value


def register(trainer: Trainer, plugin: Any) -> None:
    trainer.register_plugin(plugin)


def key_of(plugin: Any) -> str:
    own = getattr(plugin, "_plug_id", None)
    return own if isinstance(own, str) and own else "bad"


def enter(trainer: Trainer, plugin: Any) -> None:
    trainer.plugins[key_of(plugin)] = plugin
