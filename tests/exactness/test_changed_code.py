"""Runs that resume with other arguments, data or optimizers: refused, or shown."""

import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make, files
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from helios import DataLoaderParams, DataModule, Model, TrainingState
from helios.checkpoints import storage
from helios.data import ResumableRandomSampler, ResumableSampler, ResumableSequentialSampler
from helios.errors import CheckpointError, ConfigurationError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

LARGEST = 2**64 - 1


class Numbers(DataModule):
    """Twelve numbers in batches of three."""

    def __init__(self, dataset: Any = None, **params: Any) -> None:
        super().__init__()
        self._dataset = dataset or TensorDataset(torch.arange(12.0).reshape(-1, 1))
        self._params = params

    def setup(self) -> None:
        self._train_dataset = self._create_dataset(self._dataset, {"batch_size": 3, **self._params})


class Line(Model):
    """Remembers the numbers that it was given."""

    def __init__(
        self, optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    ) -> None:
        super().__init__("line")
        self._create = optimizer or sgd()
        self._seen: list[float] = []

    @property
    def seen(self) -> list[float]:
        return self._seen

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Linear(1, 1))
        self.optimizer = self._create(self.net)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self._seen += batch[0].flatten().tolist()
        self.optimize(self.net(batch[0]).square().mean(), self.optimizer)


def sgd(**arguments: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda net: torch.optim.SGD(net.parameters(), **{"lr": 1e-3, **arguments})


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=1e-3)


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=1e-3)


def two_groups(net: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [net.weight]}, {"params": [net.bias]}], lr=1e-3)


@pytest.fixture
def run(make_trainer: Make, tmp_path: pathlib.Path) -> Callable[..., Model]:
    """Train in one folder, from the newest checkpoint on."""

    def train(
        model: Model | None = None,
        data: DataModule | None = None,
        stop_after: int | None = None,
        **arguments: Any,
    ) -> Model:
        model = model or Line()
        arguments = {"chkpt_root": tmp_path, "total_steps": 1, **arguments}
        trainer = make_trainer(plugins=[StopAfter(stop_after)], **arguments)
        trainer.fit(model, data or Numbers())
        return model

    return train


# The order of the samples.


class Backwards(ResumableSampler):
    """A sampler of a user, with a parameter that Helios cannot know."""

    def __init__(self, step: int) -> None:
        super().__init__(range(12))
        self._step = step

    def indices(self) -> list[int]:
        return [self._step * index % 12 for index in range(12)]


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"shuffle": True}, {}, r"sampler=ResumableRandomSampler\(seed=6691\).*Sequential"),
        ({}, {"shuffle": True}, r"sampler=ResumableSequentialSampler\(\).*Random"),
        ({"shuffle": True, "random_seed": 1}, {"shuffle": True, "random_seed": 2}, "seed=1.*=2"),
        ({"random_seed": 1}, {"random_seed": 2}, "DataLoaderParams.random_seed=1.*=2"),
        (
            {"sampler": ResumableRandomSampler(range(12), 3)},
            {"sampler": ResumableRandomSampler(range(12), 4)},
            r"Sampler\(seed=3\).*Sampler\(seed=4\)",
        ),
        (
            {"sampler": ResumableRandomSampler(range(12), 3)},
            {"sampler": ResumableSequentialSampler(range(12))},
            "Random.*Sequential",
        ),
        ({"sampler": Backwards(5)}, {"sampler": Backwards(7)}, r"Backwards\(order=.*order="),
    ],
)
def test_another_order_inside_an_epoch(
    run: Any, before: dict[str, Any], now: dict[str, Any], message: str
) -> None:
    first = run(data=Numbers(**before), stop_after=2)
    with pytest.raises(CheckpointError, match=message):
        run(data=Numbers(**now))
    second = run(data=Numbers(**before))
    assert sorted(first.seen + second.seen) == list(range(12))


def test_another_order_between_two_epochs(run: Any) -> None:
    run(data=Numbers(shuffle=True, random_seed=1))
    assert sorted(run(data=Numbers(random_seed=2), total_steps=2).seen) == list(range(12))


