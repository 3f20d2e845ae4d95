"""What ``fit`` and ``test`` refuse: wrong objects, nothing to train on, a run inside a run."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make
from torch.utils.data import IterableDataset, TensorDataset

from helios import DataModule, Model, Plugin, Trainer
from helios.errors import ConfigurationError, FrozenPlanError, InvalidPluginError
from helios.plugins.builtin.progress import ProgressPlugin
from helios.testing import TinyDataModule, TinyModel


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
        (TinyDataModule, TinyModel, r"a Model and a DataModule.*TinyDataModule instead of a Model"),
        (TinyModel, TinyModel, "TinyModel instead of a DataModule"),
        (lambda: TinyModel, TinyDataModule, r"instead of a Model\."),
        (TinyModel, lambda: None, "NoneType instead of a DataModule"),
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
def test_setup_with_other_arguments(make_trainer: Make, run: str) -> None:
    class Other(TinyModel):
        def setup(self, stage: str) -> None:  # type: ignore[override]  # on purpose
            """Nothing."""

    with pytest.raises(TypeError) as caught:
        getattr(make_trainer(), run)(Other(), TinyDataModule())
    assert "Other.setup() has other arguments than Helios passes: write" in str(caught.value)
    assert "def setup(self, fast_init: bool = False), or def setup(self)" in str(caught.value)


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
            "stream Nothing has no batch in epoch 0: return a new iterator from each call of",
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
        with pytest.raises(FrozenPlanError, match="during a run: the plan"):
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
