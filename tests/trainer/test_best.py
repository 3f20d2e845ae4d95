"""The best validation: whose weights are kept, which are tested, and when early stopping ends."""

import errno
import logging
import pathlib
from typing import Any

import pytest
import torch
from helpers import files, read
from torch.utils.data import TensorDataset

import helios
from helios import Trainer, TrainingState
from helios.checkpoints import storage
from helios.errors import CheckpointError, ConfigurationError, UnknownNameError
from helios.trainer import StopRequest

BATCHES = 4


class Ones(helios.DataModule):
    def setup(self) -> None:
        ones = TensorDataset(torch.ones(BATCHES, 1))
        self._train_dataset = self._create_dataset(ones, {"batch_size": 1})
        self._valid_dataset = self._create_dataset(ones, {"batch_size": BATCHES})
        self._test_dataset = self._create_dataset(ones, {"batch_size": BATCHES})


class Counter(helios.Model):
    """Adds 1 to its weight in each step, and logs a loss that is known in advance."""

    def __init__(self, losses: dict[int, float], stop: int | None = None) -> None:
        super().__init__("counter")
        self._losses, self._stop = losses, stop

    def setup(self, fast_init: bool = False) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.optimize(-(batch[0] * self.weight).mean(), self.optimizer)
        if state.global_iteration == self._stop:
            self.trainer.request_stop("enough")

    def valid_step(self, batch: Any, step: int) -> None:
        self.log("valid/loss", self._losses.get(int(self.weight.item()), 0.9))

    def test_step(self, batch: Any, step: int) -> None:
        self.log("tested", self.weight)


class Judging(Counter):
    def have_metrics_improved(self) -> bool:
        best = self.metrics.get("best", 9.0)
        self.metrics["best"] = min(best, self.metrics["valid/loss"])
        return bool(self.metrics["valid/loss"] < best)


LOSSES = {4: 0.5, 8: 0.1, 16: 0.3}  # by steps taken
BEST = ("valid/loss", "min")


def train(root: pathlib.Path, model: Counter, judge: str = "metric", **arguments: Any) -> Trainer:
    defaults = {"total_steps": 6, "valid_frequency": 1, "chkpt_frequency": 1}
    fixed = {"use_cpu": True, "autoload": False, "print_banner": False, "chkpt_root": root}
    if judge == "metric":
        fixed["best"] = BEST
    trainer = Trainer(**{**defaults, **fixed, **arguments})
    trainer.fit(model, Ones())
    return trainer


def make(judge: str, stop: int | None = None) -> Counter:
    return (Counter if judge == "metric" else Judging)(LOSSES, stop)


def kept(root: pathlib.Path) -> dict[str, int]:
    saved = files(root, "**/*.pth")
    return {file.stem: int(read(file)["model"]["weight"]["value"]) for file in saved}


KEEP = {"keep_last": 1, "keep_best": 1}


@pytest.mark.parametrize("judge", ["metric", "model"])
def test_a_stop_does_not_cost_the_best(tmp_path: pathlib.Path, judge: str) -> None:
    train(tmp_path, make(judge, stop=10), judge, **KEEP)
    assert kept(tmp_path) == {"counter_epoch_2_iter_10": 10, "counter_epoch_2_iter_8": 8}
    train(tmp_path, make(judge), judge, **KEEP)
    assert kept(tmp_path) == {"counter_epoch_2_iter_8": 8, "counter_epoch_6_iter_24": 24}


@pytest.mark.parametrize("judge", ["metric", "model"])
@pytest.mark.parametrize("is_async", [False, True])
def test_saves_between_validations_do_not_cost_the_best(
    tmp_path: pathlib.Path, judge: str, is_async: bool
) -> None:
    arguments = {"total_steps": 5, "valid_frequency": 2, "async_checkpoints": is_async}
    train(tmp_path, make(judge), judge, **arguments, **KEEP)
    assert kept(tmp_path) == {"counter_epoch_2_iter_8": 8, "counter_epoch_5_iter_20": 20}


@pytest.mark.parametrize("judge", ["metric", "model"])
def test_the_best_is_saved_where_no_checkpoint_is_due(tmp_path: pathlib.Path, judge: str) -> None:
    train(tmp_path, make(judge), judge, chkpt_frequency=3, **KEEP)
    assert kept(tmp_path) == {"counter_epoch_2_iter_8": 8, "counter_epoch_6_iter_24": 24}