def test_checkpoint_of_an_earlier_release_is_restored(run: Any, tmp_path: pathlib.Path) -> None:
    first = run(data=Numbers(shuffle=True), stop_after=2)
    (path,) = files(tmp_path / "line", "*.pth")
    payload = storage.load(path)
    del payload["optimizers"], payload["epoch"]["sampler"], payload["epoch"]["samples_seed"]
    storage.save(payload, path)
    second = run(data=Numbers(shuffle=True))
    assert sorted(first.seen + second.seen) == list(range(12))


class Shuffled(IterableDataset[Any]):
    """Shuffles with a global generator."""

    def __iter__(self) -> Iterator[Any]:
        return ((torch.tensor([float(i)]),) for i in torch.randperm(12).tolist())


@pytest.mark.parametrize(
    ("params", "arguments", "message"),
    [
        ({}, {"random_seed": 2}, "random_seed=6691 and .*random_seed=2 and"),
        ({"random_seed": 2}, {}, "random_seed=6691, but random_seed is 2 now"),
        ({"seeding": "batch"}, {}, "seeding='sample', but seeding is 'batch' now"),
    ],
)
def test_another_order_of_a_stream(
    run: Any, params: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    first = run(data=Numbers(Shuffled()), stop_after=2)
    with pytest.raises(CheckpointError, match=message):
        run(data=Numbers(Shuffled(), **params), **arguments)
    second = run(data=Numbers(Shuffled()))
    assert sorted(first.seen + second.seen) == list(range(12))


# Accumulation.


class Counting(Line):
    """Each batch has the gradient 1, so each step moves the weight by 1."""

    def setup(self, fast_init: bool = False) -> None:
        self.weight = nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        before = self.weight.item()
        if self.optimize(self.weight.sum(), self.optimizer):
            self._seen.append(before - self.weight.item())


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize(("before", "now"), [(2, 3), (2, 4), (3, 2), (1, 4)])
def test_another_accumulation_inside_an_epoch(run: Any, unit: str, before: int, now: int) -> None:
    arguments = {"train_unit": unit, "total_steps": 1 if unit == "epoch" else 8}
    data = Numbers(TensorDataset(torch.zeros(25, 1)), batch_size=1)
    run(Counting(), data, 5, accumulation_steps=before, **arguments)
    model = run(Counting(), data, accumulation_steps=now, **arguments)
    assert model.seen
    assert model.seen == pytest.approx([1.0] * len(model.seen))


# Optimizers.


SIZES = ["2 parameter groups (1 + 1 parameters)", "1 parameter group (2 parameters)"]


@pytest.mark.parametrize(
    ("before", "now", "names", "is_of_earlier_release"),
    [
        (sgd(), adam, ["SGD", "Adam"], False),
        (adam, sgd(), ["Adam", "SGD"], False),
        (adam, adamw, ["Adam", "AdamW"], False),
        (sgd(), adam, ["momentum", "betas"], True),
        (adam, sgd(), ["betas", "momentum"], True),
        *((sgd(), two_groups, SIZES, is_earlier) for is_earlier in (False, True)),
        *((two_groups, sgd(), SIZES, is_earlier) for is_earlier in (False, True)),
    ],
)
def test_another_optimizer(
    run: Any,
    tmp_path: pathlib.Path,
    before: Any,
    now: Any,
    names: list[str],
    is_of_earlier_release: bool,
) -> None:
    run(Line(before), stop_after=2)
    if is_of_earlier_release:
        (path,) = files(tmp_path / "line", "*.pth")
        payload = storage.load(path)
        del payload["optimizers"]
        storage.save(payload, path)
    with pytest.raises(CheckpointError, match=r"^Line\.optimizer has") as caught:
        run(Line(now))
    assert all(name in str(caught.value) for name in names)


def test_model_that_restores_its_optimizer_itself(run: Any) -> None:
    class Own(Line):
        def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
            self.net.load_state_dict(state_dict["net"])

    run(Line(sgd()), stop_after=2)
    assert len(run(Own(adam)).seen) == 6


def test_edited_learning_rate_is_shown(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    run(Line(sgd(lr=1e-3)), stop_after=1)
    run(Line(sgd(lr=1e-3)), stop_after=1)
    assert not caplog.messages
    for _ in range(2):  # each time, because the code still differs
        model = run(Line(sgd(lr=0.5)), stop_after=1)
        (message,) = caplog.messages
        assert "of Line.optimizer have changed in setup(): lr is 0.5, but was 0.001." in message
        assert "uses those of the checkpoint" in message
        assert model.optimizer.param_groups[0]["lr"] == 1e-3
        caplog.clear()


def test_learning_rate_of_a_scheduler_is_no_change(
    make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for stop_after in (4, 5, None):
        model = TinyModel()
        plugins = [StopAfter(stop_after)]
        trainer = make_trainer(chkpt_root=tmp_path, plugins=plugins, valid_frequency=1)
        trainer.fit(model, TinyDataModule(valid_size=4))
    assert model.optimizer.param_groups[0]["lr"] != 0.05
    assert not caplog.messages


# Runs that are over.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"total_steps": 1}, "it has completed 1 epochs of total_steps=1. To train longer"),
        (
            {"train_unit": "iteration", "total_steps": 3},
            "it has completed 3 iterations of total_steps=3. To train longer",
        ),
    ],
)
def test_finished_run_says_that_nothing_is_left(
    run: Any, capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], reason: str
) -> None:
    run(print_banner=True, **arguments)
    assert "nothing to train" not in capsys.readouterr().out
    assert run(print_banner=True, **arguments).seen == []
    assert f"nothing to train: the run is over, because {reason}" in capsys.readouterr().out
    run(print_banner=True, **{**arguments, "total_steps": 4})
    assert "nothing to train" not in capsys.readouterr().out


