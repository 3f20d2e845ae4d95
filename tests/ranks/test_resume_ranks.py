"""A run of several ranks resumes bit for bit, also on another number of ranks."""

import os
import pathlib
import signal
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from torch import nn
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Plugin, Trainer, TrainingState


class Dies(Plugin):
    """Kills one rank at one batch, with no time to clean up; records what is logged."""

    def __init__(self, rank: int | None, batch: int) -> None:
        super().__init__("dies")
        self.victim, self.batch = rank, batch
        self.logged: list[Any] = []
        self.count = 0

    def setup(self) -> None: ...

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        self.count += 1
        if self.global_rank == self.victim and state.global_iteration == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_log(self, metrics: dict[str, float], state: TrainingState) -> None:
        self.logged.append((state.current_iteration, metrics))

    def state_dict(self) -> dict[str, Any]:
        return {"logged": list(self.logged), "count": self.count, "rank": self.global_rank}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.logged, self.count = list(state_dict["logged"]), state_dict["count"]


class Drops(Model):
    """Has dropout, which differs between ranks, and records the samples that it has seen."""

    def __init__(self) -> None:
        super().__init__("drops")
        self._seen: list[tuple[int, int]] = []
        self._drawn: list[float] = []

    def setup(self, fast_init: bool = False) -> None:
        layers = nn.Linear(1, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1)
        self.net = self.prepare(nn.Sequential(*layers))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.01)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self._seen += [(state.global_epoch, int(number)) for number in batch[0]]
        self._drawn.append(torch.rand(()).item())
        loss = self.net(batch[0] / 48).pow(2).mean()
        self.log("loss", loss)
        self.optimize(loss, self.optimizer)

    def valid_step(self, batch: Any, step: int) -> None:
        self.log("valid", self.net(batch[0] / 48).mean())


class Numbers(DataModule):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self) -> None:
        data = TensorDataset(torch.arange(48.0).reshape(-1, 1))
        params = {"batch_size": self.batch_size, "shuffle": True}
        self._train_dataset = self._create_dataset(data, params)
        self._valid_dataset = self._create_dataset(data, {"batch_size": 5})


def train(
    root: str, victim: int | None = None, batch: int = 0, batch_size: int = 4, steps: int = 15
) -> Any:
    dies, model = Dies(victim, batch), Drops()
    trainer = Trainer(
        total_steps=steps,
        train_unit="iteration",
        chkpt_frequency=2,
        valid_frequency=4,
        print_frequency=3,
        use_cpu=True,
        print_banner=False,
        run_root=root,
        plugins=[dies],
    )
    trainer.fit(model, Numbers(batch_size))
    state = {name: tensor.tolist() for name, tensor in model.state_dict()["net"].items()}
    return state, dies.logged, model._seen, model._drawn, dies.count


@pytest.mark.parametrize(
    "deaths",
    [
        ((1, 5),),
        pytest.param(
            [(victim, batch) for victim in (0, 1) for batch in range(1, 15)], marks=pytest.mark.long
        ),
    ],
)
def test_killed_rank_is_resumed_bit_for_bit(
    ranks: StartRanks, tmp_path: pathlib.Path, deaths: list[tuple[int, int]]
) -> None:
    whole = [rank.result for rank in ranks(2, train, str(tmp_path / "whole"))]
    assert whole[0][0] == whole[1][0]
    assert whole[0][3] != whole[1][3]  # each rank draws its own numbers
    assert whole[0][1] == whole[1][1]
    for victim, batch in deaths:
        folder = str(tmp_path / f"cut-{victim}-{batch}")
        died = ranks(2, train, folder, victim, batch, must_succeed=False)
        assert died[victim].status == -signal.SIGKILL
        assert all(rank.status != 0 for rank in died)
        for rank, resumed in enumerate(ranks(2, train, folder)):
            weights, logged, seen, drawn, count = resumed.result
            assert weights == whole[rank][0]
            assert logged == whole[rank][1]
            assert seen == whole[rank][2][-len(seen) :]
            assert drawn == whole[rank][3][-len(drawn) :]
            assert count == whole[rank][4]


def test_resumed_on_another_number_of_ranks(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    """Saved on 2 after 3 batches of 4, which are 24 of 48 samples; an epoch is read once."""
    for count, batch_size in ((1, 8), (4, 4)):
        folder = str(tmp_path / f"{count}-{batch_size}")
        first = [rank.result for rank in ranks(2, train, folder, None, 0, 4, 3)]
        second = [rank.result for rank in ranks(count, train, folder, None, 0, batch_size, 12)]
        assert all(result[0] == second[0][0] for result in second)
        seen = [n for result in (*first, *second) for epoch, n in result[2] if epoch == 0]
        assert set(seen) == {*range(48)}
        assert len(seen) == 48
        later = [n for result in second for epoch, n in result[2] if epoch == 1]
        assert len(set(later)) == len(later)  # in the middle of the second epoch
