"""Sharded checkpoints of FSDP2: each rank writes its parts, and any number of ranks reads them."""

import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from torch import nn
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Trainer, TrainingState

CUT, END = 3, 7  # optimizer steps; an epoch has 6


class Uneven(Model):
    """Has 5 rows for up to 4 ranks, dropout, AdamW, and a schedule; records its first state."""

    def __init__(self) -> None:
        super().__init__("net")
        self._seen: list[tuple[int, int]] = []
        self._first: dict[str, Any] = {}

    def setup(self, fast_init: bool = False) -> None:
        layers = nn.Linear(3, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 1)
        self.net = self.prepare(nn.Sequential(*layers))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.9)

    def on_training_start(self) -> None:
        self._first = plain(self.state_dict())

    def on_training_end(self) -> None:
        self._last = plain(self.state_dict())
        self._averages = plain(self.trainer.plugins["swa"].averages("net"))

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self._seen += [(state.global_epoch, number) for number in batch[1].tolist()]
        loss = self.net(batch[0]).pow(2).mean()
        self.optimize(loss, self.optimizer, clip_norm=0.1, scheduler=self.scheduler)

    def valid_step(self, batch: Any, step: int) -> None:
        self.log("loss", self.net(batch[0]).pow(2).mean())


class Data(DataModule):
    def setup(self) -> None:
        generator = torch.Generator().manual_seed(1)
        data = TensorDataset(torch.randn(48, 3, generator=generator), torch.arange(48))
        size = 8 // int(os.environ.get("WORLD_SIZE", "1"))
        self._train_dataset = self._create_dataset(data, {"batch_size": size, "shuffle": True})
        self._valid_dataset = self._create_dataset(data, {"batch_size": 4})


def plain(state: Any) -> Any:
    """Return a state of lists instead of tensors, with whole tensors."""
    if isinstance(state, dict):
        return {name: plain(each) for name, each in state.items()}
    if isinstance(state, torch.Tensor):
        whole: Any = state
        return (whole.full_tensor() if hasattr(state, "full_tensor") else whole).tolist()
    return state


def fit(root: pathlib.Path, steps: int, **arguments: Any) -> dict[str, Any]:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    model = Uneven()
    trainer = Trainer(
        total_steps=steps,
        train_unit="iteration",
        chkpt_frequency=CUT,
        valid_frequency=2,
        use_cpu=True,
        print_banner=False,
        chkpt_root=root,
        plugins=[("swa", {"start": 0})],
        **{"parallel": "fsdp" if ranks > 1 else None, **arguments},
    )
    trainer.fit(model, Data())
    found = {"first": model._first, "last": model._last, "averages": model._averages}
    return {**found, "seen": model._seen, "metrics": dict(model.metrics)}


def train(root: str, *tasks: tuple[str, str | None, int]) -> dict[str, Any]:
    """Let each task train in its folder to a step, from a copy of another folder if named."""
    is_first = os.environ.get("RANK", "0") == "0"
    results = {}
    for name, origin, steps in tasks:
        folder = pathlib.Path(root, name)
        if origin is not None and is_first:
            shutil.copytree(pathlib.Path(root, origin), folder)
        results[name] = fit(folder, steps)
    return results


@pytest.fixture(scope="module")
def trained(
    python_of_ranks: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[pathlib.Path, dict[str, list[dict[str, Any]]]]]:
    """A folder with runs, and the results of their ranks: ``4-2`` was cut on 4, resumed on 2."""
    root = tmp_path_factory.mktemp("sharded")
    start = StartRanks(python_of_ranks, tmp_path_factory.mktemp("ranks"))
    results: dict[str, list[dict[str, Any]]] = {}
    try:
        for count, tasks in (
            (4, [("4", None, CUT), ("4-whole", None, END)]),
            (2, [("2", None, CUT), ("2-whole", None, END), ("2-2", "2", END), ("4-2", "4", END)]),
            (1, [("1", None, CUT), ("4-1", "4", END)]),
            (2, [("1-2", "1", END)]),
            (4, [("2-4", "2", END), ("4-4", "4", END)]),
        ):
            ranks = [rank.result for rank in start(count, train, str(root), *tasks)]
            results |= {name: [each[name] for each in ranks] for name, *_ in tasks}
        yield root, results
    finally:
        start.close()


def test_each_rank_writes_its_parts(trained: Any) -> None:
    root, _ = trained
    folder = root / "4" / "net"
    names = {path.name for path in folder.iterdir()}
    assert names == {"net_epoch_0_iter_3.dcp", "last.pth"}
    pieces = {path.name for path in (folder / "net_epoch_0_iter_3.dcp").iterdir()}
    assert pieces == {"helios.pt", ".metadata", *(f"__{rank}_0.distcp" for rank in range(4))}
    assert (folder / "last.pth").resolve().name == "net_epoch_0_iter_3.dcp"
    assert {path.suffix for path in (root / "1" / "net").iterdir()} == {".pth"}


@pytest.mark.parametrize("count", [2, 4])
def test_same_number_of_ranks_resumes_bit_for_bit(trained: Any, count: int) -> None:
    _, results = trained
    for whole, resumed in zip(results[f"{count}-whole"], results[f"{count}-{count}"], strict=True):
        for name in ("last", "averages", "metrics"):
            assert resumed[name] == whole[name], name
        assert resumed["seen"] == whole["seen"][-len(resumed["seen"]) :]


@pytest.mark.parametrize("name", ["4-2", "4-1", "2-2", "2-4", "1-2"])
def test_any_number_of_ranks_resumes_the_same_state(trained: Any, name: str) -> None:
    _, results = trained
    before, after = results[name[0]], results[name]
    for rank in after:
        assert rank["first"] == before[0]["last"]
        assert rank["last"] == after[0]["last"] != rank["first"]
    seen = [number for rank in before for number in rank["seen"]]
    seen += [number for rank in after for number in rank["seen"]]
    assert sorted(number for epoch, number in seen if epoch == 0) == [*range(48)]
    assert len(seen) == len(set(seen)) == 8 * END