def test_the_best_is_saved_in_iterations(tmp_path: pathlib.Path) -> None:
    steps = {"train_unit": "iteration", "total_steps": 22, "valid_frequency": 2}
    losses = {4: 0.5, 6: 0.1}  # inside of an epoch
    train(tmp_path, Counter(losses), chkpt_frequency=5, **steps, **KEEP)
    assert kept(tmp_path) == {"counter_epoch_1_iter_6": 6, "counter_epoch_5_iter_22": 22}


def test_without_a_judge_nothing_is_saved_in_addition(tmp_path: pathlib.Path) -> None:
    train(tmp_path, Counter(LOSSES), "nobody", chkpt_frequency=3, keep_best=9)
    assert list(kept(tmp_path).values()) == [12, 24]


@pytest.mark.parametrize("stop", [5, 8, 9, 13])
def test_resumed_run_knows_the_best_value(tmp_path: pathlib.Path, stop: int) -> None:
    states = []
    for name, stops in (("whole", [None]), ("cut", [stop, None])):
        for moment in stops:
            train(tmp_path / name, Counter(LOSSES, moment), **KEEP)
        final = read(tmp_path / name / "counter/counter_epoch_6_iter_24.pth")
        states.append((final["validated"], final["training_state"]["early_stop_count"]))
    assert states[0] == states[1]
    best = states[0][0]["best"]
    assert (best["value"], best["at"], states[0][1]) == (0.1, "epoch 2", 4)


@pytest.mark.parametrize(
    ("best", "improved"),
    [
        (("valid/loss", "min"), [4, 8]),
        (("valid/loss", "max"), [4, 12]),
        (("valid/loss", "min", 0.4), [4]),
        (["valid/loss", "min", 0.39], [4, 8]),
    ],
)
def test_direction_and_smallest_change(tmp_path: pathlib.Path, best: Any, improved: Any) -> None:
    train(tmp_path, Counter(LOSSES), best=best, keep_best=9)
    assert [value for value in kept(tmp_path).values() if value != 24] == improved


def test_a_value_that_is_not_a_number_is_never_the_best(tmp_path: pathlib.Path) -> None:
    train(tmp_path, Counter({4: float("nan"), 8: 0.9, 12: float("nan")}), keep_best=9)
    assert list(kept(tmp_path).values()) == [8, 24]


@pytest.mark.parametrize(
    "best", ["accuracy", ("accuracy",), ("accuracy", "up"), ("", "min"), ("a", "min", "b"), 3]
)
def test_wrong_best_is_refused(best: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'best=.*\("accuracy", "max"\)'):
        Trainer(best=best)
    with pytest.raises(ConfigurationError, match="must not be negative"):
        Trainer(best=("accuracy", "max", -1.0))


def test_best_without_validations_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"without validations: pass valid_frequency="):
        train(tmp_path, Counter(LOSSES), valid_frequency=None)


def test_two_judges_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"contradicts Judging\.have_metrics_improved"):
        train(tmp_path, Judging(LOSSES))


def test_unknown_metric_is_refused_with_the_nearest(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UnknownNameError, match=r"names .valid_loss.*mean .valid/loss"):
        train(tmp_path, Counter(LOSSES), best=("valid_loss", "min"))


# Early stopping.


def test_early_stopping_says_when_and_why(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "helios")
    reason = "no improvement of valid/loss (min) for 2 validations, best 0.1 at epoch 2"
    request = StopRequest(f"{reason}, stopped at epoch 4", "early stopping")
    for _ in range(2):  # the second run has nothing left to do
        trainer = train(tmp_path, Counter(LOSSES), early_stop_cycles=2)
        assert trainer.stop_requests == [request]
        assert trainer.state.global_epoch == 4
    assert f"stopped: {reason}, stopped at epoch 4 (requested by early stopping)" in caplog.text
    more = train(tmp_path, Counter(LOSSES), early_stop_cycles=3)
    assert more.state.global_epoch == 5


def test_no_early_stop_where_the_run_is_complete_anyway(tmp_path: pathlib.Path) -> None:
    trainer = train(tmp_path, Counter(LOSSES), total_steps=4, early_stop_cycles=2)
    assert (trainer.is_complete, trainer.stop_requests) == (True, [])


