"""An observer that fails on one rank, and guards against NaN that only one rank sees."""

import pathlib
from typing import Any

import torch
from started_ranks import StartRanks
from torch import nn

from helios import Plugin, Trainer, TrainingState
from helios.testing import TinyDataModule, TinyModel

ARGUMENTS: dict[str, Any] = {
    "train_unit": "iteration",
    "use_cpu": True,
    "print_banner": False,
    "autoload": False,
    "stall_timeout": 60,
}


class Counts(Plugin):
    """Counts batches, and fails on rank 1 if it is told so."""

    critical = False

    def __init__(self, fails_at: int | None = None, hook: str = "batch") -> None:
        super().__init__("counts")
        self.fails_at, self.hook = fails_at, hook
        self.count, self.logs = 0, 0

    def setup(self) -> None: ...

    def on_training_batch_end(self, outputs: Any, state: TrainingState) -> None:
        self._fail("batch")
        self.count += 1
        self.log("counted", self.count)

    def on_log(self, metrics: dict[str, float]) -> None:
        self.logs += 1

    def state_dict(self) -> dict[str, Any]:
        self._fail("state")
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]

    def _fail(self, hook: str) -> None:
        is_here = self.global_rank == 1 and hook == self.hook
        if is_here and self.trainer.state.current_iteration == self.fails_at:
            raise ValueError("the disk of rank 1 is full")


def observe(folder: str) -> dict[str, Any]:
    """Let an observer fail on rank 1, and resume without the fault."""
    found: dict[str, Any] = {}
    for hook in ("batch", "state"):
        for name, fails_at, steps in (("first", 3, 4), ("second", None, 6)):
            counts = Counts(fails_at, hook)
            found[f"{hook} {name}"] = fit(f"{folder}/{hook}", counts, steps)
    return found


def fit(folder: str, counts: Counts, steps: int, devices: int | None = None) -> Any:
    trainer = Trainer(
        total_steps=steps,
        print_frequency=2,
        chkpt_frequency=1,
        run_root=folder,
        devices=devices,
        plugins=[counts],
        **ARGUMENTS,
    )
    trainer.fit(TinyModel(), TinyDataModule(64, 4))
    return counts.count, counts.logs, list(trainer.plugin_manager.quarantined)


def spawn(folder: str) -> Any:
    return fit(folder, Counts(3, "state"), 4, devices=2)


def test_observer_that_fails_on_one_rank(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    first, second = ranks(2, observe, str(tmp_path))
    assert first.result["batch first"] == (4, 2, [])
    assert second.result["batch first"] == (2, 1, ["counts"])
    assert first.result["batch second"] == (6, 1, [])
    assert second.result["batch second"] == (4, 1, [])  # from its own state on
    assert second.result["state first"][2] == ["counts"]
    assert first.result["state second"] == (6, 1, [])
    # Its rank logs the error at once. At the end, rank 0 reports what failed on any rank.
    assert "ValueError: the disk of rank 1 is full" in second.errors
    report = "rank 1 of 2 on "
    reports = [line for line in first.errors.splitlines() if line.startswith(report)]
    assert len(reports) == 2
    assert "plug-in 'counts' failed in on_training_batch_end" in reports[0]
    assert not [line for line in second.errors.splitlines() if line.startswith(report)]


def test_program_that_spawns_ranks_reports_their_observers(
    ranks: StartRanks, tmp_path: pathlib.Path
) -> None:
    rank = ranks.alone(spawn, str(tmp_path))
    reports = [line for line in rank.errors.splitlines() if line.startswith("rank 1 of 2 on ")]
    assert len(reports) == 1
    assert "plug-in 'counts' failed in state_dict" in reports[0]


# Values that are not finite in one rank only.


class Bad(TinyModel):
    """Has a loss of NaN at one step in rank 1, perhaps with finite gradients."""

    def __init__(self, has_gradient: bool) -> None:
        super().__init__()
        self.has_gradient = has_gradient

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        features, labels = batch
        loss = nn.functional.cross_entropy(self.net(features), labels)
        if self.global_rank == 1 and state.current_iteration == 3:
            loss = loss * torch.nan if self.has_gradient else loss + torch.nan
        self.optimize(loss, self.optimizer)
        return loss.detach()


class Steps(Plugin):
    def __init__(self) -> None:
        super().__init__("steps")
        self.taken: list[int] = []

    def setup(self) -> None: ...

    def on_after_optimizer_step(self, state: TrainingState) -> None:
        self.taken.append(state.current_iteration)


def guard() -> list[Any]:
    found: list[Any] = []
    for precision in ("fp32", "fp16"):
        for has_gradient in (True, False):
            for action in ("skip", "roll-back", "stop"):
                steps, model = Steps(), Bad(has_gradient)
                trainer = Trainer(
                    total_steps=5,
                    print_frequency=5,
                    precision=precision,
                    plugins=[steps, ("nan-guard", {"action": action})],
                    **ARGUMENTS,
                )
                error = ""
                try:
                    trainer.fit(model, TinyDataModule(64, 4))
                except FloatingPointError as raised:
                    error = str(raised).partition(".")[0]
                found.append((precision, has_gradient, action, steps.taken, error))
    return found


def test_nan_of_one_rank(ranks: StartRanks) -> None:
    first, second = ranks(2, guard)
    assert first.result == second.result
    for precision, has_gradient, action, taken, error in first.result:
        overflows = precision == "fp16" and has_gradient
        case = precision, has_gradient, action
        if action == "stop":
            assert error == "a loss or a gradient was not finite in the iterations 1 to 5", case
            assert taken == ([1, 2, 4, 5] if overflows else [1, 2, 3, 4, 5]), case
        else:
            assert error == "", case
            assert taken == [1, 2, 4, 5], case
