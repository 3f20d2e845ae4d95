"""The loops: exactly so many steps, batches and epochs, and when they stop early."""

import math
from typing import Any

import pytest
from helpers import Make, Recording

from helios import TrainingUnit
from helios.testing import StopAfter, TinyDataModule, TinyModel


@pytest.mark.parametrize("steps", [1, 5, 6, 7, 12, 13])
@pytest.mark.parametrize("accumulation", [1, 3, 4])
def test_exactly_so_many_steps(make_trainer: Make, steps: int, accumulation: int) -> None:
    model = Recording()
    trainer = make_trainer(
        train_unit="iteration", total_steps=steps, accumulation_steps=accumulation
    )
    state = trainer.fit(model, TinyDataModule())
    assert state.current_iteration == steps
    assert state.global_iteration == len(model.losses) == steps * accumulation
    assert state.running_iter == state.global_iteration
    assert state.global_epoch == state.global_iteration // 6
    assert state.dataset_iter == state.global_iteration % 6
    assert state.average_iter_time > 0


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize(("accumulation", "steps_per_epoch"), [(1, 6), (3, 2), (4, 2), (7, 1)])
def test_exactly_so_many_epochs(
    make_trainer: Make, epochs: int, accumulation: int, steps_per_epoch: int
) -> None:
    model = Recording()
    trainer = make_trainer(total_steps=epochs, accumulation_steps=accumulation)
    state = trainer.fit(model, TinyDataModule())
    assert (state.global_epoch, state.dataset_iter) == (epochs, 0)
    assert state.global_iteration == len(model.losses) == epochs * 6
    assert state.current_iteration == epochs * steps_per_epoch


@pytest.mark.parametrize("unit", ["epoch", "iteration", TrainingUnit.EPOCH, "EPOCH"])
def test_units(make_trainer: Make, unit: Any) -> None:
    state = make_trainer(train_unit=unit, total_steps=1).fit(TinyModel(), TinyDataModule())
    assert state.global_iteration == (1 if unit == "iteration" else 6)


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_until_something_stops_it(make_trainer: Make, unit: str) -> None:
    trainer = make_trainer(train_unit=unit, total_steps=math.inf, plugins=[StopAfter(20)])
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 20


class NeverBetter(TinyModel):
    """Improves in the cycles that it is told."""

    def __init__(self, improving: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._improving = improving
        self.counts: list[int] = []

    def have_metrics_improved(self) -> bool:
        state = self.trainer.state
        self.counts.append(state.early_stop_count)
        return state.validation_cycles in self._improving


@pytest.mark.parametrize("total", [9, math.inf])
@pytest.mark.parametrize(
    ("improving", "cycles", "counts"),
    [((), 2, [0, 1]), ((0, 1), 2, [0, 0, 0, 1]), ((1,), 2, [0, 1, 0, 1]), ((), 1, [0])],
)
def test_early_stopping(
    make_trainer: Make,
    total: float,
    improving: tuple[int, ...],
    cycles: int,
    counts: list[int],
) -> None:
    model = NeverBetter(improving)
    trainer = make_trainer(total_steps=total, valid_frequency=1, early_stop_cycles=cycles)
    state = trainer.fit(model, TinyDataModule())
    assert model.counts == counts
    assert state.global_epoch == state.validation_cycles == len(counts)
    assert state.early_stop_count == cycles
    (request,) = trainer.stop_requests
    assert request.author == "early stopping"
    assert request.reason.startswith(f"no improvement for {cycles} validation")


def test_early_stopping_in_iterations(make_trainer: Make) -> None:
    model = NeverBetter()
    trainer = make_trainer(
        train_unit="iteration", total_steps=99, valid_frequency=4, early_stop_cycles=2
    )
    assert trainer.fit(model, TinyDataModule()).current_iteration == 8


def test_early_stopping_counts_cycles_without_a_validation_set(make_trainer: Make) -> None:
    trainer = make_trainer(total_steps=9, valid_frequency=1, early_stop_cycles=2)
    state = trainer.fit(NeverBetter(), TinyDataModule(valid_size=0))
    assert (state.global_epoch, state.validation_cycles) == (2, 2)


def test_no_early_stopping_by_default(make_trainer: Make) -> None:
    trainer = make_trainer(total_steps=4, valid_frequency=1)
    assert trainer.fit(NeverBetter(), TinyDataModule()).early_stop_count == 4
