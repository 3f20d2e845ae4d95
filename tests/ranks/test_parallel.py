"""Several ranks train one model: equal in all ranks, to a plain loop, and to one process."""

import contextlib
import copy
import os
from typing import Any

import torch
import torch.distributed as dist
from started_ranks import StartRanks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helios import Trainer
from helios.core import rng
from helios.testing import TinyDataModule, TinyModel

STEPS = 6


class Plain(TinyModel):
    """Trains without dropout, so that ranks and one process compute the same."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        for module in self.net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0


def make(**arguments: Any) -> Trainer:
    defaults = {"total_steps": STEPS, "train_unit": "iteration", "use_cpu": True}
    return Trainer(**{**defaults, "print_banner": False, **arguments})


def weights_of(model: TinyModel) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in model.state_dict()["net"].items()}


def require_names_of_network(net: nn.Module) -> None:
    """Make sure that a program can select and store parameters by the same names in any process."""
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    around = nn.ModuleDict({"part": net})
    assert [name for name, _ in net.named_parameters()] == list(net.state_dict()) == names
    assert [name for name, _ in net.named_modules()] == ["", "0", "1", "2"]
    assert list(net.named_buffers()) == []
    assert list(around.state_dict()) == [f"part.{name}" for name in names]
    assert [name for name, _ in around.named_parameters()] == [f"part.{name}" for name in names]
    before = copy.deepcopy(net)
    assert type(before) is nn.Sequential
    net.load_state_dict({name: torch.ones_like(value) for name, value in net.state_dict().items()})
    assert all(bool((value == 1).all()) for value in net.parameters())
    around.load_state_dict({f"part.{name}": value for name, value in before.state_dict().items()})
    assert all(map(torch.equal, net.parameters(), before.parameters()))


def train(accumulate: int, batch_size: int) -> dict[str, Any]:
    model = TinyModel() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Plain()
    make(accumulation_steps=accumulate).fit(model, TinyDataModule(24, batch_size))
    require_names_of_network(model.net)
    model.net(torch.zeros(3, 4)).sum().backward()  # after the run, without the other ranks
    return weights_of(model)


def train_plainly(accumulate: int) -> dict[str, Any]:
    """Train in the same way with PyTorch alone."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    rng.seed_rngs(6691)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))
    wrapped = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.9)
    if rank:
        rng.seed_rngs(rng.derive_seed(6691, rank))
    data = TinyDataModule(24, 4)
    data.setup()
    x, y = data.train_dataset.tensors  # type: ignore[union-attr]  # a TensorDataset
    batch = steps = epoch = 0
    while steps < STEPS:
        order = torch.randperm(24, generator=torch.Generator().manual_seed(6691 + epoch))
        for start in range(0, 24, 8):
            chosen = order[start : start + 8][rank::2]
            batch += 1
            is_last = batch % accumulate == 0
            with contextlib.nullcontext() if is_last else wrapped.no_sync():
                loss = nn.functional.cross_entropy(wrapped(x[chosen]), y[chosen])
                (loss / accumulate).backward()
            if is_last:
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                steps += 1
            if steps == STEPS:
                break
        epoch += 1
    return {name: tensor.tolist() for name, tensor in net.state_dict().items()}


def test_ranks_train_as_pytorch_does(ranks: StartRanks) -> None:
    for accumulate in (1, 2):
        first, second = (rank.result for rank in ranks(2, train, accumulate, 4))
        assert first == second
        assert ranks(2, train_plainly, accumulate)[0].result == first