# Which weights are tested.


def weights_in_test(trainer: Trainer, checkpoint: Any) -> float:
    model = Counter(LOSSES)
    trainer.test(model, Ones(), checkpoint=checkpoint)
    return float(model.metrics["tested"])


def test_weights_that_are_tested(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "helios")
    folder = tmp_path / "counter"
    trainer = train(tmp_path, Counter(LOSSES, stop=10), keep_best=1)
    assert [weights_in_test(trainer, which) for which in (None, "last", "best")] == [10, 10, 8]
    restored = f"restored {folder}/counter_epoch_2_iter"
    assert (
        f"{restored}_10.pth: epoch 2, iteration 10, newest validation at epoch 2: " in caplog.text
    )
    assert f"{restored}_8.pth: epoch 2, iteration 8, validated valid/loss=0.1 (best)" in caplog.text
    elsewhere = Trainer(total_steps=1, use_cpu=True, autoload=False, print_banner=False)
    assert weights_in_test(elsewhere, folder / "counter_epoch_2_iter_8.pth") == 8
    assert weights_in_test(elsewhere, str(folder / "counter_epoch_2_iter_10.pth")) == 10


def test_nothing_is_called_the_best_without_a_judge(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "helios")
    for _ in range(2):
        train(tmp_path, Counter(LOSSES), "nobody", total_steps=2)
    assert "epoch 2, iteration 8, validated valid/loss=0.1" in caplog.text
    assert "(best)" not in caplog.text


def test_the_best_that_was_not_saved_is_an_error(tmp_path: pathlib.Path) -> None:
    trainer = train(tmp_path, Counter(LOSSES), chkpt_frequency=1)
    (tmp_path / "counter/counter_epoch_2_iter_8.pth").unlink()
    with pytest.raises(CheckpointError, match=r"it was at epoch 2.*keep_best=1"):
        weights_in_test(trainer, "best")  # not the weights of epoch 1, which were the best before


@pytest.mark.parametrize("which", ["last", "best"])
def test_checkpoint_that_does_not_exist(tmp_path: pathlib.Path, which: str) -> None:
    for root in (None, tmp_path):
        arguments = {"use_cpu": True, "autoload": False, "print_banner": False}
        with pytest.raises(CheckpointError, match=rf'checkpoint="{which}": .*has no checkpoint'):
            weights_in_test(Trainer(chkpt_root=root, **arguments), which)


@pytest.mark.parametrize("which", ["bset", "x/y.pth", 3])
def test_wrong_checkpoint_is_refused(tmp_path: pathlib.Path, which: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a file: write 'last', 'best'"):
        weights_in_test(Trainer(use_cpu=True, autoload=False, print_banner=False), which)


# A full disk.


def test_superseded_files_are_deleted_before_space_is_required(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, Counter(LOSSES), total_steps=3)
    folder = tmp_path / "counter"
    size = (folder / "counter_epoch_3_iter_12.pth").stat().st_size

    def free(path: Any) -> Any:
        used = sum(file.stat().st_size for file in files(folder, "*.pth"))
        return type("Usage", (), {"free": 3 * size + size // 2 - used})

    monkeypatch.setattr("shutil.disk_usage", free)
    with pytest.raises(CheckpointError, match="does not fit"):
        train(tmp_path, Counter(LOSSES))
    train(tmp_path, Counter(LOSSES), **KEEP)
    assert kept(tmp_path) == {"counter_epoch_2_iter_8": 8, "counter_epoch_6_iter_24": 24}


@pytest.mark.parametrize("is_async", [False, True])
def test_superseded_files_are_deleted_when_the_disk_is_full(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    train(tmp_path, Counter(LOSSES), total_steps=3)
    folder, real = tmp_path / "counter", storage.save

    def save(payload: Any, path: pathlib.Path) -> None:
        if len(list(files(folder, "*.pth"))) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(payload, path)

    monkeypatch.setattr(storage, "save", save)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, Counter(LOSSES), async_checkpoints=is_async)
    train(tmp_path, Counter(LOSSES), async_checkpoints=is_async, **KEEP)
    assert kept(tmp_path) == {"counter_epoch_2_iter_8": 8, "counter_epoch_6_iter_24": 24}
