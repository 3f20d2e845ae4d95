"""Checkpoints that are written in the background: the same files, and nothing lost or left."""

import collections
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make, files
from torch import nn

from helios import Plugin, TrainingState
from helios.checkpoints import plain, storage
from helios.checkpoints.snapshot import Snapshots
from helios.checkpoints.writer import Writer
from helios.errors import CheckpointError, ConfigurationError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


class Noting(TinyModel):
    """Notes the losses, and where hooks about checkpoints come."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        loss = super().train_step(batch, state)
        self.losses.append(loss.item())
        return loss


class Witness(Plugin):
    """Checks what it is told of checkpoints, and counts them in its state."""

    def __init__(self) -> None:
        super().__init__("witness")
        self.told: list[tuple[str, int]] = []
        self.count = 0

    def setup(self) -> None: ...

    def on_checkpoint_saved(self, path: pathlib.Path, state: TrainingState) -> None:
        assert threading.current_thread() is threading.main_thread()
        payload = storage.load(path)
        assert payload["training_state"]["global_iteration"] == state.global_iteration
        assert payload["plugins"] == [{"witness": {"count": self.count}}]
        self.count += 1
        self.told.append((path.name, state.global_iteration))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Callable[..., Any]:
    def run(root: str, model: TinyModel | None = None, *plugins: Any, **arguments: Any) -> Any:
        model = model or Noting()
        defaults = {"total_steps": 3, "chkpt_frequency": 1, "async_checkpoints": True}
        trainer = make_trainer(
            **{**defaults, **arguments}, plugins=plugins, chkpt_root=tmp_path / root
        )
        trainer.fit(model, TinyDataModule())
        return model

    return run


def content(folder: pathlib.Path) -> dict[str, Any]:
    """Return what all checkpoints hold, without the time of a batch and the model's class."""
    found = {path.name: storage.load(path) for path in sorted(files(folder))}
    for payload in found.values():
        del payload["training_state"]["average_iter_time"]
        del payload["hyper_parameters"]["model"]["class"]
    return found


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_same_losses_and_files(fit: Any, tmp_path: pathlib.Path, unit: str) -> None:
    arguments = {"train_unit": unit, "print_frequency": 2, "valid_frequency": 1}
    if unit == "iteration":
        arguments["total_steps"] = 14
    witnesses = Witness(), Witness()
    models = [
        fit(str(is_async), None, witnesses[is_async], async_checkpoints=is_async, **arguments)
        for is_async in (False, True)
    ]
    assert models[0].losses == models[1].losses
    assert witnesses[0].told == witnesses[1].told
    assert len(witnesses[1].told) == (3 if unit == "epoch" else 14)
    assert equal(content(tmp_path / "False/tiny"), content(tmp_path / "True/tiny"))


def test_resumed_run_is_the_same(fit: Any, tmp_path: pathlib.Path) -> None:
    whole = fit("whole", async_checkpoints=False)
    first = fit("cut", None, StopAfter(8))
    second = fit("cut")
    assert first.losses == whole.losses[:8]
    assert second.losses == whole.losses  # a list that training changes is state
    assert equal(whole.state_dict(), second.state_dict())


class Held:
    """Holds every write back until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self.let_go = threading.Event(), threading.Event()
        self.payloads: list[Any] = []
        real = storage.save

        def save(payload: Any, path: pathlib.Path) -> None:
            self.started.set()
            assert self.let_go.wait(60)
            self.payloads.append(payload)
            real(payload, path)

        monkeypatch.setattr(storage, "save", save)


def test_training_goes_on_and_the_snapshot_does_not(
    fit: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit("sync", total_steps=2, async_checkpoints=False)
    held = Held(monkeypatch)
    went_on: list[bool] = []

    class Going(Noting):
        def on_training_batch_start(self, state: TrainingState) -> None:
            super().on_training_batch_start(state)
            if state.global_iteration == 12:  # its last step, six after the save
                went_on.append(held.started.wait(60) and not held.payloads)
                held.let_go.set()

    fit("async", Going(), total_steps=2)
    assert went_on == [True]
    assert equal(content(tmp_path / "sync/tiny"), content(tmp_path / "async/tiny"))


def test_second_save_waits_for_the_first(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = threading.Lock()
    real = storage.save

    def save(payload: Any, path: pathlib.Path) -> None:
        assert running.acquire(blocking=False), "two at a time"
        try:
            real(payload, path)
        finally:
            running.release()

    monkeypatch.setattr(storage, "save", save)
    witness = Witness()
    fit("x", None, witness, train_unit="iteration", total_steps=8)
    assert [iteration for _, iteration in witness.told] == list(range(1, 9))


def fail_from(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Let saves fail from this one on; return the list of their names."""
    names: list[str] = []
    real = storage.save

    def save(payload: Any, path: pathlib.Path) -> None:
        names.append(path.name)
        if len(names) >= number:
            raise OSError(28, "No space left on device", str(path))
        real(payload, path)

    monkeypatch.setattr(storage, "save", save)
    return names


@pytest.mark.parametrize(("number", "batches"), [(1, 12), (2, 18), (3, 18)])
def test_error_comes_at_the_next_save_or_the_end(
    fit: Any, monkeypatch: pytest.MonkeyPatch, number: int, batches: int
) -> None:
    names = fail_from(monkeypatch, number)
    model, witness = Noting(), Witness()
    with pytest.raises(OSError, match=rf"No space left on device: .*epoch_{number}_iter"):
        fit("x", model, witness)
    assert len(model.losses) == batches
    assert len(names) == number  # no other save is begun
    assert len(witness.told) == number - 1


