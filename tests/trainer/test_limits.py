"""Fewer batches of each set, trials, repeated batches, and when validations take place."""

import gc
import itertools
import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Make, Named, names
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from helios import TrainingState
from helios.core import TrainingUnit
from helios.errors import CheckpointError, ConfigurationError
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

BATCHES = 6  # an epoch of TinyDataModule
VALIDATION = 3


class Seeing(TinyModel):
    """Records the batches of each phase, and the moments of validations."""

    def __init__(self) -> None:
        super().__init__()
        self._trained: list[torch.Tensor] = []
        self._evaluated: list[int] = []
        self._validated_at: list[int] = []

    def setup(self, fast_init: bool = False) -> None:
        torch.manual_seed(1)
        self.net = self.prepare(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3, gamma=0.9)

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self._trained.append(batch[0])
        return super().train_step(batch, state)

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self._evaluated.append(step)
        return super().valid_step(batch, step)

    def on_validation_start(self, validation_cycle: int) -> None:
        self._validated_at.append(self.trainer.state.global_iteration)

    @property
    def trained(self) -> list[Any]:
        return [batch.tolist() for batch in self._trained]

    @property
    def evaluated(self) -> list[int]:
        return self._evaluated

    @property
    def validated_at(self) -> list[int]:
        return self._validated_at


def run(make_trainer: Make, model: Seeing | None = None, **arguments: Any) -> Seeing:
    model = model or Seeing()
    make_trainer(**arguments).fit(model, TinyDataModule())
    return model


