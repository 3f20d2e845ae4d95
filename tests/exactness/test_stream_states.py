"""Streams whose own state is incomplete, and streams that carry over from epoch to epoch."""

import logging
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make
from torch.utils.data import IterableDataset, get_worker_info

from helios import DataModule, Model, TrainingState
from helios.errors import ConfigurationError
from helios.testing import StopAfter, TinyDataModule, equal

pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")

SIZE = 60


class BufferShuffledExamplesIterable:
    """A buffer as ``datasets`` has it: a state knows what was read, but not what is in it."""

    def __init__(self, numbers: range, size: int) -> None:
        self.numbers = numbers
        self.size = size
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        generator, held = random.Random(1), []
        while held or self.read < len(self.numbers):
            while self.read < len(self.numbers) and len(held) < self.size:
                held.append(self.numbers[self.read])
                self.read += 1
            yield held.pop(generator.randrange(len(held)))
        self.read = 0


BufferShuffledExamplesIterable.__module__ = "datasets.iterable_dataset"


class Buffered(IterableDataset[Any]):
    """A stream with such a buffer; each worker reads its own share."""

    def __init__(self) -> None:
        self._buffer = BufferShuffledExamplesIterable(range(SIZE), 20)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is not None:
            self._buffer.numbers = range(worker.id, SIZE, worker.num_workers)
        return ((torch.tensor([float(number)]),) for number in self._buffer)

    def state_dict(self) -> dict[str, Any]:
        return {"read": self._buffer.read}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._buffer.read = state["read"]


class Wrapped(IterableDataset[Any]):
    """A stream of a user that passes the state of another one on."""

    def __init__(self) -> None:
        self._sources = {"one": Buffered()}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._sources["one"])

    def state_dict(self) -> dict[str, Any]:
        return self._sources["one"].state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sources["one"].load_state_dict(state)


class Hidden(Buffered):
    """A stream whose buffer Helios cannot recognize."""

    def __init__(self) -> None:
        class Plain(BufferShuffledExamplesIterable):
            pass

        Plain.__module__ = "another"
        self._buffer = Plain(range(SIZE), 20)


class Data(DataModule):
    def __init__(self, dataset: Any, **params: Any) -> None:
        super().__init__()
        self._dataset = dataset
        self._params = {"batch_size": 4, **params}

    def setup(self) -> None:
        self._train_dataset = self._create_dataset(self._dataset, self._params)


