"""Early stopping by the name of a metric, beside a loop that does the same by hand."""

import pathlib
from typing import Any

import pytest
from helpers import Logs, Make

from helios import Trainer
from helios.errors import ConfigurationError, UnknownNameError
from helios.plugins.builtin.early_stopping import EarlyStoppingPlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, check_conformance

NAN = float("nan")
LOSSES = (0.9, 0.5, 0.52, 0.495, 0.6, NAN, 0.3, 0.31, 0.32, 0.33, 0.1)


class Planned(TinyModel):
    """Has losses of validations, and of the epochs of training, that are known in advance."""

    def train_step(self, batch: Any, state: Any) -> Any:
        self.optimize(self.net(batch[0]).sum(), self.optimizer)
        self.log("train/loss", LOSSES[state.global_epoch])

    def valid_step(self, batch: Any, step: int) -> Any:
        self.log("loss", LOSSES[self.trainer.state.validation_cycles])


def end_by_hand(losses: tuple[float, ...], sign: int, patience: int, min_change: float) -> int:
    """Return the number of epochs after which a loop by hand ends."""
    best, count = None, 0
    for epoch, loss in enumerate(losses, start=1):
        if loss == loss and (best is None or sign * (best - loss) > min_change):
            best, count = loss, 0
        else:
            count += 1
        if count == patience:
            return epoch
    return len(losses)


def run(make_trainer: Make, plugin: Any, root: Any = None, stop: int | None = None) -> Trainer:
    plugins = [plugin, StopAfter(stop)]
    trainer = make_trainer(
        total_steps=len(LOSSES), valid_frequency=1, plugins=plugins, run_root=root
    )
    trainer.fit(Planned(), TinyDataModule())
    return trainer


@pytest.mark.parametrize("phase", ["validation", "training"])
@pytest.mark.parametrize(
    ("mode", "patience", "min_change"),
    [("min", 1, 0.0), ("min", 2, 0.01), ("min", 3, 0.0), ("min", 3, 0.3), ("max", 2, 0.0)],
)
def test_it_ends_when_a_loop_by_hand_ends(
    make_trainer: Make, mode: Any, patience: int, min_change: float, phase: Any
) -> None:
    name = "loss" if phase == "validation" else "train/loss"
    plugin = EarlyStoppingPlugin(name, mode, patience, min_change, phase)
    expected = end_by_hand(LOSSES, 1 if mode == "min" else -1, patience, min_change)
    assert run(make_trainer, plugin).state.global_epoch == expected


def test_a_run_that_was_cut_ends_at_the_same_moment(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    for stop in (15, 27, 45):
        run(make_trainer, EarlyStoppingPlugin("loss"), tmp_path / str(stop), stop)
        trainer = run(make_trainer, EarlyStoppingPlugin("loss"), tmp_path / str(stop))
        assert trainer.state.global_epoch == 10
        (request,) = trainer.stop_requests
        assert request.reason == (
            "no improvement of loss (min) for 3 validations, best 0.3 at iteration 42"
        )


def test_a_run_has_ended_until_the_patience_is_larger(
    make_trainer: Make, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = []
    for patience in (2, 2, 1, 3):
        plugin = EarlyStoppingPlugin("loss", patience=patience)
        trainer = make_trainer(
            total_steps=len(LOSSES),
            valid_frequency=1,
            plugins=[plugin],
            run_root=tmp_path,
            print_banner=True,
        )
        trainer.fit(Planned(), TinyDataModule())
        ended.append(trainer.state.global_epoch)
    assert ended == [6, 6, 6, 10]
    assert (
        "nothing to train: the run is over, because early-stopping has ended it: no improvement of"
        " loss (min) for 2 validations, best 0.495 at iteration 24. To train longer, change the"
        " arguments of that plug-in, or start a new run in another folder."
    ) in capsys.readouterr().out


def test_a_test_is_not_stopped(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    run(make_trainer, EarlyStoppingPlugin("loss", patience=1), tmp_path)
    trainer, model = make_trainer(run_root=tmp_path), TinyModel()
    trainer.test(model, TinyDataModule())
    assert "accuracy" in model.metrics


def test_all_logged_values_are_handed_out(make_trainer: Make) -> None:
    logs = Logs()
    trainer = make_trainer(
        total_steps=9,
        valid_frequency=1,
        print_frequency=5,
        plugins=[EarlyStoppingPlugin("loss", patience=1), logs],
    )
    trainer.fit(Planned(), TinyDataModule())
    assert [batch for _, batch in logs.at] == [5, 6, 10, 12, 15, 18, 18]


def test_resumes_exactly() -> None:
    check_conformance(
        lambda: EarlyStoppingPlugin("accuracy", "max", patience=1),
        train_unit="iteration",
        total_steps=12,
        valid_frequency=1,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": ""}, "metric='' of early-stopping: write the name of a logged metric"),
        ({"mode": "up"}, "mode='up' of early-stopping: write 'min' or 'max'."),
        ({"patience": 0}, "patience=0 of early-stopping: write a whole number from 1 up."),
        ({"min_change": -1}, "min_change=-1 of early-stopping: write a number from 0 up."),
        ({"phase": "test"}, "phase='test' of early-stopping: write 'validation' or 'training'."),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EarlyStoppingPlugin(**{"metric": "loss", **arguments})
    assert message in str(caught.value)


def test_a_metric_that_never_comes_is_refused(make_trainer: Make) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'loss'"):
        run(make_trainer, EarlyStoppingPlugin("los"))
    trainer = make_trainer(plugins=[EarlyStoppingPlugin("loss")])
    with pytest.raises(ConfigurationError, match="this run does not validate: pass Trainer"):
        trainer.fit(Planned(), TinyDataModule())