def plain(epochs: list[list[Any]], data: TinyDataModule) -> dict[str, Any]:
    """Return the weights after the same batches in a loop of plain PyTorch."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.9)
    features, labels = data.train_dataset.tensors  # type: ignore[union-attr]  # a TensorDataset
    for batch in itertools.chain.from_iterable(epochs):
        rows = torch.tensor(
            [int((features == torch.tensor(each)).all(1).nonzero()) for each in batch]
        )
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(features[rows]), labels[rows]).backward()
        optimizer.step()
        scheduler.step()
    return dict(net.state_dict())


@pytest.mark.parametrize(
    ("limit", "training", "validation"),
    [
        (2, 2, 2),
        (0.5, 3, 1),
        (1.0, BATCHES, VALIDATION),
        (100, BATCHES, VALIDATION),
        (0.01, 1, 1),
        ({"training": 4}, 4, VALIDATION),
        ({"validation": 0.34}, BATCHES, 1),
    ],
)
def test_limited_run_takes_the_steps_of_a_limited_loop(
    make_trainer: Make, limit: Any, training: int, validation: int
) -> None:
    whole = run(make_trainer).trained
    epochs = [whole[:training], whole[BATCHES : BATCHES + training]]
    data = TinyDataModule()
    data.setup()
    model = run(make_trainer, limit_batches=limit, valid_frequency=1)
    assert model.trained == [*itertools.chain.from_iterable(epochs)]
    assert model.evaluated == [*range(validation)] * 2
    assert equal(dict(model.net.state_dict()), plain(epochs, data))


def test_limit_of_tests_and_steps_per_epoch(make_trainer: Make) -> None:
    trainer, model = make_trainer(limit_batches={"testing": 1, "training": 4}), Seeing()
    asked: list[Any] = []

    class Asking(Named):
        def on_training_start(self) -> None:
            asked.append((trainer.steps_per_epoch, trainer.estimated_steps))

    trainer.register_plugin(Asking())
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert asked == [(4, 8)]
    assert model.evaluated == [0]


def test_overfitting_repeats_the_first_batches(make_trainer: Make) -> None:
    first = run(make_trainer, total_steps=1).trained[:2]
    model = run(make_trainer, total_steps=3, overfit_batches=2, valid_frequency=1)
    assert model.trained == first * 3
    assert model.evaluated == [0, 1] * 3
    data = TinyDataModule()
    data.setup()
    assert equal(dict(model.net.state_dict()), plain([first] * 3, data))


@pytest.mark.parametrize("arguments", [{"limit_batches": 4}, {"overfit_batches": 4}])
@pytest.mark.parametrize("stop", [3, 4, 6])
def test_limited_run_resumes_exactly(
    make_trainer: Make, tmp_path: pathlib.Path, arguments: dict[str, Any], stop: int
) -> None:
    arguments |= {"total_steps": 3, "valid_frequency": 1}
    whole = run(make_trainer, **arguments)
    model = Seeing()
    run(make_trainer, model, chkpt_root=tmp_path, plugins=[StopAfter(stop)], **arguments)
    run(make_trainer, model, chkpt_root=tmp_path, **arguments)
    assert model.trained == whole.trained
    assert equal(model.state_dict(), whole.state_dict())


class Counting(IterableDataset[Any]):
    """Ten samples, in a stream."""

    def __iter__(self) -> Iterator[Any]:
        yield from TensorDataset(torch.ones(10, 4), torch.zeros(10, dtype=torch.long))


class OfAStream(TinyDataModule):
    """A stream of five batches."""

    def setup(self) -> None:
        super().setup()
        self._train_dataset = self._create_dataset(Counting(), {"batch_size": 2})


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("limit", "batches"), [(3, 3), (100, 5)])
def test_limited_stream(
    make_trainer: Make, tmp_path: pathlib.Path, limit: int, batches: int, accumulation: int
) -> None:
    arguments = {"limit_batches": limit, "accumulation_steps": accumulation}
    whole, model = Seeing(), Seeing()
    state = make_trainer(**arguments).fit(whole, OfAStream())
    assert (state.global_iteration, state.global_epoch) == (2 * batches, 2)
    make_trainer(chkpt_root=tmp_path, plugins=[StopAfter(2)], **arguments).fit(model, OfAStream())
    make_trainer(chkpt_root=tmp_path, **arguments).fit(model, OfAStream())
    assert equal(model.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit_batches": 0.5}, "the number of batches of a stream is unknown: write a number"),
        ({"overfit_batches": 2}, "overfit_batches needs a map-style dataset"),
        ({"valid_frequency": 0.5}, 'of a stream is unknown: pass train_unit="iteration"'),
    ],
)
def test_what_needs_the_length_of_an_epoch(
    make_trainer: Make, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make_trainer(**arguments).fit(Seeing(), OfAStream())


def test_smaller_limit_inside_an_epoch(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    run(make_trainer, limit_batches=5, chkpt_root=tmp_path, plugins=[StopAfter(4)])
    with pytest.raises(CheckpointError) as caught:
        run(make_trainer, limit_batches=3, chkpt_root=tmp_path)
    assert "saved after batch 4 of an epoch, but this run reads only 3" in str(caught.value)


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize(("value", "batches"), [(True, 1), (2, 2)])
def test_trial_takes_a_few_steps_and_leaves_nothing(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    unit: str,
    value: Any,
    batches: int,
) -> None:
    trainer = make_trainer(
        total_steps=100,
        train_unit=unit,
        valid_frequency=50,
        chkpt_frequency=1,
        keep_last=2,
        run_root=tmp_path,
        plugins=[MetricsFilePlugin()],
        fast_dev_run=value,
        print_banner=True,
    )
    model = Seeing()
    trainer.fit(model, TinyDataModule())
    assert len(model.trained) == batches
    assert model.evaluated == [*range(batches)]
    trained = {name: each.clone() for name, each in model.net.state_dict().items()}
    trainer.test(model, TinyDataModule())
    assert model.evaluated == [*range(batches)] * 2
    assert equal(dict(model.net.state_dict()), trained)
    assert names(tmp_path) == []
    assert "last.pth" in [path.name for path in trainer.run_root.rglob("*")]
    said = capsys.readouterr().out
    assert f"fast_dev_run: a trial with {batches} batch" in said


def test_files_of_a_trial_are_deleted(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    def trial() -> Any:
        trainer = make_trainer(fast_dev_run=True, run_root=tmp_path)
        trainer.fit(Seeing(), TinyDataModule())
        assert any(trainer.run_root.rglob("*.pth"))
        return trainer.run_root

    folder = trial()
    gc.collect()
    assert not folder.exists()


def test_trial_finds_a_state_that_cannot_be_saved(make_trainer: Make) -> None:
    class Unsaveable(Seeing):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "unit": TrainingUnit.EPOCH}

    with pytest.raises(CheckpointError, match=r"cannot save checkpoint entry .*'unit'"):
        run(make_trainer, Unsaveable(), fast_dev_run=True)


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_validation_before_the_first_step(
    make_trainer: Make, tmp_path: pathlib.Path, unit: str
) -> None:
    steps = 2 if unit == "epoch" else 2 * BATCHES
    arguments = {"train_unit": unit, "total_steps": steps, "valid_first": True}
    arguments |= {"valid_frequency": steps // 2, "best": ("accuracy", "max")}
    model = run(make_trainer, chkpt_root=tmp_path, **arguments)
    assert model.validated_at == [0, BATCHES, 2 * BATCHES]
    assert model.trainer.state.validation_cycles == 3
    assert names(tmp_path / "tiny") == ["tiny_epoch_2_iter_12.pth"]
    without = run(make_trainer, **{**arguments, "valid_first": False})
    assert equal(model.state_dict(), without.state_dict())  # it changes no random numbers


def test_validation_before_the_first_step_is_not_repeated(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    arguments: dict[str, Any] = {"valid_first": True, "valid_frequency": 1, "keep_best": 1}
    arguments |= {"best": ("accuracy", "max"), "chkpt_root": tmp_path}
    first = run(make_trainer, plugins=[StopAfter(1)], **arguments)
    second = run(make_trainer, **arguments)
    assert first.validated_at + second.validated_at == [0, BATCHES, 2 * BATCHES]


def test_only_a_validation_before_the_first_step(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    model = run(make_trainer, valid_first=True)
    assert model.validated_at == [0]
    assert "never called" not in caplog.text


@pytest.mark.parametrize(
    ("fraction", "accumulation", "expected"),
    [
        (0.5, 1, [3, 6, 9, 12]),
        (1 / 3, 1, [2, 4, 6, 8, 10, 12]),
        (0.3, 1, [2, 4, 6, 8, 9, 11]),
        (0.25, 1, [2, 3, 5, 6, 8, 9, 11, 12]),
        (0.1, 1, [*range(1, 13)]),
        (0.5, 4, [4, 6, 10, 12]),
    ],
)
def test_validation_at_fractions_of_an_epoch(
    make_trainer: Make, fraction: float, accumulation: int, expected: list[int]
) -> None:
    arguments: dict[str, Any] = {"accumulation_steps": accumulation}
    model = run(make_trainer, valid_frequency=fraction, **arguments)
    assert model.validated_at == expected
    assert equal(model.state_dict(), run(make_trainer, **arguments).state_dict())


@pytest.mark.parametrize("stop", range(1, 12, 2))
def test_fractions_of_an_epoch_resume_exactly(
    make_trainer: Make, tmp_path: pathlib.Path, stop: int
) -> None:
    arguments: dict[str, Any] = {"valid_frequency": 0.3}
    whole = run(make_trainer, **arguments)
    first = run(make_trainer, chkpt_root=tmp_path, plugins=[StopAfter(stop)], **arguments)
    second = run(make_trainer, chkpt_root=tmp_path, **arguments)
    assert first.validated_at + second.validated_at == whole.validated_at
    assert equal(second.state_dict(), whole.state_dict())


def test_limits_are_shown(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "helios"):
        run(make_trainer, limit_batches={"training": 2, "validation": 0.5})
        run(make_trainer, overfit_batches=1)
        run(make_trainer)
    assert caplog.text.count("limit_batches: ") == caplog.text.count("overfit_batches: ") == 1
    assert "reads fewer batches (training 2, validation 50.00%)" in caplog.text
    assert "repeats the same batches (training 1, validation 1)" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit_batches": 0}, "limit_batches=0: write a number of batches, such as 10"),
        ({"limit_batches": 1.5}, "limit_batches=1.5: write a number"),
        ({"limit_batches": True}, "limit_batches=True: write a number"),
        ({"limit_batches": {"train": 2}}, "the key 'train': write 'training'"),
        ({"limit_batches": {"testing": 0.0}}, "limit_batches['testing']=0.0: write"),
        ({"overfit_batches": -1}, "overfit_batches=-1: write a number"),
        ({"fast_dev_run": 0}, "fast_dev_run=0: write True for one batch"),
        ({"fast_dev_run": "yes"}, "fast_dev_run='yes': write True"),
        (
            {"fast_dev_run": True, "limit_batches": 3},
            "fast_dev_run=True and limit_batches=3 limit the same batches",
        ),
        ({"valid_first": 1}, "valid_first=1: write True or False"),
        ({"valid_frequency": 0.0}, "valid_frequency=0.0: write a whole number"),
        (
            {"valid_frequency": 0.5, "train_unit": "iteration"},
            "valid_frequency=0.5 is a fraction of an epoch, but train_unit='iteration'",
        ),
    ],
)
def test_arguments_that_make_no_sense(
    make_trainer: Make, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make_trainer(**arguments)
