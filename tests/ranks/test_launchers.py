"""Whoever starts the ranks, they compute the same, also after torchrun has restarted them."""

import os
import pathlib
import signal
import time
from typing import Any

from started_ranks import StartRanks, free_port

from helios import Plugin, Trainer, TrainingState
from helios.testing import TinyDataModule, TinyModel, equal


class KillsOnce(Plugin):
    """Kills rank 1 once, while rank 0 is busy.

    So the agent of torchrun on another node restarts rank 0 before it has failed, and counts no
    restart.
    """

    def __init__(self) -> None:
        super().__init__("kills-once")

    def setup(self) -> None: ...

    def on_training_batch_end(self, state: TrainingState) -> None:
        busy, killed = (
            pathlib.Path(f"{self.trainer.run_root}.{name}") for name in ("busy", "killed")
        )
        if state.global_iteration != 7 or killed.exists():
            return
        if self.global_rank == 0:
            busy.touch()
            time.sleep(60)
        while not busy.exists():
            time.sleep(0.02)
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def train(folder: str, is_killed: bool, **arguments: Any) -> Any:
    model = TinyModel()
    trainer = Trainer(
        use_cpu=True,
        total_steps=4,
        valid_frequency=1,
        chkpt_frequency=1,
        run_root=folder,
        plugins=["metrics-file", *([KillsOnce()] if is_killed else [])],
        autoload=False,
        **arguments,
    )
    state = trainer.fit(model, TinyDataModule())
    return [each.tolist() for each in model.net.parameters()], state.current_iteration


def train_virtually(**arguments: Any) -> Any:
    model = TinyModel()
    Trainer(use_cpu=True, total_steps=2, virtual_ranks=4, autoload=False, **arguments).fit(
        model, TinyDataModule()
    )
    return [each.tolist() for each in model.net.parameters()]


def both(folder: str, is_killed: bool, **arguments: Any) -> Any:
    return train(folder, is_killed, **arguments), train_virtually(**arguments)


def spawn(folder: str) -> Any:
    return both(folder, False, devices=2)


def test_launchers_are_equal(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    expected = ranks(2, both, str(tmp_path / "alone"), False)[0].result
    assert expected[1] == train_virtually()  # in one process, and on any number of them
    spawned = ranks.alone(spawn, str(tmp_path / "spawn")).result
    assert equal(spawned, expected)
    options = ("--standalone", "--max-restarts=1")
    [torchrun] = ranks.torchrun(2, both, str(tmp_path / "run"), True, options=options).wait()
    assert torchrun.status == 0, torchrun.errors
    assert torchrun.output.count("restored ") == 1
    assert equal(ranks.results(2)[0], expected)
    metrics = [tmp_path / name / "metrics.jsonl" for name in ("alone", "spawn", "run")]
    assert len({path.read_text() for path in metrics}) == 1


def nodes(folder: str) -> Any:
    cut, whole = train(folder, True), train(f"{folder}-whole", False)
    assert cut == whole
    trainer = Trainer(use_cpu=True, total_steps=1, autoload=False)
    place: list[Any] = []

    class Places(TinyModel):
        def on_training_start(self) -> None:
            place.append((self.rank, self.global_rank, self.trainer.place.local_world_size))

    class Prepared(TinyDataModule):
        def prepare_data(self) -> None:
            place.append("prepared")

    trainer.fit(Places(), Prepared())
    return place


def test_two_nodes(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    options = ("--nnodes=2", "--rdzv-backend=c10d", endpoint, "--rdzv-id=run")
    options += ("--local-addr=127.0.0.1", "--max-restarts=1")
    agents, results = [], {}
    for _ in range(2):
        agents.append(ranks.torchrun(1, nodes, str(tmp_path / "run"), options=options))
        results[id(agents[-1])] = ranks.folder
    done = [agent.wait()[0] for agent in agents]
    assert [agent.status for agent in done] == [0, 0], done
    places = [each for folder in results.values() for each in ranks.results_in(folder, 2) if each]
    assert sorted(places) == [["prepared", (0, 0, 1)], ["prepared", (0, 1, 1)]]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files if path.parent.name == "run") == [
        "helios.log",
        "hyper-parameters.json",
        "metrics.jsonl",
        "plan.json",
    ]
    assert sum("Helios " in agent.output for agent in done) == 1  # one header
