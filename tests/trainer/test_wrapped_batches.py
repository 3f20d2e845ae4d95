"""wrap_batches returns each batch of the loader once: fewer or more are no epoch."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Make, Named, ReadAhead, numbers
from torch.utils.data import IterableDataset

from helios import DataModule, hookimpl
from helios.errors import InvalidPluginError
from helios.testing import TinyDataModule, TinyModel, check_conformance


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from (torch.tensor([float(number), 1.0, 1.0]) for number in range(12))


class Streams(DataModule):
    """Streams for all phases."""

    def setup(self) -> None:
        def create() -> Any:
            return self._create_dataset(Stream(), {"batch_size": 2})

        self._train_dataset, self._valid_dataset, self._test_dataset = create(), create(), create()


class Counting(TinyModel):
    """Counts batches, and does not look at them."""

    def train_step(self, batch: Any, state: Any) -> Any: ...

    def valid_step(self, batch: Any, step: int) -> None: ...

    def test_step(self, batch: Any, step: int) -> None: ...


class Losing(Named):
    """A prefetcher that forgets the batch that it holds."""

    def __init__(self, phase: str = "training") -> None:
        super().__init__("losing")
        self.phase = phase

    def wrap_batches(self, batches: Any, phase: str) -> Iterator[Any]:
        held = None
        for batch in batches:
            if held is not None or phase != self.phase:
                yield batch if held is None else held
            held = batch if phase == self.phase else None


class Ending(Losing):
    """Ends early."""

    def wrap_batches(self, batches: Any, phase: str) -> Iterator[Any]:
        for number, batch in enumerate(batches):
            if phase == self.phase and number == 2:
                return
            yield batch


class Repeating(Losing):
    """Yields the last batch again."""

    def wrap_batches(self, batches: Any, phase: str) -> Iterator[Any]:
        for batch in batches:
            yield batch
        if phase == self.phase:
            yield batch


def run(make_trainer: Make, plugin: Any, data: DataModule, **arguments: Any) -> Any:
    trainer = make_trainer(plugins=[plugin], total_steps=1, valid_frequency=1, **arguments)
    model = Counting()
    state = trainer.fit(model, data)
    trainer.test(model, data)
    return state


@pytest.mark.parametrize("phase", ["training", "validation", "testing"])
@pytest.mark.parametrize("data", [TinyDataModule, Streams])
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Losing, "batches from wrap_batches, but the loader has"),
        (Ending, "yielded 2 batches from wrap_batches, but the loader has"),
        (Repeating, "yielded more batches from wrap_batches than the loader"),
    ],
)
def test_other_number_of_batches(
    make_trainer: Make, kind: type[Losing], told: str, data: type[DataModule], phase: str
) -> None:
    with pytest.raises(InvalidPluginError) as caught:
        run(make_trainer, kind(phase), data())
    message = str(caught.value)
    assert message.startswith("plug-in 'losing' (not installed, ")
    assert told in message
    assert phase in message


@pytest.mark.parametrize("data", [TinyDataModule, Streams])
@pytest.mark.parametrize("accumulation_steps", [1, 4])
def test_every_batch_once_is_an_epoch(
    make_trainer: Make, data: type[DataModule], accumulation_steps: int
) -> None:
    state = run(make_trainer, ReadAhead(), data(), accumulation_steps=accumulation_steps)
    assert state.global_iteration == 6


def test_wrapper_that_reads_from_a_stream(make_trainer: Make) -> None:
    class Peeking(Named):
        @hookimpl(wrapper=True)
        def wrap_batches(self) -> Any:
            batches = yield
            next(iter(batches))
            return batches

    with pytest.raises(InvalidPluginError, match=r"'peeking' .* yielded 5 batches"):
        run(make_trainer, Peeking("peeking"), Streams())


def test_plugin_that_is_switched_off_wraps_no_more(make_trainer: Make) -> None:
    class Failing(Named):
        critical = False

        def wrap_batches(self, batches: Any) -> Iterator[Any]:
            yield from batches

        def on_training_batch_end(self) -> None:
            raise ValueError("once")

    assert run(make_trainer, Failing("failing"), TinyDataModule()).global_iteration == 6


def test_batches_have_the_attributes_of_their_loader(make_trainer: Make) -> None:
    class Looking(Named):
        def wrap_batches(self, batches: Any) -> Any:
            assert len(batches) == math.ceil(len(batches.dataset) / batches.batch_size)
            assert isinstance(batches.dataset, torch.utils.data.Dataset)
            return batches

    run(make_trainer, Looking(), TinyDataModule())


def test_a_resumed_epoch_counts_what_is_left(make_trainer: Make, tmp_path: Any) -> None:
    class Stopping(Named):
        @staticmethod
        def on_training_batch_end(state: Any) -> None:
            if state.dataset_iter == 2:
                trainer.request_stop("enough")

    for plugins in ([Stopping("stopping"), ReadAhead()], [ReadAhead()]):
        trainer = make_trainer(plugins=plugins, total_steps=1, run_root=tmp_path)
        state = trainer.fit(Counting(), TinyDataModule())
    assert state.global_iteration == 6


def test_conformance_notices_lost_batches() -> None:
    with pytest.raises(InvalidPluginError, match=r"'losing' .*yielded 5 batches"):
        check_conformance(Losing)


def test_numbers_of_batches_depend_on_the_loader(make_trainer: Make) -> None:
    class Data(DataModule):
        def setup(self) -> None:
            params = {"batch_size": 5, "drop_last": True}
            self._train_dataset = self._create_dataset(numbers(17), params)

    trainer = make_trainer(plugins=[ReadAhead()], total_steps=2)
    assert trainer.fit(Counting(), Data()).global_iteration == 6
