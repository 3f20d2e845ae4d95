"""What training changes in a model: what is saved, what is not, and what users are told."""

import enum
import io
import logging
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make
from torch import nn

from helios import TrainingState
from helios.errors import CheckpointError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Callable[..., Any]:
    def train(model: Any, stop_after: int | None = None, **arguments: Any) -> Any:
        arguments = {"total_steps": 2, "chkpt_root": tmp_path, **arguments}
        make_trainer(plugins=[StopAfter(stop_after)], **arguments).fit(model, TinyDataModule())
        return model

    return train


class Mean(TinyModel):
    """Carries a mean from batch to batch, and has a hyper-parameter."""

    def __init__(self, factor: float = 0.9) -> None:
        super().__init__()
        self.factor = factor

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.mean = torch.zeros(4)

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        features, labels = batch
        self.mean = self.factor * self.mean + 0.1 * features.mean(dim=0)
        return super().train_step((features + self.mean, labels), state)


def test_value_that_did_not_change_may_be_edited(fit: Any) -> None:
    fit(Mean(0.9), 4)
    assert fit(Mean(0.5)).factor == 0.5


def test_tensor_equals_that_of_a_plain_loop(fit: Any) -> None:
    data = TinyDataModule()
    data.setup()
    fit(Mean(), 4)
    resumed = fit(Mean())
    batches: list[torch.Tensor] = []

    class Collecting(Mean):
        def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
            batches.append(batch[0])
            return super().train_step(batch, state)

    whole = fit(Collecting(), chkpt_root=None)
    mean = torch.zeros(4)
    for features in batches:
        mean = 0.9 * mean + 0.1 * features.mean(dim=0)
    assert torch.equal(whole.mean, mean)
    assert torch.equal(resumed.mean, mean)


@pytest.mark.parametrize("folder", [True, False])
def test_a_test_after_training_has_the_values(
    make_trainer: Make, tmp_path: pathlib.Path, folder: bool
) -> None:
    trainer = make_trainer(total_steps=1, chkpt_root=tmp_path if folder else None)
    model = Mean()
    trainer.fit(model, TinyDataModule())
    trained = model.mean.clone()
    assert trained.any()
    trainer.test(model, TinyDataModule())
    assert torch.equal(model.mean, trained)


class Initializing(Mean):
    def on_training_start(self) -> None:
        self.mean = torch.zeros(4)
        self.starts = getattr(self, "starts", 0) + 1


def test_start_of_training_does_not_undo_what_is_restored(fit: Any) -> None:
    whole = fit(Initializing(), chkpt_root=None)
    fit(Initializing(), 4)
    resumed = fit(Initializing())
    assert torch.equal(whole.mean, resumed.mean)
    assert equal(whole.state_dict(), resumed.state_dict())


class Tables(TinyModel):
    """Adds up in the tables for losses and scores, and empties none of them."""

    def on_training_batch_start(self, state: TrainingState) -> None: ...

    def on_validation_start(self, validation_cycle: int) -> None: ...

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        loss = super().train_step(batch, state)
        self._loss_items["sum"] = self._loss_items.get("sum", torch.zeros(())) + loss
        self._test_scores["batches"] = self._test_scores.get("batches", 0) + 1
        return loss

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self._val_scores["batches"] = self._val_scores.get("batches", 0) + 1
        return super().valid_step(batch, step)

    @property
    def tables(self) -> list[dict[str, Any]]:
        return [self._loss_items, self._val_scores, self._test_scores]


@pytest.mark.parametrize("stop_after", [4, 8])
def test_tables_of_losses_and_scores(fit: Any, stop_after: int) -> None:
    whole = fit(Tables(), chkpt_root=None, valid_frequency=1)
    fit(Tables(), stop_after, valid_frequency=1)
    resumed = fit(Tables(), valid_frequency=1)
    assert equal(whole.tables, resumed.tables)
    assert whole.tables[1:] == [{"batches": 6}, {"batches": 12}]


class Own(Mean):
    """Saves its mean itself, in another form."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mean": self.mean / 2}

    def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
        state_dict = dict(state_dict)
        self.mean = 2 * state_dict.pop("mean")
        self._seen = self.mean
        super().load_state_dict(state_dict, fast_init)


def test_model_that_saves_a_value_itself_has_the_last_word(fit: Any) -> None:
    whole = fit(Own(), chkpt_root=None)
    fit(Own(), 4)
    resumed = fit(Own())
    assert equal(whole.state_dict(), resumed.state_dict())
    restored = fit(Own())
    assert restored.mean is restored._seen


class Thing:
    """An object that a checkpoint cannot hold."""


class Unsavable(Mean):
    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self.thing = Thing()
        self.things = [1, Thing()]
        self._cache = Thing()
        return super().train_step(batch, state)


def test_what_cannot_be_saved_is_named_once(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "helios")
    fit(Unsavable(), chkpt_frequency=1)
    (message,) = [r.getMessage() for r in caplog.records if "cannot hold" in r.getMessage()]
    assert "Unsavable.thing: " in message
    assert "Unsavable.things.1: " in message
    assert "_cache" not in message
    assert "load_state_dict()" in message
    assert "underscore" in message


class Equal:
    """An object that a checkpoint cannot hold, and that equals others of its class."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 0


