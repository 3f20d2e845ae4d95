"""Sets with names, limits and predictions on two ranks: equal to one process."""

import json
import pathlib
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from torch import nn
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Trainer, TrainingState

ARGUMENTS: dict[str, Any] = {
    "use_cpu": True,
    "print_banner": False,
    "autoload": False,
    "stall_timeout": 60,
}
SIZES = {"large": 13, "single": 1, "small": 5}
"""The samples of each set; the second rank has none of the second one."""


class Judged(Model):
    """Logs a mean whose value rises in one set and falls in another one."""

    def __init__(self) -> None:
        super().__init__("judged")

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Linear(1, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.0)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.optimize(self.net(batch[0]).sum(), self.optimizer)

    def valid_step(self, batch: Any, step: int) -> None:
        cycle = self.trainer.state.validation_cycles
        rises = {"large": 1, "single": 0, "small": -abs(cycle - 2)}
        self.log("mean", batch[0].mean() + rises[str(self.session.set_name)])

    def predict_step(self, batch: Any, step: int) -> torch.Tensor:
        return 2 * batch[0]

    def on_validation_end(self, validation_cycle: int) -> None:
        super().on_validation_end(validation_cycle)
        if self.global_rank == 0:
            self.metrics["of rank 0"] = 3.0
        self.metrics["by hand"] = float(self.global_rank)


class Data(DataModule):
    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self.sizes = sizes

    def setup(self) -> None:
        self._train_dataset = self._create_dataset(_numbers(8), {"batch_size": 2})
        self._valid_dataset = self._test_dataset = {
            name: self._create_dataset(_numbers(size), {"batch_size": 2})
            for name, size in self.sizes.items()
        }


def _numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(float(count)).reshape(-1, 1))


def judge(folder: str) -> dict[str, Any]:
    """Return what validations and tests of several sets find, and who ends the training."""
    model, data = Judged(), Data(SIZES)
    trainer = Trainer(
        total_steps=20,
        valid_frequency=1,
        valid_first=True,
        chkpt_root=folder,
        best=("mean/small", "max"),
        keep_best=1,
        keep_last=1,
        plugins=[("early-stopping", {"metric": "mean/small", "mode": "max", "patience": 2})],
        **ARGUMENTS,
    )
    trainer.fit(model, data)
    found: dict[str, Any] = {"validated": dict(model.metrics), "epochs": trainer.state.global_epoch}
    found["stops"] = [each.author for each in trainer.stop_requests]
    found["saved"] = sorted(path.name for path in pathlib.Path(folder).rglob("*.pth"))
    found["alone"] = trainer.validate(model, data)
    found["predicted"] = _plain(trainer.predict(model, data))
    written: dict[int, Any] = {}
    trainer.predict(model, data, writer=lambda outputs, step: written.update({step: outputs}))
    found["written"] = _plain(written)
    limited = Trainer(limit_batches={"prediction": 0.5, "validation": 0.5}, **ARGUMENTS)
    found["half"] = _plain(limited.predict(model, Data({"large": 16})))
    found["half valid"] = limited.validate(model, Data({"large": 16}))
    trial = Trainer(fast_dev_run=True, valid_frequency=1, run_root=folder, **ARGUMENTS)
    trial.fit(model, data)
    found["trial"] = trial.state.global_iteration, _plain(trial.predict(model, data, split="train"))
    overfit = Trainer(overfit_batches=1, total_steps=2, **ARGUMENTS)
    overfit.fit(model, data)
    found["overfit"] = overfit.state.global_iteration
    return found


class Writes:
    """Writes the predictions of each batch into a file with its number."""

    def __init__(self, folder: str) -> None:
        self.folder = pathlib.Path(folder)

    def __call__(self, outputs: torch.Tensor, step: int) -> None:
        (self.folder / f"{step}.txt").write_text(str(outputs.reshape(-1).tolist()))


def evaluate(folder: str, devices: int | None) -> dict[str, Any]:
    """Return what evaluations without training find, perhaps in spawned processes."""
    trainer = Trainer(devices=devices, **ARGUMENTS)
    pathlib.Path(folder).mkdir()
    model, data = Judged(), Data(SIZES)
    found = {"validated": trainer.validate(model, data)}
    found["predicted"] = _plain(trainer.predict(model, data))
    trainer.predict(model, data, writer=Writes(folder))
    return found


def evaluate_both(folder: str) -> list[dict[str, Any]]:
    return [evaluate(f"{folder}/{devices}", devices) for devices in (None, 2)]


def test_spawned_evaluations(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    alone, spawned = ranks.alone(evaluate_both, str(tmp_path)).result
    assert spawned["predicted"] == alone["predicted"]
    assert spawned["validated"] == pytest.approx(alone["validated"])
    written = [sorted((tmp_path / name).iterdir()) for name in ("None", "2")]
    assert [len(paths) for paths in written] == [11, 11]
    together = [
        sorted(float(x) for path in paths for x in json.loads(path.read_text()))
        for paths in written
    ]
    assert together[0] == together[1]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value.reshape(-1).tolist()


def test_sets_limits_and_predictions(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    alone = ranks(1, judge, str(tmp_path / "alone"))[0].result
    both = ranks(2, judge, str(tmp_path / "two"))
    first, second = (rank.result for rank in both)
    for name in ("validated", "alone", "half valid"):
        assert first[name] == second[name] == pytest.approx(alone[name]), name
    for name in ("epochs", "stops", "predicted", "half"):
        assert first[name] == second[name] == alone[name], name
    assert alone["epochs"] == 4
    assert alone["stops"] == ["early-stopping"]
    assert len(alone["saved"]) == len(first["saved"])
    assert list(first["predicted"]) == list(SIZES)
    # Each batch of each rank has a number of its own, in the order of the data.
    assert not first["written"].keys() & second["written"].keys()
    for written in (alone["written"], {**first["written"], **second["written"]}):
        assert sorted(written) == [*range(len(written))]
        samples = [sample for number in sorted(written) for sample in written[number]]
        assert samples == [2.0 * n for size in SIZES.values() for n in range(size)]
    assert first["half"] == {"large": [2.0 * n for n in range(8)]}
    assert first["trial"] == second["trial"] == (1, [0.0, 2.0, 4.0, 6.0])
    assert first["overfit"] == second["overfit"] == 2
    # A model sets other values in each rank: the first rank's count, and it says so.
    assert first["validated"]["by hand"] == second["validated"]["by hand"] == 0
    message = "model.metrics['by hand'] has different values: 0 on rank 0, 1 on rank 1."
    assert both[0].errors.count(message) == 1 + 1 + 1 + 1  # once in each run
    assert "Call self.log('by hand', ...) to combine the values of all ranks" in both[0].errors
    assert message not in both[1].errors
