"""Checkpoints of other data, models or plug-ins than those of the run that resumes."""

import pathlib
from typing import Any

import pytest
import torch
from helpers import Keeping, Make, read

import helios
from helios import Plugin
from helios.errors import CheckpointError
from helios.testing import StopAfter, TinyDataModule, TinyModel

# The data and the model.


@pytest.mark.parametrize("train_size", [6, 12])
def test_smaller_training_set_is_refused(fit: Any, train_size: int) -> None:
    fit(plugins=[StopAfter(4)])
    with pytest.raises(CheckpointError, match=r"after batch 4 of an epoch.* now has \d batches"):
        fit(data=TinyDataModule(train_size=train_size))


@pytest.mark.parametrize("change", [{"train_size": 30}, {"batch_size": 3}, {"batch_size": 5}])
def test_changed_training_set_is_refused_inside_an_epoch(fit: Any, change: dict[str, int]) -> None:
    # the order of the samples is another one, so the position means nothing
    fit(plugins=[StopAfter(4)])
    with pytest.raises(CheckpointError, match="restore the data"):
        fit(data=TinyDataModule(**change))


def test_changed_training_set_is_welcome_between_epochs(fit: Any) -> None:
    fit()
    _, trainer = fit(data=TinyDataModule(train_size=30), total_steps=2)
    assert trainer.state.global_iteration == 6 + 8


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


class Renamed(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.network = self.net
        del self.net


class Larger(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.extra = torch.nn.Linear(1, 1)


class Smaller(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self._scheduler = self.scheduler
        del self.scheduler


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Renamed, r"holds nothing for Renamed\.network\. Did you mean 'net'\?.*restore the attr"),
        (Larger, r"holds nothing for Larger\.extra\..*override load_state_dict"),
        (Smaller, r"a state for Smaller\.scheduler, which the model does not have after setup"),
    ],
)
def test_model_with_other_attributes_is_refused(
    fit: Any, model: type[TinyModel], message: str
) -> None:
    fit()
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        fit(model())


def test_model_with_other_shapes_names_the_attribute(fit: Any) -> None:
    class Wider(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.net = self.prepare(torch.nn.Sequential(torch.nn.Linear(4, 2)))
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)

    fit()
    with pytest.raises(Exception, match=r"net") as caught:
        fit(Wider())
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "Wider.net" in told


# Plug-ins that come and go.


def test_state_of_an_absent_plugin_is_carried_along(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(plugins=[Keeping({"n": 1})])
    fit(total_steps=2)  # without it
    assert (
        "- 'keeping' (not installed) is no longer active; checkpoints keep its state" in caplog.text
    )
    assert read(folder / "tiny_epoch_2_iter_12.pth")["plugins"] == [{"keeping": {"n": 1}}]
    fit(total_steps=3)  # carried along once more
    back = Keeping()
    fit(total_steps=4, plugins=[back])
    assert back.state == {"n": 1}


def test_new_plugin_is_reported(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit()
    new = Keeping({"n": 7})
    fit(total_steps=2, plugins=[new])
    assert "+ 'keeping' (not installed) is newly active" in caplog.text
    assert new.state == {"n": 7}


def test_plugin_without_state_is_not_asked_to_load(fit: Any) -> None:
    class Stateless(Plugin):
        def __init__(self) -> None:
            super().__init__("stateless")

        def setup(self) -> None: ...

    fit(plugins=[Stateless()])
    fit(total_steps=2, plugins=[Stateless()])


def test_plugin_that_lost_its_load_is_told_so(fit: Any) -> None:
    class Half:
        """A plain object that has a state, and no way back."""

        def __init__(self, loses: bool) -> None:
            if not loses:
                self.load_state_dict = lambda state_dict: None

        @helios.hookimpl
        def on_training_start(self) -> None: ...

        def state_dict(self) -> dict[str, Any]:
            return {"n": 1}

    fit(plugins=[Half(loses=False)])
    with pytest.raises(Exception, match="load_state_dict") as caught:
        fit(total_steps=2, plugins=[Half(loses=True)])
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "plug-in 'Half'" in told
