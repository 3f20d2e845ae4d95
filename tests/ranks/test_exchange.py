"""The exchange of gradients and buffers between ranks: when, how often, and in which order."""

import pathlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from started_ranks import StartRanks
from torch import nn

from helios import Model, Trainer, TrainingState
from helios.errors import ConfigurationError, RanksDifferError
from helios.model import gradients
from helios.testing import TinyDataModule

WIDTH = 37
LARGE = 200  # numbers; only the gradients are so many
TYPES = (
    torch.bool,
    torch.int64,
    torch.float32,
    torch.bfloat16,
    torch.uint8,
    torch.complex128,
    torch.float16,
    torch.float64,
)


class Normalized(Model):
    """Has buffers, and records them before each batch."""

    def __init__(self) -> None:
        super().__init__("normalized")
        self._seen: list[list[float]] = []

    def setup(self, fast_init: bool = False) -> None:
        self._norm = nn.BatchNorm1d(WIDTH)
        layers = nn.Linear(4, WIDTH), self._norm, nn.Tanh(), nn.Linear(WIDTH, WIDTH)
        self.net = self.prepare(nn.Sequential(*layers, nn.Tanh(), nn.Linear(WIDTH, 2)))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        self.mixed = nn.Module()  # each rank has other values
        for number, dtype in enumerate(TYPES):
            values = torch.arange(1 + number) + self.global_rank
            self.mixed.register_buffer(f"of_{number}", values.to(dtype))
        turned = torch.rand(3, 2).t() + self.global_rank
        self.mixed.register_buffer("turned", turned)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        mean: Any = self._norm.running_mean
        self._seen.append(mean.tolist())
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.optimize(loss, self.optimizer)


def fit(model: Model, steps: int, root: str | None = None) -> None:
    Trainer(
        total_steps=steps,
        train_unit="iteration",
        accumulation_steps=2,
        use_cpu=True,
        print_banner=False,
        autoload=False,
        run_root=root,
    ).fit(model, TinyDataModule(96, 3))


def train(folder: str) -> dict[str, Any]:
    exchanged = []
    plain = dist.all_reduce

    def counted(tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        if tensor.numel() > LARGE:
            exchanged.append(tensor.numel())
        return plain(tensor, *arguments, **named)

    dist.all_reduce = counted
    found = {}
    for name, cuts in {"whole": [6], "cut": [2, 3, 6]}.items():
        for cut in cuts:
            model = Normalized()
            fit(model, cut, f"{folder}/{name}")
        found[name] = {key: each.tolist() for key, each in model.state_dict()["net"].items()}
        found[f"seen-{name}"] = model._seen
    setattr(gradients, "_BUCKET", 500)  # noqa: B010 - mypy: the name is private
    exchanged_at_once, exchanged[:] = list(exchanged), []
    model = Normalized()
    fit(model, 1)
    found["mixed"] = [each.tolist() for each in model.mixed.buffers()]
    return {**found, "exchanged": exchanged_at_once, "in parts": list(exchanged)}


def test_exchange_of_four_ranks(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    results = [rank.result for rank in ranks(4, train, str(tmp_path))]
    first = results[0]
    for result in results:
        assert result["cut"] == result["whole"] == first["whole"]
        assert result["seen-cut"] == result["seen-whole"][-len(result["seen-cut"]) :]
    assert all(result["mixed"] == first["mixed"] for result in results)
    assert first["mixed"][2] == [0.0, 1.0, 2.0]
    # Ranks begin a window with the buffers of rank 0; within it, each has those of its batches.
    seen = [result["seen-whole"] for result in results]
    assert all(each[::2] == seen[0][::2] for each in seen)
    assert all(each[1::2] != seen[0][1::2] for each in seen[1:])
    # Each step exchanges all gradients once, and for each parameter whether a rank has one.
    parameters = 5 * WIDTH + 2 * WIDTH + WIDTH * (WIDTH + 1) + 2 * (WIDTH + 1)
    assert first["exchanged"] == [parameters + 8] * (6 + 2 + 1 + 3)
    assert sum(first["in parts"]) < parameters + 8
    assert max(first["in parts"]) == WIDTH * WIDTH + 1


class Wrong(Model):
    """Fails in ``setup``, or because of what it creates there."""

    def __init__(self, create: Callable[["Wrong"], Any]) -> None:
        super().__init__("wrong")
        self._create = create

    def setup(self, fast_init: bool = False) -> None:
        self._create(self)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.optimize(self.net(batch[0]).sum(), self.optimizer)


def create_hook(model: Wrong) -> None:
    net: Any = model.prepare(nn.Linear(4, 1))
    net.register_comm_hook(None, lambda state, bucket: bucket)


def create_lazy(model: Wrong) -> None:
    model.net = model.prepare(nn.Sequential(nn.LazyLinear(3)))


def create_other(model: Wrong) -> None:
    model.net = model.prepare(nn.Linear(4, 1 + model.global_rank // 2))


def create_more(model: Wrong) -> None:
    model.net = model.prepare(nn.Linear(4, 1))
    model.optimizer = torch.optim.SGD(model.net.parameters(), lr=0.1)
    if model.global_rank == 0:
        model.scale = nn.Parameter(torch.ones(()))


def fail() -> list[str]:
    messages = []
    for create in (create_hook, create_lazy, create_other, create_more):
        try:
            fit(Wrong(create), 1)
        except (ConfigurationError, RanksDifferError) as error:
            messages.append(str(error))
    return messages


def test_networks_that_ranks_cannot_train(ranks: StartRanks) -> None:
    results = [rank.result for rank in ranks(3, fail)]
    assert all(result == results[0] for result in results)
    hook, lazy, other, more = results[0]
    assert "register_comm_hook() has no effect on the CPU" in hook
    assert "a Sequential whose 0.weight gets its shape only in the first forward pass" in lazy
    assert "call the network once" in lazy
    assert "the Linear that prepare() got differs between ranks: weight is [1, 4]" in other
    assert "[2, 4], torch.float32 in rank 2" in other
    assert "Wrong differs between ranks: scale is [], torch.float32 in rank 0, and missing" in more
