"""The samples of each rank: shared, even, and in the order of one process; plug-ins of rank 0."""

import pathlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from helios import DataLoaderParams, DataModule, Model, Plugin, Trainer, TrainingState
from helios.data import (
    ResumableBatchSampler,
    ResumableDistributedSampler,
    ResumableSampler,
    ResumableWeightedSampler,
    rank_shares,
)
from helios.data.rank_shares import BatchShare, SampleShare, share_samples
from helios.errors import ConfigurationError, InvalidPluginError, PluginConflictError
from helios.testing import TinyDataModule, TinyModel


class Backwards(ResumableSampler):
    def indices(self) -> list[int]:
        return [*range(len(self))][::-1]


class Triples(ResumableBatchSampler):
    """Chooses batches of three for all ranks; or each rank its own, as it is told."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.all = [[3 * n, 3 * n + 1, 3 * n + 2] for n in range(count)]

    def batches(self) -> list[list[int]]:
        return random.Random(self.epoch).sample(self.all, len(self.all))

    def __len__(self) -> int:
        return len(self.all)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    ("count", "ranks", "first"), [(10, 4, 0), (22, 3, 5), (8, 2, 0), (3, 4, 0)]
)
def test_shares_are_even_and_in_order(count: int, ranks: int, first: int, drop_last: bool) -> None:
    order = [*range(count)][::-1]
    shares = []
    for rank in range(ranks):
        share: Any = share_samples(Backwards(range(count)), rank, ranks, drop_last)
        share.first = first
        shares.append(list(share))
        assert len(share) == len(shares[-1])
        share.is_even = False
        assert list(share) == order[first + rank :: ranks]
    assert len({len(share) for share in shares}) == 1
    together = [index for step in zip(*shares, strict=True) for index in step]
    left = (count - first) // ranks * ranks if drop_last else count - first
    assert together[:left] == order[first:][:left]
    assert len(together) - left < ranks


def test_samplers_that_know_the_ranks_are_shared_once() -> None:
    weights = [1.0, 2.0, 3.0, 4.0]
    whole = list(ResumableWeightedSampler(weights, 6, seed=3))
    mine = ResumableWeightedSampler(weights, 6, seed=3, num_replicas=2, rank=1)
    assert list(share_samples(mine, 1, 2, False)) == whole[1::2] == list(mine)
    data = TensorDataset(torch.arange(7))
    theirs = ResumableDistributedSampler(data, 2, 1, seed=3)
    assert list(share_samples(theirs, 1, 2, False)) == list(theirs)
    other = ResumableDistributedSampler(data, 3, 1)
    assert share_samples(other, 1, 2, False) is other
    shared = [BatchShare(Triples(5), rank, 2, drop_last=True) for rank in range(2)]
    assert [len(each) for each in shared] == [len(list(each)) for each in shared] == [2, 2]
    assert isinstance(share_samples(Backwards(range(3)), 0, 2, False), SampleShare)


def test_virtual_ranks_share_samplers_that_know_the_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rank_shares, "get_global_world_size", lambda: 2)
    weights = [1.0, 2.0, 3.0, 4.0]
    whole = list(ResumableWeightedSampler(weights, 8, seed=3))
    shares = [
        share_samples(ResumableWeightedSampler(weights, 8, seed=3, num_replicas=2), rank, 4, False)
        for rank in range(4)
    ]
    assert [list(share) for share in shares] == [whole[rank::4] for rank in range(4)]


class Counting(IterableDataset[torch.Tensor]):
    """A stream whose ranks have different numbers of samples."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        rank = torch.distributed.get_rank()
        return iter(torch.arange(100 * rank, 100 * rank + 40 + 9 * rank).float().reshape(-1, 1))


class Sees(Model):
    def __init__(self) -> None:
        super().__init__("sees")
        self._seen: list[int] = []

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Linear(1, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-6)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        x = batch[0] if isinstance(batch, list) else batch
        self._seen += x.reshape(-1).int().tolist()
        self.optimize(self.net(x).mean(), self.optimizer)


class Data(DataModule):
    def __init__(self, params: DataLoaderParams, data: Any = None) -> None:
        super().__init__()
        self.params, self.data = params, data

    def setup(self) -> None:
        data = self.data or TensorDataset(torch.arange(15.0).reshape(-1, 1))
        self._train_dataset = self._create_dataset(data, self.params)


class OfRankZero(Plugin):
    rank_zero_only = True

    def __init__(self) -> None:
        super().__init__("of-rank-zero")
        self.calls: list[str] = []

    def setup(self) -> None:
        self.calls.append("setup")

    def on_log(self, metrics: dict[str, float]) -> None:
        self.calls.append(f"log {sorted(metrics)}")

    def teardown(self) -> None:
        self.calls.append("teardown")


class Predicts(Sees):
    def predict_step(self, batch: Any, step: int) -> Any:
        return {"x": batch[0], "names": [f"{int(each)}" for each in batch[0]]}


class Seven(DataModule):
    def setup(self) -> None:
        data = TensorDataset(torch.arange(7.0).reshape(-1, 1))
        self._test_dataset = self._create_dataset(data, {"batch_size": 2})