def test_failing_run_keeps_what_is_being_written(
    fit: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)

    class Failing(Noting):
        def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
            if state.global_epoch == 1:
                assert held.started.wait(60)
                held.let_go.set()
                raise KeyError("the model's own")
            return super().train_step(batch, state)

    witness = Witness()
    with pytest.raises(KeyError, match="the model's own"):
        fit("x", Failing(), witness)
    assert witness.told == [("tiny_epoch_1_iter_6.pth", 6)]
    assert list(content(tmp_path / "x/tiny")) == ["tiny_epoch_1_iter_6.pth"]


def test_error_of_the_background_is_noted_on_the_error_of_the_run(
    fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_from(monkeypatch, 1)

    class Failing(Noting):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            if current_epoch == 1:
                raise KeyError("the model's own")

    with pytest.raises(KeyError) as caught:
        fit("x", Failing())
    assert "No space left on device" in "".join(caught.value.__notes__)


def test_stop_keeps_what_is_being_written(fit: Any, tmp_path: pathlib.Path) -> None:
    witness = Witness()
    fit("x", None, witness, StopAfter(8))
    names = ["tiny_epoch_1_iter_6.pth", "tiny_epoch_1_iter_8.pth"]
    assert [name for name, _ in witness.told] == names
    assert list(content(tmp_path / "x/tiny")) == names


def test_state_that_is_not_plain_is_refused_at_once(fit: Any) -> None:
    class Impure(Noting):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "path": pathlib.Path("x")}

    model = Impure()
    with pytest.raises(CheckpointError, match=r"\['model'\]\['path'\]"):
        fit("x", model)
    assert len(model.losses) == 6


@pytest.mark.parametrize("is_async", [False, True])
def test_wait_is_reported(fit: Any, caplog: pytest.LogCaptureFixture, is_async: bool) -> None:
    with caplog.at_level(logging.INFO, "helios"):
        fit("x", async_checkpoints=is_async)
    (line,) = [r.getMessage() for r in caplog.records if "training waited" in r.getMessage()]
    assert line.startswith("3 checkpoints saved: training waited ")
    assert " ms for each on average" in line


def test_without_saves_nothing_is_reported(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    fit("x")
    with caplog.at_level(logging.INFO, "helios"):
        fit("x")  # it is finished
    assert "training waited" not in caplog.text


def test_argument_is_checked(make_trainer: Make) -> None:
    with pytest.raises(ConfigurationError, match="async_checkpoints='yes': write True or False"):
        make_trainer(async_checkpoints="yes")


# The copy.


def test_snapshot_is_equal_and_apart() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    base = torch.arange(10.0)
    original = {
        "net": net.state_dict(),
        "views": (base, base[2:4], base.view(2, 5).t()),
        "parameter": net[0].weight,
        "kinds": [
            torch.ones(2, dtype=torch.bfloat16),
            torch.zeros(0),
            torch.tensor(1.5),
        ],
        "milestones": collections.Counter([2, 4, 2]),
        "rest": [None, 1, "a", b"b", {1, 2}, torch.Size([2]), torch.float16],
    }
    copied = Snapshots().take(original)
    assert equal(copied, original)
    assert type(copied["net"]) is collections.OrderedDict
    assert type(copied["milestones"]) is collections.Counter
    assert vars(copied["net"]) == vars(original["net"])
    assert type(copied["parameter"]) is nn.Parameter
    assert copied["kinds"][0].requires_grad is False
    with torch.no_grad():
        net[0].weight.zero_()
        base.zero_()
    assert copied["parameter"].abs().sum() > 0
    assert copied["net"]["0.weight"].abs().sum() > 0
    assert copied["views"][1].tolist() == [2, 3]


def test_snapshot_shares_what_was_shared(tmp_path: pathlib.Path) -> None:
    large = torch.zeros(50_000)
    payload = {"a": large, "b": large, "part": large[:10]}
    copied = Snapshots().take(payload)
    assert copied["a"].data_ptr() == copied["part"].data_ptr() != large.data_ptr()
    assert plain.size(payload) == plain.size(copied) == 200_000
    sizes = []
    for state in (payload, copied):
        storage.save(state, tmp_path / "x.pth")
        sizes.append(os.path.getsize(tmp_path / "x.pth"))
    assert max(sizes) < 210_000


def test_snapshots_use_their_memory_again() -> None:
    snapshots = Snapshots()
    state = {"a": torch.zeros(1000), "b": torch.ones(10)}
    first = snapshots.take(state)
    where = first["a"].data_ptr()
    state["a"] += 2
    state["b"] = torch.full((20,), 3.0)
    second = snapshots.take(state)
    assert equal(second, state)
    assert second["a"].data_ptr() == where
    assert equal(snapshots.take({"b": state["b"]}), {"b": state["b"]})


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag, torch.eye(3).to_sparse()],
)
def test_snapshot_of_unusual_tensors(tensor: torch.Tensor) -> None:
    copied = Snapshots().take([tensor])[0]
    assert torch.equal(copied.to_dense(), tensor.to_dense())
    assert copied.layout == tensor.layout


def test_background_hands_errors_over_once() -> None:
    writer = Writer()

    def fail() -> None:
        raise KeyboardInterrupt

    writer.start(fail)
    with pytest.raises(KeyboardInterrupt):
        writer.wait()
    writer.wait()
    done: list[int] = []
    writer.start(lambda: done.append(1))
    writer.wait()
    writer.close()
    assert done == [1]
