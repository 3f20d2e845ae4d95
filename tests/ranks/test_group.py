"""Several processes join, exchange values, and leave one set of files."""

import json
import os
import pathlib
from typing import Any

import pytest
import torch
import torch.distributed as dist
from started_ranks import StartRanks

from helios import Trainer
from helios.core import Group
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel


class Asking(TinyModel):
    """Lets the ranks ask one another while they train."""

    def on_training_start(self) -> None:
        group: Group = self.trainer.group
        rank = self.global_rank
        assert self.trainer.global_rank == self.trainer.datamodule.global_rank == rank
        assert self.world_size == self.trainer.world_size == 2
        self.answers: dict[str, Any] = {
            "gather": group.gather({"rank": rank}),
            "sum": group.sum(0.5 + rank),
            "broadcast": group.broadcast(f"of rank {rank}"),
            "agree": [group.agree(rank == 1), group.agree(False)],
        }
        group.require_same("the number", 1)
        with pytest.raises(ConfigurationError) as error:
            group.require_same("the number", rank)
        self.answers["error"] = str(error.value)


class Counted(TinyDataModule):
    def prepare_data(self) -> None:
        print("prepared")


def train(folder: str) -> tuple[Any, ...]:
    trainer = Trainer(use_cpu=True, total_steps=2, valid_frequency=1, run_root=folder)
    trainer.run_name = "log"
    model = Asking()
    state = trainer.fit(model, Counted())
    assert not dist.is_initialized()
    trainer.test(model, Counted())  # joins again
    assert not dist.is_initialized()
    return model.answers, state.global_iteration


def test_two_ranks_train(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    env = {"HELIOS_PLUGINS": "metrics-file"}
    first, second = ranks(2, train, str(folder), env=env)
    assert first.result == second.result
    answers, _ = first.result
    error = answers.pop("error")
    assert answers == {
        "gather": [{"rank": 0}, {"rank": 1}],
        "sum": 2.0,
        "broadcast": "of rank 0",
        "agree": [True, False],
    }
    assert error.startswith("the number differs between the processes of the run: 0 on rank 0 (")
    assert "but 1 on rank 1 (" in error
    # One header, one set of files; data are prepared once.
    assert first.output.count("Helios ") == 2
    assert first.output.count("prepared") == 2
    assert second.output == ""
    assert "Warning" not in first.errors + second.errors
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    assert names == [
        "checkpoints/tiny/tiny_epoch_2_iter_6.pth",
        "hyper-parameters.json",
        "log.log",
        "metrics.jsonl",
        "plan.json",
    ]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines][:2] == [0, 0]


def train_in_own_group() -> bool:
    dist.init_process_group("gloo")
    Trainer(use_cpu=True, total_steps=1, autoload=False).fit(TinyModel(), TinyDataModule())
    still = dist.is_initialized()
    total = torch.ones(1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    return still and total.item() == int(os.environ["WORLD_SIZE"])


def test_existing_group_is_used_and_kept(ranks: StartRanks) -> None:
    results = ranks(2, train_in_own_group, env={"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    assert [rank.result for rank in results] == [True, True]
