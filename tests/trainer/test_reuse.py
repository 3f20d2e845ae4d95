"""A trainer that runs more than once, also after a failure: nothing grows or stays behind."""

import logging
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    DATA_METHODS,
    MODEL_METHODS,
    Failing,
    FailingPlugin,
    Make,
    Named,
    UserError,
    overriding,
)

from helios import Model, Plugin, Trainer, TrainingState
from helios.errors import NoRunError
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.plugins.builtin.preemption import PreemptionPlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


class Phased(TinyDataModule):
    """Adds its second phase in ``setup``, which each run calls again."""

    def setup(self) -> None:
        super().setup()
        assert self.train_dataset is not None
        self._add_train_phase(self.train_dataset, {"batch_size": 4})


class PhasedModel(TinyModel):
    def should_advance_dataset_phase(self) -> bool:
        return True


def size_of_everything(
    root: pathlib.Path, trainers: list[Trainer], model: TinyModel, data: TinyDataModule
) -> dict[str, Any]:
    """Return what would be larger, if something were left behind by each run."""
    return {
        "files": sorted(str(path.relative_to(root)) for path in root.rglob("*")),
        "log handlers": len(logging.getLogger("helios").handlers),
        "signal handlers": [signal.getsignal(number) for number in PreemptionPlugin.signals],
        "phases": len(data._train_phases),
        "plug-ins": [list(trainer.plugins) for trainer in trainers],
        "in pluggy": [len(t.plugin_manager.get_plugins()) for t in trainers],
        "left out": [len(trainer.plugin_manager.inactive) for trainer in trainers],
        "hooks of the model": sorted(vars(model)),
    }


@pytest.mark.parametrize("runs", ["fit", "fit test", "fit test fit"])
def test_further_runs_leave_nothing_behind(
    make_trainer: Make, tmp_path: pathlib.Path, runs: str
) -> None:
    model, data = PhasedModel(), Phased()
    trainers = [
        make_trainer(
            valid_frequency=1,
            print_frequency=4,
            run_root=tmp_path / str(number),
            plugins=[MetricsFilePlugin(), PreemptionPlugin()],
        )
        for number in range(2)
    ]

    def go() -> dict[str, Any]:
        for trainer in trainers:
            for run in runs.split():
                getattr(trainer, run)(model, data)
        return size_of_everything(tmp_path, trainers, model, data)

    first = go()
    assert first["phases"] == 2
    assert [go() for _ in range(3)] == [first] * 3


# More than one run.


def test_second_fit_begins_anew(make_trainer: Make) -> None:
    trainer, model = make_trainer(total_steps=1, valid_frequency=1, print_frequency=2), TinyModel()
    first = trainer.fit(model, TinyDataModule())
    weights = model.state_dict()["net"]["0.weight"].clone()
    second = trainer.fit(model, TinyDataModule())
    assert first is not second
    assert second is trainer.state
    assert second.global_iteration == 6
    assert torch.equal(model.state_dict()["net"]["0.weight"], weights)


def test_second_fit_forgets_the_stop(make_trainer: Make) -> None:
    stop = StopAfter(3)
    trainer = make_trainer(total_steps=1, plugins=[stop])
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 3
    stop._batches = None
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 6
    assert trainer.stop_requests == []


@pytest.mark.parametrize("stop_after", [2, 6])
def test_fit_after_a_stop_inside_a_window(make_trainer: Make, stop_after: int) -> None:
    class Failing(TinyModel):
        fails = True

        def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
            if self.fails and state.global_iteration == stop_after:
                raise UserError

    trainer, model = make_trainer(total_steps=1, accumulation_steps=4), Failing()
    with pytest.raises(UserError):
        trainer.fit(model, TinyDataModule())
    model.fails = False
    trainer.fit(model, TinyDataModule())
    other = TinyModel()
    make_trainer(total_steps=1, accumulation_steps=4).fit(other, TinyDataModule())
    assert equal(model.state_dict(), other.state_dict())


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
    trainer.register_plugin(Named("looking"))
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


class Seen(TinyModel):
    """Notes its own attributes when a run begins to set it up."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["seen"] = []

    def setup(self, fast_init: bool = False) -> None:
        mine = {"net", "optimizer", "scheduler", "seen"}
        found = {name: value for name, value in vars(self).items() if name not in mine}
        assert type(found.pop("_session")).__name__ == "Session"
        self.seen.append({k: dict(v) if isinstance(v, dict) else v for k, v in found.items()})
        super().setup(fast_init)


class FailingOnce(Seen):
    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        self.metrics["mine"] = 1.0
        if len(self.seen) == 1:
            raise RuntimeError("the first run fails")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_second_run_sees_nothing_of_the_first(make_trainer: Make, precision: str) -> None:
    model = Seen()
    trainers = [make_trainer(valid_frequency=1, precision=precision) for _ in range(2)]
    for trainer in (trainers[0], trainers[0], trainers[1]):
        trainer.fit(model, TinyDataModule())
        assert model.metrics
    first, second, third = model.seen
    assert second == first
    assert third.pop("_trainer") is trainers[1]
    assert first.pop("_trainer") is trainers[0]
    assert third == first


def test_run_after_a_failed_one_sees_nothing_of_it(make_trainer: Make) -> None:
    model, trainer = FailingOnce(), make_trainer(valid_frequency=1, print_frequency=1)
    with pytest.raises(RuntimeError, match="the first run fails"):
        trainer.fit(model, TinyDataModule())
    trainer.fit(model, TinyDataModule())
    assert model.seen[1] == model.seen[0]


def test_session_is_taken_back(make_trainer: Make) -> None:
    model = TinyModel()
    helpers: list[Callable[[], Any]] = [
        lambda: model.log("loss", 1.0),
        lambda: model.prepare(torch.nn.Linear(1, 1)),
        lambda: model.optimize(torch.zeros(()), torch.optim.SGD([torch.zeros(1)], lr=0.1)),
    ]
    for _ in range(2):  # before the first run, and after it
        for helper in helpers:
            with pytest.raises(
                NoRunError, match=r"TinyModel is not running: .* fit\(\) or test\(\)"
            ):
                helper()
        make_trainer(total_steps=1).fit(model, TinyDataModule())


def test_attribute_named_session_is_refused() -> None:
    class Own(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.session = "my own"  # type: ignore[assignment]  # that is the point

    with pytest.raises(TypeError, match=r"Own\.session .* another name"):
        Own()