def test_run_that_was_stopped_early_says_so(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Worse(Line):
        def have_metrics_improved(self) -> bool:
            return False

    arguments = {"total_steps": 9, "valid_frequency": 1, "early_stop_cycles": 2}
    for _ in range(2):
        run(Worse(), print_banner=True, **arguments)
    out = capsys.readouterr().out
    assert "not improved for 2 validations, and early_stop_cycles=2. To train longer" in out


def test_run_that_a_verdict_has_ended_says_so(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Done(Line):
        def should_training_stop(self) -> bool:
            return True

    for _ in range(2):
        run(Done(), print_banner=True)
    assert "because should_training_stop has ended it." in capsys.readouterr().out


# Seeds.


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("seed", [LARGEST, LARGEST - 1])
def test_largest_seeds_last_for_every_epoch(run: Any, seed: int, workers: int) -> None:
    for data in (
        Numbers(shuffle=True, num_workers=workers),
        Numbers(shuffle=True, random_seed=seed, num_workers=workers),
        Numbers(shuffle=True, is_distributed=False, seeding="none"),
    ):
        whole = run(data=data, total_steps=4, random_seed=seed, chkpt_root=None)
        assert sorted(whole.seen) == sorted([*range(12)] * 4)


def test_stream_with_the_largest_seed(run: Any) -> None:
    pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    model = run(data=Numbers(Shuffled()), total_steps=3, random_seed=LARGEST)
    assert sorted(model.seen) == sorted([*range(12)] * 3)


def test_largest_seed_resumes(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    def final(root: pathlib.Path, stop_after: int | None) -> dict[str, Any]:
        trainer = make_trainer(
            chkpt_root=root, random_seed=LARGEST, plugins=[StopAfter(stop_after)]
        )
        model = TinyModel()
        trainer.fit(model, TinyDataModule())
        return model.state_dict()

    whole = final(tmp_path / "whole", None)
    final(tmp_path / "cut", 8)
    assert equal(whole, final(tmp_path / "cut", None))


@pytest.mark.parametrize("seed", [2**64, -1, 0.5, True, "1"])
def test_seed_that_does_not_fit_is_refused(make_trainer: Make, seed: Any) -> None:
    with pytest.raises(ConfigurationError, match="random_seed="):
        make_trainer(random_seed=seed)
    with pytest.raises(ConfigurationError, match="random_seed="):
        DataLoaderParams(random_seed=seed)
