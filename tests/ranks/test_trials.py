"""A trial whose fits are each trained in two ranks."""

import os
import pathlib
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")

import optuna
import torch
from started_ranks import StartRanks, free_port

from helios import Trainer
from helios.errors import ConfigurationError
from helios.plugins.optuna import OptunaPlugin
from helios.testing import TinyDataModule, TinyModel


class Scoring(TinyModel):
    """Has metrics that rise."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self._value = value

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        self.metrics["score"] = self._value + validation_cycle


class Pruner(optuna.pruners.BasePruner):  # type: ignore[misc]  # Optuna has no types here
    """Prunes a trial after its fifth report."""

    def prune(self, study: Any, trial: Any) -> bool:
        return trial.last_step == 4


def search(folder: str) -> dict[str, Any]:
    """Run a trial with two folds, and one that is pruned."""
    root = pathlib.Path(folder)
    backend = optuna.storages.journal.JournalFileBackend(str(root / "study.log"))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(storage=storage, pruner=Pruner())
    fits = []

    def fit(trial: Any, epochs: int) -> float:
        plugin = OptunaPlugin(trial, "score")
        trainer = Trainer(
            total_steps=epochs,
            valid_frequency=1,
            chkpt_root=root / "checkpoints",
            use_cpu=True,
            devices=2,
            autoload=False,
            print_banner=False,
            plugins=[plugin],
        )
        model = Scoring(plugin.suggest("int", "value", low=1, high=9))
        state = trainer.fit(model, TinyDataModule())
        fits.append((model.save_name, state.running_iter))
        return float(model.metrics["score"])

    study.optimize(lambda trial: sum(fit(trial, 2) for _ in range(2)), n_trials=1)
    study.optimize(lambda trial: fit(trial, 9), n_trials=1)
    first, second = study.trials
    return {
        "fits": fits,
        "states": [trial.state.name for trial in study.trials],
        "steps": [sorted(trial.intermediate_values) for trial in study.trials],
        "value": first.value == 2 * first.params["value"] + 2,
        "pruned": (second.user_attrs["helios.pruned"], second.user_attrs["helios.last_cycle"]),
        "folders": sorted(path.name for path in (root / "checkpoints").iterdir()),
    }


def train(folder: str) -> dict[str, Any]:
    """Train in a trial that rank 0 asks for, sends to rank 1, and prunes."""
    root, rank = pathlib.Path(folder), int(os.environ["RANK"])
    sent: list[Any] = [None]
    torch.distributed.init_process_group("gloo")
    if rank == 0:
        study = optuna.create_study(storage=f"sqlite:///{root / 'study.db'}", pruner=Pruner())
        study.enqueue_trial({"value": 3})
        sent = [study.ask({"value": optuna.distributions.IntDistribution(1, 9)})]
    torch.distributed.broadcast_object_list(sent)
    plugin = OptunaPlugin(sent[0], "score")
    trainer = Trainer(
        total_steps=9,
        valid_frequency=1,
        chkpt_root=root / "checkpoints",
        use_cpu=True,
        autoload=False,
        print_banner=False,
    )
    other = OptunaPlugin(optuna.trial.FixedTrial({"value": 3 + rank}), "score")
    different = Scoring(other.suggest("int", "value", low=1, high=9))
    with pytest.raises(ConfigurationError, match=r"different parameters.*Let rank 0 alone call"):
        Trainer(total_steps=1, use_cpu=True, plugins=[other]).fit(different, TinyDataModule())
    other = OptunaPlugin(optuna.trial.FixedTrial({}, number=rank), "score")
    with pytest.raises(ConfigurationError, match=rf"different parameters or numbers; .* {rank} w"):
        Trainer(total_steps=1, use_cpu=True, plugins=[other]).fit(TinyModel(), TinyDataModule())
    model = Scoring(plugin.suggest("int", "value", low=1, high=9))
    plugin.configure_trainer(trainer)  # by hand; the ranks cannot agree on a folder yet
    plugin.configure_model(model)
    with pytest.raises(optuna.TrialPruned) as pruned:
        trainer.fit(model, TinyDataModule())
    known = study.trials[0] if rank == 0 else None
    torch.distributed.destroy_process_group()
    return {
        "error": str(pruned.value),
        "name": model.save_name,
        "cycles": trainer.state.validation_cycles,
        "reports": known and sorted(known.intermediate_values),
        "folders": sorted(path.name for path in (root / "checkpoints").iterdir()),
    }


def test_a_trial_of_rank_0_in_ranks_of_a_launcher(
    ranks: StartRanks, tmp_path: pathlib.Path
) -> None:
    on_two_nodes = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    first, second = ranks(2, train, str(tmp_path), env=on_two_nodes)
    expected = {"error": "pruned after validation cycle 4", "name": "tiny_trial-0", "cycles": 5}
    expected["folders"] = ["tiny_trial-0"]
    assert first.result == {**expected, "reports": [0, 1, 2, 3, 4]}, first.errors
    assert second.result == {**expected, "reports": None}, second.errors


@pytest.mark.long
def test_a_trial_on_two_nodes(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    options = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}")
    options += ("--rdzv-id=trial", "--local-addr=127.0.0.1")
    agents, folders = [], []
    for _ in range(2):
        agents.append(ranks.torchrun(1, train, str(tmp_path), options=options))
        folders.append(ranks.folder)
    for agent in agents:
        [done] = agent.wait()
        assert done.status == 0, done.errors
    found = [each for folder in folders for each in ranks.results_in(folder, 2) if each]
    assert [each["cycles"] for each in found] == [5, 5]
    assert sorted(filter(None, (each["reports"] for each in found))) == [[0, 1, 2, 3, 4]]
    assert [each["folders"] for each in found] == [["tiny_trial-0"], ["tiny_trial-0"]]


@pytest.mark.long
def test_each_fit_of_a_trial_on_two_ranks(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    rank = ranks.alone(search, str(tmp_path))
    assert rank.result is not None, rank.errors
    assert rank.result == {
        "fits": [("tiny_trial-0", 6), ("tiny_trial-0_fold-1", 6)],
        "states": ["COMPLETE", "PRUNED"],
        "steps": [[0, 1, 2, 3], [0, 1, 2, 3, 4]],
        "value": True,
        "pruned": (True, 4),
        "folders": ["tiny_trial-0", "tiny_trial-0_fold-1", "tiny_trial-1"],
    }