class Line(Model):
    def __init__(self) -> None:
        super().__init__("line")
        self._seen: list[Any] = []

    @property
    def seen(self) -> list[Any]:
        return self._seen

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(torch.nn.Linear(1, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-5)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        numbers = batch["x"].float()[:, None] if isinstance(batch, dict) else batch[0]
        self._seen.append(numbers.flatten().tolist())
        self.optimize(self.net(numbers).square().mean(), self.optimizer)


@pytest.fixture
def run(make_trainer: Make, tmp_path: pathlib.Path) -> Callable[..., tuple[list[Any], Any]]:
    """Train; return the batches, and the state of the model."""

    def train(
        dataset: Any, folder: str, stop_after: int | None = None, **params: Any
    ) -> tuple[list[Any], Any]:
        trainer = make_trainer(
            chkpt_root=tmp_path / folder,
            train_unit=params.pop("unit", "iteration"),
            total_steps=params.pop("total_steps", 20),
            plugins=[StopAfter(stop_after)],
        )
        model = Line()
        trainer.fit(model, Data(dataset, **params))
        return model.seen, model.state_dict()

    return train


def assert_exact(run: Any, create: Callable[[], Any], stop_after: int, **params: Any) -> None:
    batches, state = run(create(), "whole", **params)
    first, _ = run(create(), f"cut {stop_after}", stop_after, **params)
    second, resumed = run(create(), f"cut {stop_after}", **params)
    assert first + second == batches
    assert equal(resumed, state)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_after", [1, 8, 14, 17])
@pytest.mark.parametrize(
    ("create", "params"), [(Buffered, {}), (Wrapped, {}), (Hidden, {"replay": True})]
)
def test_buffer_that_is_not_in_the_state(
    run: Any, create: Any, params: dict[str, Any], stop_after: int, workers: int
) -> None:
    assert_exact(run, create, stop_after, num_workers=workers, **params)


def test_incomplete_state_cannot_be_trusted(run: Any) -> None:
    with pytest.raises(ConfigurationError, match="Buffered has a shuffle buffer whose samples"):
        run(Buffered(), "refused", replay=False)


@pytest.mark.parametrize("value", ["yes", 1])
def test_replay_of_another_type(run: Any, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"replay=.*: write True or False"):
        run(Buffered(), "refused", replay=value)


def test_replay_without_a_stream(make_trainer: Make) -> None:
    class Sized(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            self._train_dataset = self._create_dataset(self.train_dataset, {"replay": True})

    with pytest.raises(ConfigurationError, match="TensorDataset is a map-style dataset"):
        make_trainer().fit(Line(), Sized())


@pytest.fixture
def hugging_face(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], Any]:
    """Return a function that creates a stream of four shards, shuffled with a buffer or not."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' is not installed")

    def create(buffer: int | None) -> Any:
        table = datasets.Dataset.from_dict({"x": list(range(SIZE))}).with_format("torch")
        stream = table.to_iterable_dataset(num_shards=4)
        return stream if buffer is None else stream.shuffle(seed=1, buffer_size=buffer)

    return create


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("buffer", [None, 20])
@pytest.mark.parametrize("stop_after", [2, 8, 13])
def test_stream_of_hugging_face(
    run: Any, hugging_face: Any, buffer: int | None, stop_after: int, workers: int
) -> None:
    assert_exact(run, lambda: hugging_face(buffer), stop_after, num_workers=workers)


@pytest.mark.parametrize("buffer", [None, 20])
def test_stream_of_hugging_face_gives_the_batches_of_a_plain_loop(
    run: Any, hugging_face: Any, buffer: int | None
) -> None:
    stream, batches = hugging_face(buffer), []
    for epoch in range(4):
        stream.set_epoch(epoch)
        loader = torch.utils.data.DataLoader(stream, batch_size=4, num_workers=2)
        batches += [batch["x"].tolist() for batch in loader]
    seen, _ = run(hugging_face(buffer), "whole", unit="epoch", total_steps=4, num_workers=2)
    assert seen == batches


class Endless(IterableDataset[Any]):
    """Yields the next ten numbers in each epoch, and repeats nothing."""

    def __init__(self) -> None:
        self._last = 0
        self._left: int | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._left is None:
            self._left = 10
        while self._left > 0:
            self._left -= 1
            self._last += 1
            yield (torch.tensor([float(self._last)]),)
        self._left = None

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last, "left": self._left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last, self._left = state["last"], state["left"]


class Another(Endless):
    """A stream of another class."""


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize("batch_size", [2, 4])
@pytest.mark.parametrize("stop_after", range(1, 8))
def test_stream_that_carries_over(run: Any, unit: str, batch_size: int, stop_after: int) -> None:
    steps = 3 if unit == "epoch" else 9
    assert_exact(run, Endless, stop_after, unit=unit, total_steps=steps, batch_size=batch_size)


def test_stream_that_carries_over_between_two_epochs(run: Any) -> None:
    batches, _ = run(Endless(), "whole", unit="epoch", total_steps=3)
    parts = [run(Endless(), "cut", unit="epoch", total_steps=steps)[0] for steps in (1, 2, 3)]
    assert [batch for part in parts for batch in part] == batches
    assert [number for batch in batches for number in batch] == list(range(1, 31))


def test_another_stream_between_two_epochs(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    run(Endless(), "cut", unit="epoch", total_steps=1)
    batches, _ = run(Another(), "cut", unit="epoch", total_steps=2)
    assert batches[0][0] == 1.0
    assert "position of the stream Endless, but the training set is Another" in caplog.text
