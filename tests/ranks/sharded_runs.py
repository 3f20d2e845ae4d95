"""Runs that save sharded checkpoints, for tests: a model of uneven shapes, and failing saves."""

import errno
import os
import pathlib
import shutil
import signal
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Trainer, TrainingState
from helios.checkpoints import sharded_save, storage, stores
from helios.checkpoints.shards import Shards
from helios.checkpoints.snapshot import Snapshots
from helios.core import Ranks
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel

CUT, END = 3, 7  # optimizer steps; an epoch has 6
FIRST = "net_epoch_0_iter_3.dcp"
AVERAGES: dict[str, dict[str, Any]] = {"ema": {"decay": 0.5}, "swa": {"start": 0}}
"""The plug-ins that average weights, with their arguments."""


class Uneven(Model):
    """Has 5 rows for up to 4 ranks, dropout, AdamW, and a schedule; records its states."""

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
        self._first_averages = self._averages_now()

    def on_training_end(self) -> None:
        self._last = plain(self.state_dict())
        self._averages = self._averages_now()

    def _averages_now(self) -> Any:
        [plugin] = [each for each in self.trainer.plugins.values() if each.plug_id in AVERAGES]
        return plain(plugin.state_dict())

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


def fit(root: pathlib.Path, steps: int, resume: Any = True, **arguments: Any) -> dict[str, Any]:
    """Train to a step, and return the states of the model at both ends."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    averages = "swa" if root.name.startswith("swa") else "ema"
    model = Uneven()
    trainer = Trainer(
        total_steps=steps,
        train_unit="iteration",
        chkpt_frequency=CUT,
        valid_frequency=2,
        use_cpu=True,
        print_banner=False,
        chkpt_root=root,
        plugins=[(averages, AVERAGES[averages])],
        **{"parallel": "fsdp" if ranks > 1 else None, **arguments},
    )
    trainer.fit(model, Data(), resume=resume)
    found = {"first": model._first, "last": model._last, "averages": model._averages}
    found["first averages"] = model._first_averages
    return {**found, "seen": model._seen, "metrics": dict(model.metrics)}


def train(root: str, *tasks: tuple[str, str | None, int]) -> dict[str, Any]:
    """Let each task train in its folder to a step, from a copy of another folder if named.

    A task without steps validates.
    """
    is_first = os.environ.get("RANK", "0") == "0"
    results = {}
    for name, origin, steps in tasks:
        folder = pathlib.Path(root, name)
        if origin is not None and is_first:
            shutil.copytree(pathlib.Path(root, origin), folder, symlinks=True)
        results[name] = fit(folder, steps) if steps else validate(folder)
    return results


def validate(root: pathlib.Path) -> dict[str, Any]:
    """Validate the newest checkpoint, and return the metrics."""
    parallel: Any = "fsdp" if "RANK" in os.environ and os.environ["WORLD_SIZE"] != "1" else None
    plugins = [("ema", AVERAGES["ema"])]
    trainer = Trainer(use_cpu=True, chkpt_root=root, parallel=parallel, plugins=plugins)
    model = Uneven()
    trainer.validate(model, Data(), checkpoint="last")
    return dict(model.metrics)


# Saves that fail.

MOMENTS = ("piece", "synced", "table", "content", "complete", "named")
"""The moments of a save at which rank 0 may be killed; other ranks reach the first two alone."""


def watch(root: pathlib.Path, reached: Callable[[str], None]) -> None:
    """Call a function at each moment of the saves after the first one."""

    def around(owner: Any, name: str, before: str, after: str = "") -> None:
        real = getattr(owner, name)

        def function(*arguments: Any, **named: Any) -> Any:
            is_later = (root / "net" / FIRST).is_dir()
            if is_later and before:
                reached(before)
            result = real(*arguments, **named)
            if is_later and after:
                reached(after)
            return result

        setattr(owner, name, function)

    around(sharded_save._File, "write", "", "piece")
    around(sharded_save._File, "close", "", "synced")
    around(sharded_save._Files, "rename", "table")
    around(storage, "save", "content")
    around(pathlib.Path, "rename", "complete", "named")


def train_killed(root: str, victim: int, moment: str, count: int, marker: str | None) -> None:
    """Kill a rank when it reaches a moment for the n-th time; or block it, and say so."""
    seen: list[str] = []

    def reached(name: str) -> None:
        seen.append(name)
        if int(os.environ["RANK"]) == victim and seen.count(moment) == count and name == moment:
            if marker is None:
                os.kill(os.getpid(), signal.SIGKILL)
            pathlib.Path(str(marker)).touch()
            threading.Event().wait()

    watch(pathlib.Path(root), reached)
    fit(pathlib.Path(root), END)


def save_kept(root: str) -> Any:
    """Save a copy of divided tensors that have changed since, and return what was saved."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    one, two = torch.arange(6.0).reshape(3, 2), torch.arange(5.0, dtype=torch.bfloat16)
    first, second = (distribute_tensor(each, mesh, [Shard(0)]) for each in (one, two))
    shards = Shards()
    state = {"a": {"b": [first, 1]}, "a.b": (second,)}
    payload = {"part": shards.take(state, "part"), "each": [{}, {}]}
    kept, local = Snapshots().take((payload, shards.local()))
    first.to_local().zero_()
    path = pathlib.Path(root, "x_epoch_1_iter_1.dcp")
    sharded_save.save(kept, path, shards.replaced(local), Ranks(dist.new_group()))
    dist.destroy_process_group()
    found = stores.load(path)["part"]
    is_same = found["a"]["b"][0].equal(one) and found["a.b"][0].equal(two)
    return is_same, found["a"]["b"][1], type(found["a.b"])


