"""``CUDAPlugin(prefetch=...)``: the order of copies, and what waits for what.

A machine without a GPU has no CUDA streams, so these tests mock them: a stand-in records the calls
in the place of ``torch.cuda``.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import Fault, Make

import helios.plugins as hlp
from helios import TrainingState
from helios.plugins.prefetch import SideStream, prefetch
from helios.testing import TinyDataModule, TinyModel

STATE = TrainingState()


class Event:
    """An event of a mock; it knows the copy after which it was recorded last."""

    copy: int | None = None


class StandIn:
    """The CUDA streams of a mock, and a log of their calls."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.events = 0
        self.copies = 0

    def create_event(self) -> Event:
        self.events += 1
        return Event()

    def stream(self, name: str) -> Any:
        stand_in = self

        class Stream:
            def wait_event(self, event: Event) -> None:
                what = "compute" if event.copy is None else f"copy {event.copy}"
                stand_in.log.append(f"{name} waits for {what}")

            def record_event(self, event: Event) -> Event:
                if name == "side":
                    event.copy = stand_in.copies
                    stand_in.copies += 1
                return event

        return Stream()


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The mock of CUDA streams; the device is "meta"."""
    stand_in = StandIn()
    compute = stand_in.stream("compute")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stand_in.stream("side"))
    monkeypatch.setattr(torch.cuda, "Event", stand_in.create_event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return stand_in


def create(count: Any, kind: type[hlp.CUDAPlugin] = hlp.CUDAPlugin) -> hlp.CUDAPlugin:
    """Create a plug-in, with the mock of a GPU only meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        return kind(prefetch=count)


def read(streams: StandIn, batches: Any, count: int) -> list[Any]:
    def move(batch: Any) -> Any:
        streams.log.append(f"copy {batch}")
        return batch

    seen = []
    for batch in prefetch(batches, count, move, SideStream(torch.device("meta"))):
        streams.log.append(f"step {batch}")
        seen.append(batch)
    return seen


def test_copies_come_before_the_steps_that_they_overlap_with(streams: StandIn) -> None:
    assert read(streams, range(4), 2) == [0, 1, 2, 3]
    log = [line for line in streams.log if line != "side waits for compute"]
    assert log == [
        *("copy 0", "copy 1", "copy 2"),
        *("compute waits for copy 0", "step 0", "copy 3"),
        *("compute waits for copy 1", "step 1"),
        *("compute waits for copy 2", "step 2"),
        *("compute waits for copy 3", "step 3"),
    ]


def test_copy_waits_for_steps_that_may_still_read_its_memory(streams: StandIn) -> None:
    read(streams, range(4), 1)
    before = [a for a, b in zip(streams.log, streams.log[1:], strict=False) if b[:4] == "copy"]
    assert before == ["side waits for compute"] * 4


def test_events_are_used_again_and_never_while_somebody_waits_for_them(streams: StandIn) -> None:
    read(streams, range(50), 2)
    assert streams.events == 4  # one of the computation, and one for each copy that is ahead
    waits = [line for line in streams.log if line.startswith("compute waits")]
    assert waits == [f"compute waits for copy {number}" for number in range(50)]


@pytest.mark.parametrize("count", [1, 2, 5, 100])
@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_every_batch_comes_once_in_its_order(streams: StandIn, size: int, count: int) -> None:
    assert read(streams, range(size), count) == list(range(size))


def test_error_of_the_loader_comes_after_the_batches_before_it(streams: StandIn) -> None:
    def loader() -> Iterator[int]:
        yield from range(3)
        raise Fault

    with pytest.raises(Fault):
        read(streams, loader(), 2)
    assert [line for line in streams.log if line.startswith("step")] == [
        *("step 0", "step 1", "step 2")
    ]


def test_only_a_plugin_that_prefetches_wraps_batches(streams: StandIn, make_trainer: Make) -> None:
    claims = {}
    for count in (0, 2):
        manager = make_trainer(plugins=[create(count)]).plugin_manager
        claims[count] = "wrap_batches" in manager.rows["cuda"].hooks
    assert claims == {0: False, 2: True}


class Wrapped(hlp.CUDAPlugin):
    """Moves batches in its own way, which must not happen twice."""

    def _move_collection_to_device(self, batch: Any) -> Any:
        return {"wrapped": batch}


def test_batch_that_was_copied_ahead_is_not_moved_again(streams: StandIn) -> None:
    plugin = create(1, Wrapped)
    plugin.device = torch.device("meta")
    (batch,) = plugin.wrap_batches(["x"], "training")
    assert plugin.process_training_batch(batch, STATE) == {"wrapped": "x"}
    assert plugin.process_validation_batch(batch, 0) == {"wrapped": "x"}
    assert plugin.process_testing_batch(batch, 0) == {"wrapped": "x"}


def test_weights_are_those_without_prefetching(streams: StandIn, make_trainer: Make) -> None:
    weights = []
    for count in (0, 2):
        model = TinyModel()
        trainer = make_trainer(plugins=[create(count)], total_steps=2)
        trainer.fit(model, TinyDataModule())
        weights.append([parameter.clone() for parameter in model.net.parameters()])
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", [-1, 1.5, True, "2", None])
def test_number_of_batches_is_checked(streams: StandIn, value: Any) -> None:
    with pytest.raises(ValueError, match=r"CUDAPlugin\(prefetch=.*\): write the number of batches"):
        create(value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a real CUDA device")
def test_weights_on_a_real_device(make_trainer: Make) -> None:
    weights = []
    for count in (0, 2):
        model = TinyModel()
        trainer = make_trainer(
            plugins=[hlp.CUDAPlugin(prefetch=count)], total_steps=2, use_cpu=False
        )
        trainer.fit(model, TinyDataModule())
        weights.append([parameter.cpu() for parameter in model.net.parameters()])
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one, other)