class Words(list[str]):
    """A list of a class that no checkpoint knows."""


class Replacing(Mean):
    """Replaces or fills objects that setup() has created, and creates a network late."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.thing, self.things, self.equal = Thing(), {"one": Thing()}, Equal()
        self.function = abs
        self.words, self.unchanged = Words(), Words("ab")

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self.thing, self.things["one"], self.equal = Thing(), Thing(), Equal()
        self.function = min
        self.words.append("word")
        self.late = self.prepare(nn.Linear(1, 1))
        return super().train_step(batch, state)


def test_what_replaces_an_object_is_named(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    fit(Replacing(), 4)
    (message,) = [r.getMessage() for r in caplog.records if "cannot hold" in r.getMessage()]
    found = re.findall(r"^  Replacing\.(.*?): ", message, re.MULTILINE)
    assert sorted(found) == ["function", "late", "thing", "things['one']", "words"]
    assert "Replacing.late: created after setup()" in message


class Untied(Mean):
    """Replaces an optimizer but not its scheduler, or a network but not its optimizer."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3)
        self.head = self.prepare(nn.Linear(1, 1))
        self.steps_head = torch.optim.SGD(self.head.parameters(), lr=0.1)
        stray = nn.Parameter(torch.zeros(1))  # was never in a network
        self.steps_stray = torch.optim.SGD([stray], lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        if state.current_iteration == 3:
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
            self.head = self.prepare(nn.Linear(1, 1))
        return super().train_step(batch, state)


def test_what_is_tied_to_a_replaced_object_is_named(
    fit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Untied(), 4)
    (message,) = [r.getMessage() for r in caplog.records if "cannot hold" in r.getMessage()]
    assert re.findall(r"^  Untied\.(.*?): (.*?):", message, re.MULTILINE) == [
        ("scheduler", "tied to an optimizer that the model has replaced"),
        ("steps_head", "steps parameters that the model has replaced"),
    ]
    with pytest.raises(CheckpointError, match="a parameter that was in no network of the model"):
        fit(Untied())


def test_class_that_is_gone_is_named(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Coloured(Mean):
        def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
            self.colour = Colour.RED
            return super().train_step(batch, state)

    fit(Coloured(), 4)
    monkeypatch.delattr(sys.modules[__name__], "Colour")
    message = r"holds Coloured.colour with .*class .*test_model_changes.Colour in it, which"
    with pytest.raises(CheckpointError, match=message):
        fit(Coloured())


class Colour(enum.Enum):
    RED = 1


class Meter:
    """A helper of a user, without state_dict()."""

    def __init__(self) -> None:
        self.total = 0.0
        self._cached = 0.0


class Measuring(Mean):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.meters = {"used": Meter(), "unused": Meter()}

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self.meters["used"].total += 1
        self.meters["unused"]._cached += 1
        return super().train_step(batch, state)


def test_helper_whose_content_changes_is_named(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    fit(Measuring(), chkpt_frequency=1)
    (message,) = [r.getMessage() for r in caplog.records if "cannot hold" in r.getMessage()]
    assert "Measuring.meters['used']: " in message
    assert "unused" not in message


class Iterating(Mean):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.names = iter(["a", "b"])
        self.helpers = [Meter()]
        self.helpers[0].rows = zip("ab", "cd", strict=True)  # type: ignore[attr-defined]
        self.file = io.StringIO()
        self._cache = iter([])


def test_iterators_are_named(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can see whether training has advanced them."""
    fit(Iterating(), chkpt_frequency=1)
    (message,) = [r.getMessage() for r in caplog.records if "cannot hold" in r.getMessage()]
    assert "Iterating.names: the position of the list_iterator" in message
    assert "Iterating.helpers.0.rows: the position of the zip" in message
    assert "file" not in message
    assert "_cache" not in message


class Growing(TinyModel):
    """Adds a group in training; without ``extra``, the parameter in it does not exist."""

    def __init__(self, extra: bool = True) -> None:
        super().__init__()
        self._extra = extra

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        if self._extra:
            self.extra = nn.Parameter(torch.ones(1))

    def on_training_epoch_start(self, current_epoch: int) -> None:
        if current_epoch == 1:
            self.optimizer.add_param_group({"params": [self.extra], "lr": 0.01})

    def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
        if not self._extra:
            state_dict = {n: state for n, state in state_dict.items() if n != "extra"}
        super().load_state_dict(state_dict, fast_init)


def test_group_with_a_parameter_that_is_gone(fit: Any) -> None:
    fit(Growing(), 8)
    assert len(fit(Growing(), 1).optimizer.param_groups) == 2
    with pytest.raises(CheckpointError) as caught:
        fit(Growing(extra=False))
    assert "group 1 of optimizer, with the parameter 'extra'" in str(caught.value)
    assert "has 1 groups now, and had 2" in str(caught.value)


# Networks that exist before setup().


class Early(TinyModel):
    """Its constructor creates the network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(self.net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)


def test_second_fit_begins_with_the_first_weights(
    fit: Any, make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    model = Early()
    first = {name: each.clone() for name, each in model.net.state_dict().items()}
    once = fit(model, chkpt_root=None).net[0].weight.clone()
    assert not torch.equal(once, first["0.weight"])
    make_trainer().test(model, TinyDataModule())
    again = fit(model, chkpt_root=None).net[0].weight
    assert torch.equal(again, once)
    messages = [r.getMessage() for r in caplog.records if "before setup()" in r.getMessage()]
    assert len(messages) == 1
    assert messages[0].startswith("Early.net exists before setup()")


def test_weights_that_a_user_loads_between_two_fits_count(fit: Any) -> None:
    weights = {name: each.clone() for name, each in Early().net.state_dict().items()}
    fresh = Early()
    fresh.net.load_state_dict(weights)
    expected = fit(fresh, chkpt_root=None).net[0].weight
    model = fit(Early(), chkpt_root=None)
    model.net.load_state_dict(weights)
    assert torch.equal(fit(model, chkpt_root=None).net[0].weight, expected)


class EarlyOptimizer(Early):
    """Its constructor creates everything that has a state, and a best value."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)
        self.prompt = nn.Parameter(torch.ones(4))
        self.optimizer.add_param_group({"params": [self.prompt]})
        self.generator = torch.Generator().manual_seed(1)
        self.best = float("inf")
        self.history: list[float] = []
        self.total = torch.zeros(())

    def setup(self, fast_init: bool = False) -> None: ...

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        features, labels = batch
        features = features * self.prompt + torch.rand(4, generator=self.generator)
        loss = super().train_step((features + self.total, labels), state)
        self.best = min(self.best, loss.item())
        self.history.append(loss.item())
        self.total += 0.01 * loss
        self.last = loss
        return loss


def test_second_fit_is_the_first_one_again(fit: Any) -> None:
    model = fit(EarlyOptimizer(), chkpt_root=None)
    weights, history, total = model.net[0].weight.clone(), model.history, model.total.clone()
    fit(model, chkpt_root=None)
    assert torch.equal(model.net[0].weight, weights)
    assert model.history == history
    assert model.history is not history
    assert torch.equal(model.total, total)


def test_attempts_with_one_model_equal_the_whole_run(fit: Any, tmp_path: pathlib.Path) -> None:
    class Failing(EarlyOptimizer):
        fails = True

        def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
            if self.fails and state.global_iteration == 9:
                raise RuntimeError("failed")

    torch.manual_seed(1)
    whole = fit(EarlyOptimizer(), chkpt_root=tmp_path / "whole")
    torch.manual_seed(1)
    model = Failing()
    with pytest.raises(RuntimeError, match="failed"):
        fit(model, chkpt_frequency=1)
    model.fails = False
    fit(model, chkpt_frequency=1)
    assert equal(model.state_dict(), whole.state_dict())
    assert (model.history, model.best) == (whole.history, whole.best)


def test_values_that_a_user_sets_between_two_fits_count(fit: Any) -> None:
    model = fit(EarlyOptimizer(), chkpt_root=None)
    model.best = 0.0
    assert fit(model, chkpt_root=None).best == 0.0


def test_networks_of_setup_are_not_warned_about(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = TinyModel()
    fit(model, chkpt_root=None)
    fit(model, chkpt_root=None)
    assert "before setup()" not in caplog.text


class Lazy(TinyModel):
    """Has a network whose first layer gets its shape from the first batch."""

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2)))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)


def test_lazy_network_is_trained(make_trainer: Make) -> None:
    model = Lazy()
    make_trainer(total_steps=1).fit(model, TinyDataModule())
    assert model.net[0].weight.shape == (8, 4)
