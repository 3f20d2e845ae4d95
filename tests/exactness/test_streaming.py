"""Streams: a run that was cut inside an epoch of unknown length goes on where it was."""

import copy
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Make, ReadAhead
from torch.utils.data import IterableDataset, TensorDataset, get_worker_info

from helios import DataLoaderParams, Plugin
from helios.core import TrainingState, rng
from helios.data import StreamPosition, create_dataloader
from helios.errors import CheckpointError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")

SIZE = 22
GENERATOR = torch.Generator().manual_seed(1)
FEATURES = torch.randn(SIZE, 4, generator=GENERATOR)
LABELS = (FEATURES.sum(dim=1) > 0).long()


def draw() -> float:
    drawn = torch.randn(()).item() + random.gauss() + np.random.randn()
    return drawn + rng.get_default_numpy_rng().standard_normal()


def share() -> list[int]:
    """Return the samples of this process; the first worker has more of them than the second."""
    worker = get_worker_info()
    if worker is None:
        return list(range(SIZE))
    return list(range(13)) if worker.id == 0 else list(range(13, SIZE))


def sample(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return FEATURES[index] + 0.01 * draw(), LABELS[index]


class Plain(IterableDataset[Any]):
    """Has no state; shuffles as it begins, and draws on the way."""

    def __iter__(self) -> Iterator[Any]:
        order = share()
        random.shuffle(order)  # at the first next()
        return (sample(index) for index in order)


class Generating(IterableDataset[Any]):
    """Has no state; a generator, so that it begins when the first sample is wanted."""

    def __iter__(self) -> Iterator[Any]:
        for index in np.random.permutation(share()):
            yield sample(index)


class WithState(IterableDataset[Any]):
    """Keeps the state in the dataset, and is back at the beginning when it has ended."""

    def __init__(self) -> None:
        self._epoch = self._next = 0
        self.skipped = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        order = share()
        random.Random(self._epoch).shuffle(order)
        while self._next < len(order):
            self._next += 1
            yield sample(order[self._next - 1])
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next = state["next"]


class WithBuffer(IterableDataset[Any]):
    """Keeps the state in its iterator: a buffer of samples from which it picks one at random."""

    def __iter__(self) -> Iterator[Any]:
        return Buffer()


class Buffer:
    def __init__(self) -> None:
        self._order, self._read, self._buffer = share(), 0, []  # type: ignore[var-annotated]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while self._read < len(self._order) and len(self._buffer) < 5:
            self._buffer.append(self._order[self._read])
            self._read += 1
        if not self._buffer:
            raise StopIteration
        return sample(self._buffer.pop(random.randrange(len(self._buffer))))

    def state_dict(self) -> dict[str, Any]:
        return {"read": self._read, "buffer": self._buffer}  # not copied on purpose

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._read, self._buffer = state["read"], list(state["buffer"])


class Itself(WithState):
    """Is its own iterator."""

    def __iter__(self) -> Iterator[Any]:
        self._order, self._next = share(), 0
        return self

    def __next__(self) -> Any:
        if self._next == len(self._order):
            raise StopIteration
        self._next += 1
        return sample(self._order[self._next - 1])


KINDS = [Plain, Generating, WithState, WithBuffer, Itself]


def noisy_collate(samples: list[Any]) -> list[torch.Tensor]:
    features, labels = torch.utils.data.default_collate(samples)
    return [features + 0.01 * draw(), labels]


class Streams(TinyDataModule):
    """Trains and validates on streams."""

    def __init__(self, kind: Callable[[], IterableDataset[Any]] = Plain, **params: Any) -> None:
        super().__init__()
        self._kind = kind
        self._params = {"batch_size": 4, "collate_fn": noisy_collate, **params}

    def setup(self) -> None:
        self._train_dataset = self._create_dataset(self._kind(), self._params)
        self._add_valid_dataset(Plain(), {"batch_size": 9})


class Witness(TinyModel):
    """Draws in its steps, and remembers what it was given."""

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self.seen = seen

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        self.seen.append((state.global_epoch, batch[0].tolist(), draw()))
        return super().train_step(batch, state)

    def on_training_epoch_end(self, current_epoch: int) -> None:
        self.seen.append(f"end of {current_epoch}")

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self.seen.append((step, batch[0].tolist(), draw()))
        return super().valid_step(batch, step)


def train(
    make_trainer: Make,
    data: TinyDataModule,
    root: pathlib.Path | None = None,
    seen: list[Any] | None = None,
    stop_after: int | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    unit = arguments.pop("train_unit", "epoch")
    plugins = [StopAfter(stop_after), *arguments.pop("plugins", [])]
    trainer = make_trainer(
        **{
            "train_unit": unit,
            "total_steps": 2 if unit == "epoch" else 11,
            "valid_frequency": 1 if unit == "epoch" else 5,
            "run_root": root,
            "plugins": plugins,
            **arguments,
        }
    )
    model = Witness([] if seen is None else seen)
    counters = trainer.fit(model, data).dict()
    del counters["average_iter_time"], counters["running_iter"]
    return {
        "seen": model.seen,
        "model": model.state_dict(),
        "rng": rng.get_rng_state_dict(),
        "counters": counters,
    }


@pytest.fixture(scope="module")
def uninterrupted() -> Callable[..., dict[str, Any]]:
    """Train each configuration whole, once."""
    results: dict[Any, dict[str, Any]] = {}

    def get(
        make_trainer: Make, kind: type[IterableDataset[Any]], workers: int, **arguments: Any
    ) -> dict[str, Any]:
        key = (kind, workers, *arguments.items())
        if key not in results:
            data = Streams(kind, num_workers=workers)
            results[key] = copy.deepcopy(train(make_trainer, data, **arguments))
        return results[key]

    return get


def cut_and_resumed(
    make_trainer: Make, root: pathlib.Path, data: Callable[[], Streams], stop: int, **more: Any
) -> dict[str, Any]:
    seen: list[Any] = []
    first = train(make_trainer, data(), root, seen, stop, **more)
    accumulation = more.get("accumulation_steps", 1)
    assert stop <= first["counters"]["global_iteration"] < stop + accumulation
    return train(make_trainer, data(), root, seen, **more)


@pytest.mark.parametrize("stop_after", range(1, 12))
@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize(
    ("kind", "accumulation"), [*((kind, 1) for kind in KINDS), (WithBuffer, 4), (Generating, 3)]
)
def test_stopped_after_any_batch(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    uninterrupted: Callable[..., dict[str, Any]],
    kind: type[IterableDataset[Any]],
    unit: str,
    accumulation: int,
    stop_after: int,
) -> None:
    arguments = {"train_unit": unit, "accumulation_steps": accumulation}
    if unit == "iteration":
        arguments |= {"total_steps": 12 // accumulation, "valid_frequency": 2}
    whole = uninterrupted(make_trainer, kind, 0, **arguments)
    assert whole["counters"]["global_iteration"] == 12
    resumed = cut_and_resumed(
        make_trainer, tmp_path, lambda: Streams(kind), stop_after, **arguments
    )
    assert equal(resumed, whole)


@pytest.mark.parametrize(
    ("unit", "accumulation", "kind", "stop_after"),
    [("epoch", 3, KINDS[stop % 5], stop) for stop in range(1, 14)]
    + [("iteration", 1, KINDS[(stop + 2) % 5], stop) for stop in range(1, 14)],
)
def test_stopped_after_any_batch_with_workers(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    uninterrupted: Callable[..., dict[str, Any]],
    kind: type[IterableDataset[Any]],
    unit: str,
    accumulation: int,
    stop_after: int,
) -> None:
    # Two workers with 4 and 3 batches: one goes on when the other has ended.
    arguments = {"train_unit": unit, "accumulation_steps": accumulation}
    if unit == "iteration":
        arguments |= {"total_steps": 14}
    whole = uninterrupted(make_trainer, kind, 2, **arguments)
    assert whole["counters"]["global_iteration"] == 14
    resumed = cut_and_resumed(
        make_trainer,
        tmp_path,
        lambda: Streams(kind, num_workers=2, prefetch_factor=stop_after % 3 + 1),
        stop_after,
        **arguments,
    )
    assert equal(resumed, whole)


@pytest.mark.parametrize("stop_after", [2, 6, 8])
def test_unseeded_stream_draws_from_the_training_stream(
    make_trainer: Make, tmp_path: pathlib.Path, stop_after: int
) -> None:
    def data() -> Streams:
        return Streams(WithState, seeding="none")

    whole = train(make_trainer, data())
    assert not equal(whole["seen"], train(make_trainer, Streams(WithState))["seen"])
    assert equal(cut_and_resumed(make_trainer, tmp_path, data, stop_after), whole)


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_batches_that_a_plugin_has_fetched_are_not_lost(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    uninterrupted: Callable[..., dict[str, Any]],
    accumulation: int,
    stop_after: int,
) -> None:
    arguments = {"train_unit": "epoch", "accumulation_steps": accumulation}
    resumed = cut_and_resumed(
        make_trainer,
        tmp_path,
        lambda: Streams(WithBuffer),
        stop_after,
        plugins=[ReadAhead()],
        **arguments,
    )
    assert equal(resumed, uninterrupted(make_trainer, WithBuffer, 0, **arguments))


def test_run_that_ends_with_the_stream(
    make_trainer: Make, tmp_path: pathlib.Path, uninterrupted: Callable[..., dict[str, Any]]
) -> None:
    # That it was the last batch shows when the next one is asked for, in the run that goes on.
    arguments = {"train_unit": "iteration"}
    seen: list[Any] = []
    train(make_trainer, Streams(), tmp_path, seen, total_steps=6, **arguments)
    assert "end of 0" not in seen
    resumed = train(make_trainer, Streams(), tmp_path, seen, **arguments)
    assert equal(resumed, uninterrupted(make_trainer, Plain, 0, **arguments))


class InOrder(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return zip(FEATURES, LABELS, strict=True)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_stream_trains_as_a_dataset_does(
    make_trainer: Make, unit: str, accumulation: int, drop_last: bool
) -> None:
    # Though its length is not known, a last step of fewer batches has their mean gradient.
    results = []
    for dataset in (InOrder(), TensorDataset(FEATURES, LABELS)):
        results.append(
            train(
                make_trainer,
                Streams(lambda dataset=dataset: dataset, collate_fn=None, drop_last=drop_last),
                train_unit=unit,
                accumulation_steps=accumulation,
                total_steps=4 if drop_last else 5,  # iterations end inside an epoch of 5 or 6
                valid_frequency=1,
            )
        )
    assert len(results[0]["seen"]) > 4
    assert equal(*results)


class Noise(IterableDataset[Any]):
    """Nothing but random numbers."""

    def __iter__(self) -> Iterator[Any]:
        return ((torch.tensor([draw()]), index) for index in share())


def loaded(workers: int, epoch: int = 0, **params: Any) -> list[Any]:
    """Load an epoch of noise."""
    params = {"batch_size": 4, "random_seed": 5, "collate_fn": noisy_collate, **params}
    _, position = create_dataloader(Noise(), DataLoaderParams(num_workers=workers, **params))
    assert isinstance(position, StreamPosition)
    return list(position.read(TrainingState(global_epoch=epoch)))


@pytest.fixture
def seeded() -> Iterator[None]:
    """Seed the training stream, and leave it to other tests as it was."""
    generator = rng._generator
    with rng.preserved_rng_state():
        rng.seed_rngs(0)
        yield
    rng._generator = generator


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("seeding", ["sample", "batch"])
def test_randomness_is_a_function_of_seed_epoch_and_worker(seeding: str) -> None:
    with rng.preserved_rng_state():
        expected = draw()
    for workers in (0, 2):
        first = loaded(workers, seeding=seeding)
        assert equal(
            loaded(workers, seeding=seeding, prefetch_factor=1 if workers else None), first
        )
        noise = {value for batch in first for value in batch[0].flatten().tolist()}
        assert len(noise) == SIZE  # the workers', too, differ
        for other in (
            loaded(workers, seeding=seeding, epoch=1),
            loaded(workers, seeding=seeding, random_seed=6),
        ):
            assert not noise & {value for batch in other for value in batch[0].flatten().tolist()}
    assert draw() == expected  # nothing was drawn from the training stream


@pytest.mark.usefixtures("seeded")
def test_samples_of_a_stream_do_not_depend_on_the_batch_size() -> None:
    small, large = (
        torch.cat([batch[0] for batch in loaded(0, batch_size=size, collate_fn=None)])
        for size in (3, 5)
    )
    assert torch.equal(small, large)


def test_epoch_is_told(make_trainer: Make) -> None:
    class Told(InOrder):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)

    epochs: list[int] = []
    train(make_trainer, Streams(Told, collate_fn=None), total_steps=3)
    assert epochs == [0, 1, 2]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_workers_do_not_set_an_epoch_that_they_share(make_trainer: Make, split: str) -> None:
    class Sharing(InOrder):
        def set_epoch(self, epoch: int) -> None:
            calls.add_(1)

    class Data(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            params = {"batch_size": 4, "num_workers": 2}
            setattr(self, f"_{split}_dataset", self._create_dataset(Sharing(), params))

    calls = torch.tensor(0).share_memory_()
    train(make_trainer, Data(), total_steps=3, valid_frequency=1)
    assert calls == 3


def test_stream_that_does_not_start_anew(make_trainer: Make) -> None:
    stream = iter(InOrder())

    class Spent(InOrder):
        def __iter__(self) -> Iterator[Any]:
            return stream

    with pytest.raises(ValueError, match="stream Spent has no batch in epoch 1: return a new"):
        train(make_trainer, Streams(Spent, collate_fn=None), total_steps=3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_workers": 1}, "num_workers=0, but num_workers is 1 now: pass num_workers=0 until"),
        ({"batch_size": 2}, "batch_size=4, but batch_size is 2 now: pass batch_size=4 until"),
    ],
)
def test_changed_parameters(
    make_trainer: Make, tmp_path: pathlib.Path, changed: dict[str, Any], message: str
) -> None:
    train(make_trainer, Streams(), tmp_path, stop_after=3)
    with pytest.raises(CheckpointError, match=message):
        train(make_trainer, Streams(**changed), tmp_path)
    # Between two epochs, anything may change.
    train(make_trainer, Streams(), tmp_path / "between", total_steps=1)
    train(make_trainer, Streams(**changed), tmp_path / "between")


class Short(InOrder):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().__iter__())[:9])


def test_stream_that_is_shorter_now(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    train(make_trainer, Streams(InOrder, collate_fn=None), tmp_path, stop_after=3)
    with pytest.raises(
        CheckpointError, match=r"stream Short ends after 9 samples, .* after 12 sam"
    ):
        train(make_trainer, Streams(Short, collate_fn=None), tmp_path)


class InOrderWithState(WithState):
    def __iter__(self) -> Iterator[Any]:
        while self._next < SIZE:
            self._next += 1
            yield FEATURES[self._next - 1], LABELS[self._next - 1]
        self._next = 0


def test_stream_that_has_a_state_since(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    whole = train(make_trainer, Streams(InOrder, collate_fn=None))
    seen: list[Any] = []
    train(make_trainer, Streams(InOrder, collate_fn=None), tmp_path, seen, stop_after=3)
    resumed = train(make_trainer, Streams(InOrderWithState, collate_fn=None), tmp_path, seen)
    assert equal(resumed, whole)


def test_dataset_in_the_place_of_a_stream(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    train(make_trainer, Streams(), tmp_path, stop_after=3)
    with pytest.raises(
        CheckpointError, match=r"unknown number of batches \(a stream\), but .* 6 batches"
    ):
        train(make_trainer, TinyDataModule(), tmp_path)


class Odd(WithState):
    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next, "position": np.int64(self._next)}


def test_state_that_could_not_be_loaded_safely(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match=r"\['dataset'\]\['position'\]: it is a numpy.int64"):
        train(make_trainer, Streams(Odd), tmp_path, stop_after=3)


def test_number_of_batches_is_not_known() -> None:
    data = Streams()
    data.setup()
    with pytest.raises(RuntimeError, match="Plain is an iterable-style dataset: its number of"):
        data.get_train_steps_per_epoch()


class Watcher(Plugin):
    """Counts the processes that read, at the end of training."""

    def __init__(self) -> None:
        super().__init__("watcher")

    def setup(self) -> None: ...

    def on_training_end(self) -> None:
        self.left = len(torch.multiprocessing.active_children())


def test_workers_end_with_their_epoch(make_trainer: Make) -> None:
    watcher = Watcher()
    train(make_trainer, Streams(num_workers=2), plugins=[watcher], stop_after=4)
    assert watcher.left == 0


class BackAtEachEpoch(WithState):
    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self._next = 0


@pytest.mark.parametrize("stop_after", [1, 3, 7])
def test_state_is_restored_after_the_epoch_is_set(
    make_trainer: Make, tmp_path: pathlib.Path, stop_after: int
) -> None:
    class Data(TinyDataModule):
        def setup(self) -> None:
            self._train_dataset = self._create_dataset(BackAtEachEpoch(), {"batch_size": 4})

    def final(root: pathlib.Path, stop: int | None) -> dict[str, Any]:
        trainer = make_trainer(chkpt_root=root, plugins=[StopAfter(stop)])
        model = TinyModel()
        trainer.fit(model, Data())
        return model.state_dict()

    whole = final(tmp_path / "whole", None)
    final(tmp_path / "cut", stop_after)
    assert equal(whole, final(tmp_path / "cut", None))