def read() -> dict[str, Any]:
    found: dict[str, Any] = {}
    trainer = Trainer(total_steps=1, use_cpu=True, print_banner=False)
    predicted = trainer.predict(Predicts(), Seven())
    found["predicted"] = predicted["x"].reshape(-1).tolist(), predicted["names"]
    cases = {
        "own": Data(DataLoaderParams(batch_size=2, sampler=Backwards(range(15)))),
        "batches": Data(DataLoaderParams(batch_sampler=Triples(4))),
        "dropped": Data(DataLoaderParams(batch_sampler=Triples(5), drop_last=True)),
        "stream": Data(DataLoaderParams(batch_size=2), Counting()),
    }
    for name, data in cases.items():
        model, plugin = Sees(), OfRankZero()
        trainer = Trainer(total_steps=1, use_cpu=True, print_banner=False, plugins=[plugin])
        state = trainer.fit(model, data)
        found[name] = model._seen, state.global_iteration, plugin.calls
    return found


class Skips(Plugin):
    """Skips a step because of the loss of one rank."""

    def __init__(self) -> None:
        super().__init__("skips")
        self.taken: list[int] = []

    def setup(self) -> None: ...

    def on_before_backward(self, loss: torch.Tensor, state: TrainingState) -> None:
        if self.global_rank == 1 and state.current_iteration == 2:
            self.trainer.skip_step("only here")

    def on_after_optimizer_step(self, state: TrainingState) -> None:
        self.taken.append(state.current_iteration)


class Joint(DataModule):
    def setup(self) -> None:
        data = TensorDataset(torch.arange(7.0).reshape(-1, 1))
        self._train_dataset = self._create_dataset(data, {"batch_size": 3})
        self._valid_dataset = self._create_dataset(data, {"batch_size": 3})


class Validates(Sees):
    def valid_step(self, batch: Any, step: int) -> None:
        self.net(batch[0])


def fail() -> tuple[str, str, list[int]]:
    data = Data(DataLoaderParams(batch_sampler=Triples(5)))
    options: dict[str, Any] = {"total_steps": 1, "use_cpu": True, "print_banner": False}
    with pytest.raises(ConfigurationError) as uneven:
        Trainer(**options).fit(Sees(), data)
    skips = Skips()
    trainer = Trainer(plugins=[skips], **options)
    trainer.fit(Sees(), Data(DataLoaderParams(batch_size=2)))
    joint = Joint()
    with pytest.raises(ConfigurationError) as sharded:
        Trainer(parallel="fsdp", valid_frequency=1, **options).fit(Validates(), joint)
    return str(uneven.value), str(sharded.value), skips.taken


def test_ranks_share_samplers_and_end_together(ranks: StartRanks) -> None:
    pytest.importorskip("torchdata", reason="the extra 'streaming' is not installed")
    first, second = (rank.result for rank in ranks(2, read))
    own = [n for pair in zip(first["own"][0], second["own"][0], strict=True) for n in pair]
    assert own == [*range(14, -1, -1), 14]
    assert sorted(first["batches"][0] + second["batches"][0]) == [*range(12)]
    assert first["dropped"][1] == second["dropped"][1] == 2
    assert first["stream"][1] == second["stream"][1] == 20
    assert first["predicted"] == second["predicted"]
    assert first["predicted"] == ([*map(float, range(7))], [*map(str, range(7))])
    assert first["own"][2] == ["setup", "teardown"]
    assert second["own"][2] == []


def test_uneven_batches_are_refused_with_their_counts(ranks: StartRanks) -> None:
    for rank in ranks(2, fail):
        uneven, sharded, taken = rank.result
        assert "3 on rank 0, 2 on rank 1" in uneven
        assert "drop_last=True" in uneven
        assert "2 on rank 0, 1 on rank 1" in sharded
        assert 'With parallel="fsdp", ranks compute each batch together' in sharded
        assert taken == [1, 3, 4]


# Conflicts, in one process.


class Distributes(Plugin):
    exclusives = ("module",)

    def __init__(self) -> None:
        super().__init__("distributes")

    def setup(self) -> None: ...

    def prepare_module(self, module: nn.Module) -> nn.Module:
        return module


def test_two_engines_are_a_conflict(tmp_path: pathlib.Path) -> None:
    trainer = Trainer(
        total_steps=1, use_cpu=True, print_banner=False, parallel="ddp", plugins=[Distributes()]
    )
    with pytest.raises(PluginConflictError, match=r"parallel='ddp'\) and plug-in 'distributes'"):
        trainer.fit(TinyModel(), TinyDataModule())
    with pytest.raises(ConfigurationError, match="parallel='zero': write 'ddp' or 'fsdp'"):
        Trainer(parallel="zero")  # type: ignore[arg-type]  # on purpose


def test_plugin_of_rank_zero_does_not_change_training() -> None:
    class Stops(OfRankZero):
        def should_training_stop(self) -> bool:
            return True

    with pytest.raises(InvalidPluginError, match="should_training_stop with rank_zero_only=True"):
        Trainer(use_cpu=True, plugins=[Stops()])
