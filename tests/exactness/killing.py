"""Runs that are really killed, as fast as forking: what is trained, and the server that runs it.

The server is a process that has imported torch and Helios and run nothing. It forks a fresh process
for each run, so that a run begins as a new process does, without importing everything again.
"""

import concurrent.futures
import dataclasses
import gc
import importlib
import json
import os
import pathlib
import queue
import random
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

import numpy as np
import torch
from changing import Changing, everything
from torch import nn
from torch.utils.data import Dataset

from helios import DataLoaderParams, DataModule, Model, Plugin, Trainer, TrainingState
from helios.core import rng
from helios.plugins import PluginManager
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.plugins.builtin.preemption import PreemptionPlugin
from helios.testing import equal

LOADED = 5  # batches in an epoch, in each phase


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is trained. Frequencies are such that cuts fall between validations, lines and saves."""

    unit: str = "epoch"
    shuffle: bool = True
    workers: int = 0
    accumulation: int = 1
    phases: bool = False
    precision: str = "fp32"
    scheduler: str = "none"  # or "step", "epoch", "plateau": when it goes on
    valid_frequency: int | None = None
    chkpt_frequency: int | None = None
    print_frequency: int = 2
    epochs: int = 3
    changes: int | None = None  # the seed of a model that changes its attributes

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the arguments of the trainer; two units between saves, by default."""
        in_epochs = self.unit == "epoch"
        steps = self.epochs * LOADED // self.accumulation
        return {
            "train_unit": self.unit,
            "total_steps": self.epochs if in_epochs else steps,
            "accumulation_steps": self.accumulation,
            "valid_frequency": self.valid_frequency or (1 if in_epochs else 2),
            "chkpt_frequency": self.chkpt_frequency or (1 if in_epochs else 2),
            "print_frequency": self.print_frequency,
            "precision": self.precision,
        }

    def __str__(self) -> str:
        """Return an identifier for the tests' report."""
        order = "shuffled" if self.shuffle else "in-order"
        parts = [self.unit, order, f"workers{self.workers}", f"accumulate{self.accumulation}"]
        return "-".join(
            [*parts, "phases" if self.phases else "one-phase", self.precision, self.scheduler]
        )


def random_scenario(choose: random.Random) -> Scenario:
    """Return a scenario of any kind, half of them with a model that changes its attributes."""
    return Scenario(
        unit=choose.choice(["epoch", "iteration"]),
        shuffle=choose.random() < 0.7,
        workers=choose.choice([0, 0, 0, 1, 2]),
        accumulation=choose.randint(1, 7),
        phases=choose.random() < 0.5,
        precision=choose.choice(["fp32", "bf16", "fp16"]),
        scheduler=choose.choice(["none", "step", "epoch", "plateau"]),
        valid_frequency=choose.randint(1, 4),
        chkpt_frequency=choose.randint(1, 4),
        print_frequency=choose.randint(1, 5),
        epochs=choose.randint(2, 6),
        changes=choose.choice([None, choose.randrange(1000)]),
    )


