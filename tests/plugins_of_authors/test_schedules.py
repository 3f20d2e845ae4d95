"""The effects of the plug-ins that find, schedule, round and end."""

import itertools
from typing import Any

import torch
from helpers import Make
from plugins_of_authors.accumulation_schedule import AccumulationSchedulePlugin
from plugins_of_authors.batch_size_finder import BatchSizeFinderPlugin
from plugins_of_authors.early_stopping import EarlyStoppingPlugin
from plugins_of_authors.learning_rate_finder import LearningRateFinderPlugin
from plugins_of_authors.quantisation import QuantisationPlugin
from plugins_of_authors.timer import TimerPlugin
from variants import Scripted, TinyDataWithSize, TinyModelWithRate

from helios.testing import TinyDataModule, TinyModel


def _weights(model: TinyModel) -> list[torch.Tensor]:
    return list(model.net.state_dict().values())


def test_a_schedule_accumulates_as_the_trainer_does(make_trainer: Make) -> None:
    models = TinyModel(), TinyModel()
    make_trainer(plugins=[AccumulationSchedulePlugin(((0, 4),))]).fit(models[0], TinyDataModule())
    make_trainer(accumulation_steps=4).fit(models[1], TinyDataModule())
    torch.testing.assert_close(*map(_weights, models))


def test_a_schedule_changes_the_number_of_steps(make_trainer: Make) -> None:
    steps: list[int] = []

    class Counting(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.optimizer.register_step_post_hook(
                lambda *_: steps.append(self.trainer.state.global_iteration)
            )

    make_trainer(plugins=[AccumulationSchedulePlugin(((0, 2), (1, 4)))]).fit(
        Counting(), TinyDataModule()
    )
    assert steps == [2, 4, 6, 10, 12]


def test_training_ends_for_good_without_improvement(make_trainer: Make, tmp_path: Any) -> None:
    for total, epochs in [(2, 2), (4, 3), (9, 3)]:
        trainer = make_trainer(
            plugins=[EarlyStoppingPlugin()], total_steps=total, valid_frequency=1, run_root=tmp_path
        )
        trainer.fit(Scripted(), TinyDataModule())
        assert trainer.state.global_epoch == epochs
    assert [each.author for each in trainer.stop_requests] == ["early-stopping"]


def test_the_time_of_all_processes_counts(make_trainer: Make, tmp_path: Any) -> None:
    for total, batches in [(1, 6), (3, 8), (4, 8)]:
        clock = itertools.count(start=100 * total).__next__  # each batch takes a second
        trainer = make_trainer(
            plugins=[TimerPlugin(8.0, clock)], total_steps=total, run_root=tmp_path
        )
        trainer.fit(TinyModel(), TinyDataModule())
        assert trainer.state.global_iteration == batches


class SmallMemory(TinyModel):
    """Has memory for 4 samples."""

    def train_step(self, batch: Any, state: Any) -> Any:
        if len(batch[0]) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return super().train_step(batch, state)


def test_the_largest_batches_that_fit_are_used(make_trainer: Make, tmp_path: Any) -> None:
    found, by_hand = SmallMemory(), SmallMemory()
    data, given = TinyDataWithSize(), TinyDataWithSize()
    given.batch_size = 4
    make_trainer(plugins=[BatchSizeFinderPlugin()], run_root=tmp_path).fit(found, data)
    make_trainer().fit(by_hand, given)
    assert data.batch_size == 4
    assert all(map(torch.equal, _weights(found), _weights(by_hand)))
    resumed = TinyDataWithSize()
    more_memory = make_trainer(plugins=[BatchSizeFinderPlugin()], total_steps=3, run_root=tmp_path)
    more_memory.fit(TinyModel(), resumed)
    assert resumed.batch_size == 4
    assert more_memory.state.global_iteration == 18


class Falling(TinyModelWithRate):
    """Has losses that fall from the fifth step to the sixth."""

    def train_step(self, batch: Any, state: Any) -> Any:
        loss = self.net(batch[0]).sum() * 0 + (5.0 if state.current_iteration <= 5 else 1.0)
        self.optimize(loss, self.optimizer)


def test_the_rate_of_the_steepest_fall_is_found(make_trainer: Make) -> None:
    model, plugin = Falling(), LearningRateFinderPlugin()
    make_trainer(plugins=[plugin]).fit(model, TinyDataModule())
    assert model.learning_rate == plugin.rates[3]


def test_a_trial_changes_nothing_but_the_rate(make_trainer: Make) -> None:
    found, by_hand = TinyModelWithRate(), TinyModelWithRate()
    plugin = LearningRateFinderPlugin()
    make_trainer(plugins=[plugin]).fit(found, TinyDataModule())
    by_hand.learning_rate = found.learning_rate
    make_trainer().fit(by_hand, TinyDataModule())
    assert all(map(torch.equal, _weights(found), _weights(by_hand)))


def test_weights_are_rounded_in_training_and_test(make_trainer: Make, tmp_path: Any) -> None:
    model, tested = TinyModel(), TinyModel()
    for each, method in [(model, "fit"), (tested, "test")]:
        trainer = make_trainer(plugins=[QuantisationPlugin(bits=3)], run_root=tmp_path)
        getattr(trainer, method)(each, TinyDataModule())
        weight = each.net[0].weight
        steps = weight / weight.abs().max() * 3
        torch.testing.assert_close(steps, steps.round())
    exact = [each.net[0].parametrizations.weight.original for each in (model, tested)]
    assert torch.equal(*exact)
    assert not torch.equal(exact[0], model.net[0].weight)
