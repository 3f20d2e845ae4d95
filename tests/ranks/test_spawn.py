"""Processes that the trainer spawns."""

from typing import Any

from started_ranks import StartRanks

from helios import Trainer
from helios.testing import TinyDataModule, TinyModel


def trained(**arguments: Any) -> Any:
    model = TinyModel()
    trainer = Trainer(use_cpu=True, total_steps=2, autoload=False, **arguments)
    state = trainer.fit(model, TinyDataModule())
    return [each.tolist() for each in model.net.parameters()], state.dict()


def spawn() -> Any:
    return trained(devices=2)


def test_spawn(ranks: StartRanks) -> None:
    rank = ranks.alone(spawn)
    assert rank.result[1]["global_iteration"] == 6