def train_without_shared_folder(root: str) -> str:
    """Let rank 1 not see the folder of rank 0, and return the error."""
    real = sharded_save._require_shared
    if os.environ["RANK"] == "1":
        sharded_save._require_shared = lambda folder: real(folder / "elsewhere")
    try:
        fit(pathlib.Path(root), END)
    except ConfigurationError as error:
        return str(error)
    finally:
        sharded_save._require_shared = real
    return ""


def save_in_odd_ways(root: str) -> tuple[str, str, list[str], Any]:
    """Save where ranks do not share a folder, on a full disk of rank 1, and a copy."""
    not_shared = train_without_shared_folder(f"{root}/not-shared")
    kept = save_kept(root)
    return not_shared, *train_on_full_disk(f"{root}/full"), kept


def train_on_full_disk(root: str) -> tuple[str, list[str]]:
    """Let the disk of rank 1 be full at the second save, and return the error."""

    def reached(name: str) -> None:
        if name == "piece" and os.environ["RANK"] == "1":
            raise OSError(errno.ENOSPC, "No space left on device", "piece")

    watch(pathlib.Path(root), reached)
    try:
        fit(pathlib.Path(root), END)
    except OSError as error:
        return str(error), error.__notes__
    return "", []


# Processes that Helios starts.


def spawn(root: str) -> dict[str, Any]:
    """Train on spawned processes, and return what came home, and what the checkpoint holds."""
    model = TinyModel()
    trainer = Trainer(
        use_cpu=True,
        total_steps=2,
        devices=2,
        parallel="fsdp",
        chkpt_root=pathlib.Path(root),
        autoload=False,
    )
    trainer.fit(model, TinyDataModule())
    [path] = pathlib.Path(root).glob("*/*.dcp")
    saved = stores.load(path)["model"]
    result = {
        "class": type(model.net).__name__,
        "home": plain(model.net.state_dict()),
        "saved": plain(saved["net"]),
        "optimizer": plain(model.optimizer.state_dict()) == plain(saved["optimizer"]),
        "same": model.optimizer.param_groups[0]["params"][0] is next(model.net.parameters()),
    }
    model.net(torch.zeros(1, 4)).sum().backward()  # without other processes
    return result
