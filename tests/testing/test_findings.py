"""The messages of the conformance kit about a plug-in that fails: the place, and both values."""

import functools
import logging
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from helpers import Named

from helios import DataLoaderParams, DataModule, Model, TrainingState, hookimpl
from helios.errors import CheckpointError, ConfigurationError, InvalidPluginError
from helios.testing import ConformanceError, TinyDataModule, TinyModel, check_conformance, equal
from helios.testing.comparison import difference, digest
from helios.testing.recorder import first_other


class Counting(Named):
    """Counts batches, and forgets the count."""

    def __init__(self) -> None:
        super().__init__("counting")
        self.count = 0

    def on_training_batch_end(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"nested": [self.count]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Noise(Named):
    """Adds noise of a generator of its own to the batches, and saves no state."""

    changes_results = True

    def setup(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def process_training_batch(self, batch: Any) -> Any:
        noise = torch.randn(batch[0].shape, generator=self.generator)
        return [batch[0] + noise, batch[1]]


class Offset(Named):
    """Shows a metric in each validation that depends on a count, which it does not save."""

    count = 0

    def on_training_batch_end(self) -> None:
        self.count += 1

    def on_validation_end(self) -> None:
        self.trainer.model.log("offset", self.count)


class Drawing(Named):
    """Draws a number as an observer should not."""

    def on_training_batch_end(self) -> None:
        torch.rand(())


class Zeroing(Named):
    """Changes the batches of validations only, so that the weights stay the same."""

    def process_validation_batch(self, batch: Any) -> Any:
        return [torch.zeros_like(batch[0]), batch[1]]


def message_of(create: Callable[[], Any], **arguments: Any) -> str:
    with pytest.raises(ConformanceError) as caught:
        check_conformance(create, **arguments)
    return str(caught.value)


# A run that was stopped and resumed.


def test_the_key_and_both_values_are_shown() -> None:
    message = message_of(Counting)
    assert message.startswith(
        "a run that stops after 1 batches and resumes ends with different state of"
    )
    line = "state of the plug-in['nested'][0]: 18 in the uninterrupted run, 17 in the resumed run"
    assert f"\n  {line}\n" in message


def test_the_first_batch_that_differs_is_shown_with_both_values() -> None:
    lines = message_of(Noise).splitlines()
    kind = r"torch.float32 of shape \[4, 4\]: -?\d\.\d+, .*"
    assert lines[1].startswith("  batch 1 (training)[0]: torch.float32 of shape [4, 4]: ")
    assert re.fullmatch(rf".* {kind} in the uninterrupted run, {kind} in the resumed run", lines[1])
    assert lines[2].startswith("  state of the model['net']['0.weight'][0, 0]: ")


def test_metrics_show_a_state_that_nothing_else_shows() -> None:
    message = message_of(Offset)
    assert "  metrics['offset']: 18.0 in the uninterrupted run, 17.0 in the resumed run" in message


def test_a_run_that_begins_anew_is_no_resumed_run() -> None:
    numbers = iter(range(100))

    class Renaming(Named):
        def configure_model(self, model: Model) -> None:
            model.rename(f"other-{next(numbers)}")

    assert "after 1 batches does not resume: the next run begins anew" in message_of(Renaming)


# A run without the plug-in.


@pytest.mark.parametrize(
    ("create", "part"),
    [(Drawing, r"state of the model\['net'\]\['0.weight'\]\[0, 0\]"), (Zeroing, "metrics")],
)
def test_an_observer_that_changes_the_run_is_found(create: type[Named], part: str) -> None:
    with pytest.raises(ConformanceError, match=rf"changes the results of the run.\n  {part}.*: "):
        check_conformance(create)

    class SaysSo(create):  # type: ignore[valid-type, misc]
        changes_results = True

    if create is Zeroing:  # and is exact
        check_conformance(SaysSo)


def test_metrics_of_the_plug_in_and_a_stop_are_no_change() -> None:
    class Stopping(Named):
        def on_validation_end(self) -> None:
            self.trainer.model.log("own", 1)

        def on_training_batch_end(self, state: TrainingState) -> None:
            if state.global_iteration == 7:
                self.trainer.request_stop("enough")

    assert check_conformance(Stopping).batches == 7


@pytest.mark.parametrize("kind", ["swapped", "changed", "lost"])
def test_wrap_batches_passes_on_the_same_batches(kind: str) -> None:
    class Wrapping(Named):
        changes_results = True

        def wrap_batches(self, batches: Iterable[Any]) -> Iterator[Any]:
            all_of_them = list(batches)
            if kind == "swapped":
                all_of_them[:2] = all_of_them[1::-1]
            if kind == "changed":
                all_of_them[0] = [all_of_them[0][0] + 1, all_of_them[0][1]]
            yield from all_of_them[kind == "lost" :]

    if kind == "lost":
        with pytest.raises(InvalidPluginError, match=r"'named' .* yielded 5 batches"):
            check_conformance(Wrapping)
    else:
        message = message_of(Wrapping)
        assert message.startswith("wrap_batches passes on other batches than the loader gave.")
        assert "  batch 0 (training)[0]: torch.float32 of shape [4, 4]: " in message


# Hooks and states.


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any) -> Any:
        return function(self)

    return call


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("decorate", [hidden, lambda function: function])
def test_async_hooks_are_found(critical: bool, decorate: Any) -> None:
    async def on_checkpoint_loaded(self: Any) -> None: ...

    body = {"on_checkpoint_loaded": decorate(on_checkpoint_loaded), "critical": critical}
    with pytest.raises((InvalidPluginError, ConformanceError), match="on_checkpoint_loaded"):
        check_conformance(type("Async", (Named,), body))


def test_an_observer_that_fails_does_not_pass() -> None:
    class Failing(Named):
        critical = False

        def on_log(self) -> None:
            raise UserWarning("the disk is full")

    assert "'named' failed in on_log" in message_of(Failing)


@pytest.mark.parametrize("critical", [True, False])
def test_a_state_that_is_not_plain_before_the_first_save_is_found(critical: bool) -> None:
    class Late(Named):
        def __init__(self) -> None:
            super().__init__("late")
            self.value: Any = random.Random(0)

        def on_training_batch_end(self) -> None:
            self.value = 0

        def state_dict(self) -> dict[str, Any]:
            return {"value": self.value}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    Late.critical = critical
    with pytest.raises(CheckpointError, match=r"before the first batch\['value'\]: .*Random"):
        check_conformance(Late)


def test_only_warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Talking(Named):
        def on_training_end(self) -> None:
            logging.getLogger("helios.talking").info("a fact")
            logging.getLogger("helios.talking").warning("a warning")

    caplog.set_level(logging.INFO)
    check_conformance(Talking)
    assert {record.getMessage() for record in caplog.records} == {"a warning"}
    logging.getLogger("helios.talking").info("after it")
    assert caplog.records[-1].getMessage() == "after it"


def test_the_same_object_twice_proves_nothing() -> None:
    plugin = Named()
    assert "the same plug-in twice" in message_of(lambda: plugin)


# Models and data of authors.


class Regression(Model):
    """A model with other data than those of the tiny model."""

    def __init__(self) -> None:
        super().__init__("regression")

    def setup(self, fast_init: bool = False) -> None:
        self.line = self.prepare(torch.nn.Linear(1, 1))
        self.optimizer = torch.optim.Adam(self.line.parameters())

    def train_step(self, batch: Any, state: TrainingState) -> None:
        loss = (self.line(batch["x"]) - batch["y"]).square().mean()
        self.optimize(loss, self.optimizer)


class Line(DataModule):
    """Batches that are dictionaries, of one set of data."""

    def setup(self) -> None:
        samples = [{"x": torch.tensor([float(x)]), "y": torch.tensor([2.0 * x])} for x in range(9)]
        self._train_dataset = self._create_dataset(samples, DataLoaderParams(batch_size=3))


def test_model_and_data_of_an_author() -> None:
    class NeedsKeys(Named):
        def on_training_start(self) -> None:
            assert isinstance(self.trainer.model, Regression)

        def process_training_batch(self, batch: Any) -> Any:
            assert set(batch) == {"x", "y"}
            return batch

    result = check_conformance(NeedsKeys, Regression, Line, valid_frequency=None)
    assert (result.batches, result.stops) == (9, (1, 2, 4, 8))


def test_the_result_can_be_used_in_one_line() -> None:
    class Remembering(Counting):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            (self.count,) = state_dict["nested"]

    result = check_conformance(Remembering)
    assert result.state == {"nested": [18]}
    assert result.metrics["accuracy"] == 1


def test_a_model_that_is_not_exact_is_not_blamed_on_the_plug_in() -> None:
    class Forgetful(TinyModel):
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

        def on_training_end(self) -> None:
            self.metrics["weight"] = self.net[0].weight.sum().item()

    with pytest.raises(ConfigurationError, match="Forgetful and TinyDataModule differ after a"):
        check_conformance(Named, Forgetful)


def test_times_do_not_count() -> None:
    times = iter(range(10000))

    class Timed(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
            self.log("seconds of training", float(next(times)))
            return super().train_step(batch, state)

        def valid_step(self, batch: Any, step: int) -> torch.Tensor:
            self.log("seconds", float(next(times)))
            return super().valid_step(batch, step)

    class Timing(Named):
        def on_validation_end(self) -> None:
            self.trainer.model.log("time", next(times))

    check_conformance(Timing, Timed)
    assert "  state of the plug-in['nested'][0]: " in message_of(Counting, model=Timed)


def test_weights_that_change_by_themselves_are_not_blamed_on_the_plug_in() -> None:
    numbers = iter(range(1000))

    class Moody(TinyModel):
        def on_training_end(self) -> None:
            with torch.no_grad():
                self.net[0].bias += next(numbers)

    with pytest.raises(ConfigurationError, match="Moody and TinyDataModule do not give the same"):
        check_conformance(Named, Moody)


def test_numbers_that_loggers_receive_are_compared() -> None:
    class Mean(Named):
        def setup(self) -> None:
            self.values: list[float] = []

        def on_after_optimizer_step(self, state: TrainingState) -> None:
            self.values.append(float(state.global_iteration))

        def on_training_epoch_end(self) -> None:
            self.trainer.model.log("mean", sum(self.values) / len(self.values))
            self.values.clear()

    message = message_of(Mean)
    place = "logged numbers['mean'][0][1]"
    assert f"  {place}: 3.5 in the uninterrupted run, 4.0 in the resumed run" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"create": Named()}, r"create is an object of type Named.* lambda: Named\(\.\.\.\)"),
        ({"create": Named, "model": TinyModel()}, "model is an object of type TinyModel"),
        ({"create": Named, "datamodule": TinyDataModule()}, "datamodule is an object of type"),
        ({"create": Named, "run_root": "runs"}, "remove run_root='runs'"),
        ({"create": Named, "chkpt_root": "runs"}, "remove chkpt_root='runs'"),
        (
            {"create": Named, "datamodule": lambda: TinyDataModule(4), "total_steps": 1},
            "1 training batches",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_conformance(**arguments)


def test_plug_ins_beside_the_tested_one() -> None:
    beside: list[str] = []

    class Looking(Named):
        def on_training_start(self) -> None:
            beside.append(", ".join(self.trainer.plugins))

    check_conformance(Looking, plugins=["metrics-file"])
    assert set(beside) == {
        "metrics-file, named, Recorder, StopAfter",
        "metrics-file, named, FailAtOnce",
    }


# Comparisons.


@pytest.mark.parametrize(
    ("left", "right", "place", "values"),
    [
        ({"a": 1}, {"a": 2}, "['a']", ("1", "2")),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "['a']['b'][1]", ("2", "3")),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "", ("the keys ['a', 'b']", "the keys ['b', 'a']")),
        ({"a": 1}, {}, "['a']", ("1", "nothing")),
        ([1], [1, 2], "[1]", ("nothing", "2")),
        ((1,), [1], "", ("(1,)", "[1]")),
        (1, True, "", ("1", "True")),
        (torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]]), "[0, 1]", ("1.0", "2.0")),
        (torch.tensor(0.0), torch.tensor(-0.0), "", ("torch.float32 of shape []: 0.0",) * 0),
        (
            torch.ones(5),
            torch.ones(1),
            "",
            (
                "torch.float32 of shape [5]: 1.0, 1.0, 1.0, 1.0, ...",
                "torch.float32 of shape [1]: 1.0",
            ),
        ),
    ],
)
def test_difference(left: Any, right: Any, place: str, values: tuple[str, ...]) -> None:
    assert not equal(left, right)
    found = difference(left, right)
    assert found is not None
    assert found.place == place
    if values:
        assert (found.left, found.right) == values
    assert difference(left, left) is None


class Sample:
    """A batch of a type that Helios does not know."""

    def __init__(self, number: float) -> None:
        self.images = torch.tensor([number])
        self.itself = self


def test_batches_of_any_type_are_compared() -> None:
    def batch(number: float) -> Any:
        array = torch.tensor([number]).numpy()
        return [Sample(number), {"a": (array, "text", None)}, torch.eye(2).to_sparse()]

    first, same, other = digest(batch(1)), digest(batch(1)), digest(batch(2))
    assert first_other([("training", first)], [("training", same)]) is None
    found = first_other([("training", first)], [("training", other)])
    assert found is not None
    assert found.place == " 0 (training)[0].images"
    assert list(first) == ["[0].images", "[1]['a'][0]", "[1]['a'][1]", "[1]['a'][2]", "[2]"]


def test_objects_with_marked_functions_are_tested() -> None:
    class Plain:
        @hookimpl
        def on_training_start(self) -> None: ...

    assert check_conformance(Plain).state == {}