class Numbered(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """Random features with a learnable label and augmentation, and the number of each sample."""

    def __init__(self, size: int, seed: int) -> None:
        self._features = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
        self._seed = seed

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        features = self._features[index]
        noise = torch.rand(4) + random.random() + float(np.random.rand())
        return features + 0.01 * noise, (features.sum() > 0).long(), 1000 * self._seed + index


class Data(DataModule):
    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self._scenario = scenario

    def setup(self) -> None:
        params = DataLoaderParams(
            batch_size=4, shuffle=self._scenario.shuffle, num_workers=self._scenario.workers
        )
        self._add_train_phase(Numbered(4 * LOADED - 2, seed=1), params)
        if self._scenario.phases:
            params.batch_size = 2
            self._add_train_phase(Numbered(2 * LOADED, seed=2), params)
        self._add_valid_dataset(Numbered(6, seed=3), {"batch_size": 3})
        self._add_test_dataset(Numbered(6, seed=4), {"batch_size": 3})


def draw() -> float:
    """Take a number from every generator that a run saves."""
    drawn = torch.rand(()).item() + random.random() + np.random.rand()
    return drawn + rng.get_default_numpy_rng().random()


class Trained(Model):
    """Has state of every kind: buffers, moments of an optimizer, a scheduler, the best result."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__("trained")
        self._scenario = scenario

    def setup(self, fast_init: bool = False) -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
        self.net = self.prepare(net)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.05)
        schedulers = torch.optim.lr_scheduler
        self.scheduler: Any = {
            "none": lambda: None,
            "step": lambda: schedulers.StepLR(self.optimizer, step_size=3, gamma=0.9),
            "epoch": lambda: schedulers.ExponentialLR(self.optimizer, gamma=0.7),
            "plateau": lambda: schedulers.ReduceLROnPlateau(self.optimizer, patience=0),
        }[self._scenario.scheduler]()

    def train_step(self, batch: Any, state: TrainingState) -> list[int]:
        features, labels, ids = batch
        loss = nn.functional.cross_entropy(self.net(features + 0.01 * draw()), labels)
        self.log("loss", loss)
        self._loss_items["loss"] = loss
        if self.optimize(loss, self.optimizer, clip_norm=1.0) and self._goes_on("step"):
            self.scheduler.step()
        return ids.tolist()  # type: ignore[no-any-return]  # a tensor of any dimension

    def valid_step(self, batch: Any, step: int) -> None:
        features, labels, _ = batch
        self.log("score", nn.functional.cross_entropy(self.net(features + 0.1 * draw()), labels))

    def have_metrics_improved(self) -> bool:
        score, best = self.metrics["score"], self.metrics.get("best", float("inf"))
        self.metrics["best"] = min(score, best)
        if self._goes_on("plateau"):
            self.scheduler.step(score)
        return bool(score < best)

    def on_training_epoch_end(self, current_epoch: int) -> None:
        if self._goes_on("epoch"):
            self.scheduler.step()

    def should_advance_dataset_phase(self) -> bool:
        return True

    def _goes_on(self, moment: str) -> bool:
        return self._scenario.scheduler == moment


class ChangingTrained(Changing, Trained):
    """Changes attributes of all kinds at random moments, too."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        assert scenario.changes is not None
        self.seed = scenario.changes


class Following(Plugin):
    """Keeps state from every moment: samples in their order, an average with noise, an account."""

    def __init__(self, plug_id: str) -> None:
        super().__init__(plug_id)
        self._samples: list[list[int]] = []
        self._average = torch.zeros(())
        self._account: list[Any] = []

    def setup(self) -> None: ...

    def on_training_batch_end(self, outputs: list[int]) -> None:
        self._samples.append(outputs)
        self._average = 0.5 * self._average + torch.rand(())

    def on_after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._account.append(("rate", float(optimizer.param_groups[0]["lr"])))

    def on_validation_start(self, validation_cycle: int) -> None:
        self._account.append(("validation", validation_cycle))

    def on_validation_batch_end(self, step: int) -> None:
        self._account.append(("validation batch", step, draw()))

    def on_training_epoch_start(self, state: TrainingState) -> None:
        self._account.append(("epoch starts", state.global_epoch))

    def on_training_epoch_end(self, state: TrainingState) -> None:
        self._account.append(("epoch ends", state.global_epoch, draw()))

    def on_log(self, metrics: dict[str, float]) -> None:
        self._account.append(("log", dict(metrics)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "samples": [list(ids) for ids in self._samples],
            "average": self._average,
            "account": list(self._account),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._samples = [list(ids) for ids in state_dict["samples"]]
        self._average = state_dict["average"]
        self._account = list(state_dict["account"])


def _moment(name: str) -> Callable[[Any], None]:
    def hook(self: "Moments") -> None:
        self.reach(name)

    return hook


class Moments(Plugin):
    """Counts the moments of a run, sends a signal at one, and asks for a stop after a batch.

    Args:
        kill_at: the number of the moment, from 0; ``None`` for never.
        number: of the signal.
        stop_after: the batches of the run after which a stop is asked for; ``None`` for never.
    """

    on_training_start = _moment("training starts")
    on_training_epoch_start = _moment("epoch starts")
    on_training_batch_start = _moment("batch starts")
    on_before_optimizer_step = _moment("before the step")
    on_after_optimizer_step = _moment("after the step")
    on_validation_start = _moment("validation starts")
    on_validation_batch_end = _moment("in validation")
    on_validation_end = _moment("validation ends")
    on_log = _moment("metrics are logged")
    on_training_epoch_end = _moment("epoch ends")
    on_checkpoint_saved = _moment("saved")
    on_training_end = _moment("training ends")
    teardown = _moment("teardown")

    def __init__(self, kill_at: int | None, number: int, stop_after: int | None) -> None:
        super().__init__("moments")
        self.passed: list[str] = []
        self._kill_at = kill_at
        self._number = number
        self._stop_after = stop_after
        self._process = os.getpid()
        sys.addaudithook(self._audit)

    def setup(self) -> None: ...

    def on_training_batch_end(self, state: TrainingState) -> None:
        if state.global_iteration == self._stop_after:
            self.trainer.request_stop("asked for by the test")
        self.reach("batch ends")

    def state_dict(self) -> dict[str, Any]:
        self.reach("saving: states are gathered")
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    def reach(self, name: str) -> None:
        """Take note of a moment, and send the signal if it is the one."""
        if len(self.passed) == self._kill_at:
            os.kill(os.getpid(), self._number)
        self.passed.append(name)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hear of what is done to the files of a checkpoint while it is saved."""
        if event not in ("open", "os.rename") or os.getpid() != self._process:
            return
        path = str(arguments[0])
        writes = event == "os.rename" or set(str(arguments[1])) & set("wax+")
        if "checkpoints" in path and writes and ".pth" in path:
            self.reach(f"saving: {event}")


def train(
    scenario: Scenario,
    root: pathlib.Path,
    kill_at: int | None = None,
    number: int = signal.SIGKILL,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train in this process, and return all that must be equal, and the moments passed.

    Signals other than SIGKILL are left to the plug-in ``preemption``.
    """
    moments = Moments(kill_at, number, stop_after)
    preemption = [] if number == signal.SIGKILL else [PreemptionPlugin()]
    before, after = Following("before"), Following("after")
    trainer = Trainer(
        **scenario.trainer_arguments(),
        early_stop_cycles=50,
        run_root=root,
        use_cpu=True,
        print_banner=False,
        autoload=False,
        plugins=[*preemption, before, moments, after, MetricsFilePlugin()],
    )
    model = Trained(scenario) if scenario.changes is None else ChangingTrained(scenario)
    data = Data(scenario)
    state = trainer.fit(model, data)
    counters = state.dict()
    del counters["average_iter_time"], counters["running_iter"]  # of this process
    samples = before.state_dict()["samples"]
    lines = trainer.run_path("metrics.jsonl")  # a run that is killed before it saves is a new one
    return {
        "model": model.state_dict(),
        "plug-ins": [before.state_dict(), after.state_dict()],
        "samples": samples,
        "rng": rng.get_rng_state_dict(),
        "counters": counters,
        "newest metrics": dict(model.metrics),
        "running losses": dict(model._running_losses),
        "metrics file": lines.read_text() if lines.exists() else "",
        "data": data.state_dict(),
        "attributes": everything(model) if isinstance(model, Changing) else {},
        "moments": moments.passed,
    }


def differences(whole: dict[str, Any], resumed: dict[str, Any]) -> list[str]:
    """Return what differs between two results; a resumed run passes fewer moments."""
    return [what for what in whole if what != "moments" and not equal(whole[what], resumed[what])]


class Server:
    """Starts the server process, and asks it for runs.

    Args:
        python: the interpreter, as a command.
    """

    def __init__(self, python: Sequence[str] = (sys.executable,)) -> None:
        self._python = python

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [*self._python, __file__],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.__exit__(*raised)  # type: ignore[arg-type]  # closes its pipes, and waits

    def run(self, scenario: Scenario, root: pathlib.Path, **options: Any) -> dict[str, Any] | None:
        """Train in a fresh process: return its result, or ``None`` if a signal has ended it.

        Args:
            scenario: what to train.
            root: the folder of the run.
            options: further arguments of :func:`train`.
        """
        root.mkdir(parents=True, exist_ok=True)
        request = {"scenario": dataclasses.asdict(scenario), "root": str(root), **options}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        if code in (-signal.SIGKILL, 128 + signal.SIGTERM):
            return None
        assert code == 0, f"the run {request} has failed with {code}"
        result: dict[str, Any] = torch.load(root / "result", weights_only=True)
        return result

    def cut(
        self, scenario: Scenario, root: pathlib.Path, kills: list[int], **options: Any
    ) -> dict[str, Any]:
        """Cut a run at the given moments, one process each; return the result of a last run."""
        for kill_at in kills:
            result = self.run(scenario, root, kill_at=kill_at, **options)
            assert result is None, f"the run has no moment {kill_at}"
        result = self.run(scenario, root, number=options.get("number", signal.SIGKILL))
        assert result is not None
        return result


class Pool:
    """Runs cut runs side by side, and says which of them ended differently."""

    def __init__(self, servers: list[Server]) -> None:
        self._free: queue.SimpleQueue[Server] = queue.SimpleQueue()
        for server in servers:
            self._free.put(server)
        self._threads = concurrent.futures.ThreadPoolExecutor(len(servers))

    def run(self, scenario: Scenario, root: pathlib.Path, **options: Any) -> dict[str, Any]:
        """Train to the end in a fresh process."""
        server = self._free.get()
        try:
            result = server.run(scenario, root, **options)
            assert result is not None
            return result
        finally:
            self._free.put(server)

    def mismatches(
        self,
        scenario: Scenario,
        root: pathlib.Path,
        cuts: list[list[int]],
        whole: dict[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, list[str]]:
        """Cut the run at each of the cuts, resume it, and compare it with the whole run.

        Args:
            scenario: what to train.
            root: the folder of all runs.
            cuts: the moments of the kills of each run.
            whole: the result of the whole run, if there is one already.
            options: further arguments of :func:`train`.

        Returns:
            What differed, by cut.
        """
        expected = whole or self.run(scenario, root / "whole")

        def cut(kills: list[int]) -> list[str]:
            server = self._free.get()
            try:
                folder = root / "-".join(map(str, kills))
                return differences(expected, server.cut(scenario, folder, kills, **options))
            finally:
                self._free.put(server)

        outcomes = zip(cuts, self._threads.map(cut, cuts), strict=True)
        return {str(kills): outcome for kills, outcome in outcomes if outcome}


def _serve() -> None:
    importlib.import_module("torch._dynamo")  # as the first optimizer does
    manager = PluginManager()
    manager.register(MetricsFilePlugin())
    manager.register(Following("following"))
    manager.freeze()  # reads the metadata of all that is installed, once a process
    torch.set_num_threads(1)
    gc.freeze()  # so that no run looks through all of PyTorch for garbage
    # A resumed scheduler goes on after steps that its optimizer has not taken in this process.
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _train_and_exit(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _train_and_exit(scenario: dict[str, Any], root: str, **options: Any) -> NoReturn:
    try:
        result = train(Scenario(**scenario), pathlib.Path(root), **options)
        torch.save(result, pathlib.Path(root) / "result")
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    _serve()
