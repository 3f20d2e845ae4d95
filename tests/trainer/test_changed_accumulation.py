"""A run that resumes inside an epoch with another ``accumulation_steps``."""

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Make
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from helios import DataModule, Model, Plugin, TrainingState
from helios.errors import ConfigurationError, NoRunError
from helios.testing import StopAfter

BATCHES = 24


class Ones(IterableDataset[torch.Tensor]):
    """A stream of unknown length."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.ones(BATCHES, 1))


class Data(DataModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def setup(self) -> None:
        ones = Ones() if self._kind == "stream" else TensorDataset(torch.ones(BATCHES, 1))
        self._train_dataset = self._create_dataset(ones, {"batch_size": 1})


class Unit(Model):
    """Has the gradient 1 in each batch, so each step that is a mean moves its weight by 1."""

    def __init__(self) -> None:
        super().__init__("unit")
        self._sizes: list[int] = []  # a checkpoint would hold it without the underscore
        self._batches = 0

    @property
    def sizes(self) -> list[int]:
        """The number of batches of each step in this process."""
        return self._sizes

    def setup(self, fast_init: bool = False) -> None:
        self.weight = nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        value = batch if isinstance(batch, torch.Tensor) else batch[0]
        before = self.weight.item()
        self._batches += 1
        if self.optimize((value * self.weight).mean(), self.optimizer):
            assert before - self.weight.item() == 1
            self._sizes.append(self._batches)
            self._batches = 0


def windows(accumulation_steps: int, batches: int) -> list[int]:
    """Return the sizes of the windows of that many batches."""
    whole, rest = divmod(batches, accumulation_steps)
    return [accumulation_steps] * whole + [rest] * (rest > 0)


@pytest.mark.parametrize("kind", ["map", "stream"])
@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize(
    ("before", "after"), [(2, 2), (2, 4), (2, 3), (3, 2), (1, 4), (4, 1), (3, 5), (2, 8)]
)
def test_each_step_is_a_mean_over_what_it_saw(
    make_trainer: Make, tmp_path: pathlib.Path, kind: str, unit: str, before: int, after: int
) -> None:
    if kind == "stream":
        pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    total = {"epoch": 1, "iteration": 10}[unit]

    def train(accumulation_steps: int, stop_after: int | None) -> tuple[Unit, TrainingState]:
        model = Unit()
        trainer = make_trainer(
            total_steps=total,
            train_unit=unit,
            chkpt_root=tmp_path,
            plugins=[StopAfter(stop_after)],
            accumulation_steps=accumulation_steps,
        )
        return model, trainer.fit(model, Data(kind))

    model, state = train(before, 5)
    consumed = state.global_iteration
    assert model.sizes == [before] * state.current_iteration
    assert consumed == before * state.current_iteration >= 5
    model, state = train(after, None)
    if unit == "epoch":
        assert model.sizes == windows(after, BATCHES - consumed)
        assert state.global_iteration == BATCHES
    else:
        assert model.sizes == [after] * (total - consumed // before)
        assert state.current_iteration == total
    assert model.weight.item() == -state.current_iteration
    assert state.current_iteration == consumed // before + len(model.sizes)


def test_sizes_of_windows(make_trainer: Make) -> None:
    model = Unit()
    make_trainer(total_steps=2, accumulation_steps=5).fit(model, Data("map"))
    assert model.sizes == list(itertools.chain(windows(5, BATCHES), windows(5, BATCHES)))


class Setting(Plugin):
    """Sets the number of batches of a step after some batches."""

    def __init__(self) -> None:
        super().__init__("setting")

    def setup(self) -> None: ...

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        number = {5: 4, 14: 1}.get(state.global_iteration)
        if number is not None:
            self.trainer.set_accumulation_steps(number)


@pytest.mark.parametrize("kind", ["map", "stream"])
@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize("stops", [(), (9,), (3, 14)])
def test_a_plugin_sets_the_windows_to_come(
    make_trainer: Make, tmp_path: pathlib.Path, kind: str, unit: str, stops: tuple[int, ...]
) -> None:
    if kind == "stream":
        pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    sizes = []
    for stop_after in (*stops, None):
        model = Unit()
        trainer = make_trainer(
            total_steps={"epoch": 1, "iteration": 15}[unit],
            train_unit=unit,
            chkpt_root=tmp_path,
            plugins=[Setting(), StopAfter(stop_after)],
        )
        state = trainer.fit(model, Data(kind))
        sizes += model.sizes
    assert sizes == [1] * 5 + [4] * 3 + [1] * 7
    assert (state.global_iteration, state.current_iteration) == (BATCHES, 15)
    assert model.weight.item() == -15


def test_the_number_of_a_new_run_is_the_argument(make_trainer: Make) -> None:
    told: list[Any] = []

    class Telling(Setting):
        def on_training_epoch_end(self, state: TrainingState) -> None:
            told.append((self.trainer.accumulation_steps, self.trainer.steps_per_epoch))
            self.trainer.set_accumulation_steps(6)
            told.append(self.trainer.steps_per_epoch)

    trainer, model = make_trainer(total_steps=1, accumulation_steps=3, plugins=[Telling()]), Unit()
    for _ in range(2):
        trainer.fit(model, Data("map"))
    assert told == [(3, 24), 4] * 2
    assert model.sizes == 2 * ([3] * 2 + [4] * 2 + [1] * 10)
    with pytest.raises(NoRunError, match=r"pass Trainer\(accumulation_steps=2\), or call it in a"):
        trainer.set_accumulation_steps(2)


@pytest.mark.parametrize("number", [0, True, 2.0, None])
def test_a_wrong_number_is_refused(make_trainer: Make, number: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass a whole number of at least 1"):
        make_trainer().set_accumulation_steps(number)
