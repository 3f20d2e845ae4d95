"""Two ranks train like one process with batches twice as large, to a tolerance of 1e-5."""

import os
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from torch import nn
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Trainer, TrainingState

TOLERANCE = 1e-5


class Case(Model):
    """The base of the cases: a network of two layers, both of which all batches reach."""

    def __init__(self) -> None:
        super().__init__("case")

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 1)}))
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01
        )

    def layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        layers: Any = self.net
        output: torch.Tensor = layers[name](x)
        return output

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.optimize(self.loss(batch[0], state), self.optimizer)

    def loss(self, x: torch.Tensor, state: TrainingState) -> torch.Tensor:
        return self.layer("two", self.layer("one", x)).pow(2).mean()

    def on_training_end(self) -> None:
        self.trained: list[float] = []
        for _, part in self.networks():
            for each in part.parameters():
                whole = each.full_tensor() if hasattr(each, "full_tensor") else each
                self.trained += whole.detach().reshape(-1).tolist()

    def weights(self) -> list[float]:
        return self.trained


class Net(nn.Module):
    """Has a part that only some calls reach, and one that none reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.never = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, uses_two: bool) -> torch.Tensor:
        x = self.one(x)
        output: torch.Tensor = self.two(x) if uses_two else x
        return output


class EarlyPart(Case):
    """Reaches a part in the first batch of a window alone; some windows reach it never."""

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(Net())
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01
        )

    def loss(self, x: torch.Tensor, state: TrainingState) -> torch.Tensor:
        is_early = state.global_iteration % 2 == 1 and state.global_iteration % 3 > 0
        output: torch.Tensor = self.net(x, is_early)
        return output.pow(2).mean()


class Clipped(Case):
    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.optimize(self.loss(batch[0], state), self.optimizer, clip_norm=0.05, clip_value=0.04)


class Weighted(Case):
    """Gives each batch another weight, so that ranks have different ones."""

    def train_step(self, batch: Any, state: TrainingState) -> None:
        x, weights = batch
        each = self.layer("two", self.layer("one", x)).pow(2).mean(dim=1)
        loss = (each * weights).sum() / weights.sum()
        self.optimize(loss, self.optimizer, weight=weights.sum())


class TwoOptimizers(Case):
    """Two optimizers; the loss of the second one reaches the first, and skips the last batch."""

    def setup(self, fast_init: bool = False) -> None:
        self.one = self.prepare(nn.Linear(3, 3))
        self.two = self.prepare(nn.Linear(3, 1))
        self.first = torch.optim.SGD(self.one.parameters(), lr=0.1)
        self.second = torch.optim.Adam(self.two.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        (x, _) = batch
        if state.global_iteration % 2 == 1:
            self.optimize(self.two(self.one(x)).pow(2).mean(), self.second)
        self.optimize(self.one(x).pow(2).mean(), self.first)


class Unprepared(Case):
    """Trains a network and a parameter that nobody has prepared."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.other = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(()))
        parameters = [*self.net.parameters(), *self.other.parameters(), self.scale]
        self.optimizer = torch.optim.SGD(parameters, lr=0.1)

    def loss(self, x: torch.Tensor, state: TrainingState) -> torch.Tensor:
        return super().loss(self.other(x) * self.scale, state)

    def weights(self) -> list[float]:
        return [*super().weights(), self.scale.item()]


class ByHand(Case):
    """Takes its steps by hand, which Helios does not accumulate."""

    def train_step(self, batch: Any, state: TrainingState) -> None:
        self.loss(batch[0], state).backward()  # type: ignore[no-untyped-call]  # torch's
        self.optimizer.step()
        self.optimizer.zero_grad()


class Clips(Case):
    """Clips the gradients by hand, in every other step."""

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Linear(3, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def loss(self, x: torch.Tensor, state: TrainingState) -> torch.Tensor:
        output: torch.Tensor = self.net(x)
        return output.pow(2).mean()

    def train_step(self, batch: Any, state: TrainingState) -> None:
        loss = self.loss(batch[0], state)
        if state.current_iteration % 2:
            self.optimize(loss, self.optimizer, clip_norm=0.05)
            return
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        nn.utils.clip_grad_norm_(self.net.parameters(), 0.05)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Sparse(Case):
    """Has an embedding with sparse gradients, of which each batch reaches a few rows."""

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.ModuleDict({"rows": nn.Embedding(9, 3, sparse=True)}))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def loss(self, x: torch.Tensor, state: TrainingState) -> torch.Tensor:
        layers: Any = self.net
        rows = (x[:, 0].abs() * 4).long().clamp(max=8)
        output: torch.Tensor = (layers["rows"](rows) - x).pow(2).mean()
        return output


class SparseBesideDense(Sparse):
    """Has a second optimizer, and tables that few ranks, or none, reach in a step."""

    def setup(self, fast_init: bool = False) -> None:
        tables = {name: nn.Embedding(9, 3, sparse=True) for name in ("rows", "rare", "never")}
        self.net = self.prepare(nn.ModuleDict(tables))
        self.dense = self.prepare(nn.Linear(3, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.other = torch.optim.SGD(self.dense.parameters(), lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        x, layers, net = batch[0], self.net, self.dense
        loss = self.loss(x, state)
        is_rare = x[:, 1] > 1.5
        if is_rare.any():
            table: Any = layers
            rows = (x[is_rare, 0].abs() * 4).long().clamp(max=8)
            loss = loss + table["rare"](rows).pow(2).sum() / len(x)
        self.optimize(loss + net(x).pow(2).mean(), [self.optimizer, self.other])


class Experts(Case):
    """Has a part that some samples reach, and so not each rank in each step."""

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(
            nn.ModuleDict({name: nn.Linear(3, 3) for name in ("all", "few", "none")})
        )
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01
        )

    def loss(self, x: torch.Tensor, state: TrainingState) -> torch.Tensor:
        loss, few = self.layer("all", x).pow(2).sum(), x[:, 0] > 1.0
        if few.any():
            loss = loss + self.layer("few", x[few]).pow(2).sum()
        return loss / len(x)


class Whole(Case):
    """A network that is called as a whole, as FSDP2 needs it."""

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.01)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        loss = self.net(batch[0]).pow(2).mean()
        self.optimize(loss, self.optimizer, clip_norm=0.1)

    def valid_step(self, batch: Any, step: int) -> None:
        self.log("loss", self.net(batch[0]).pow(2).mean())


class Data(DataModule):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self) -> None:
        generator = torch.Generator().manual_seed(1)
        data = TensorDataset(
            torch.randn(48, 3, generator=generator), 1.0 + torch.rand(48, generator=generator)
        )
        params = {"batch_size": self.batch_size, "shuffle": True}
        self._train_dataset = self._create_dataset(data, params)
        self._valid_dataset = self._create_dataset(data, {"batch_size": 5})


CASES = (
    EarlyPart,
    Clipped,
    Weighted,
    TwoOptimizers,
    Unprepared,
    ByHand,
    Clips,
    Sparse,
    SparseBesideDense,
    Experts,
    Whole,
)


def train(**arguments: Any) -> dict[str, Any]:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    found = {}
    for case in CASES:
        for accumulate in (1, 2):
            model = case()
            trainer = Trainer(
                total_steps=6,
                train_unit="iteration",
                use_cpu=True,
                print_banner=False,
                accumulation_steps=accumulate,
                **arguments,
            )
            trainer.fit(model, Data(8 // ranks))
            found[f"{case.__name__}-{accumulate}"] = model.weights()
    return found


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_ranks_are_like_one_process(ranks: StartRanks, count: int) -> None:
    (alone,) = ranks(1, train)
    first, *others = ranks(count, train)
    assert all(other.result == first.result for other in others)
    for name, weights in alone.result.items():
        assert first.result[name] == pytest.approx(weights, abs=TOLERANCE), name


# FSDP2, fp16, averages.


def train_sharded(folder: str) -> dict[str, Any]:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    found: dict[str, Any] = {}
    for parallel in ("ddp", "fsdp"):
        for precision in ("fp32", "fp16", "bf16"):
            for accumulate in (1, 2):
                model = Whole()
                trainer = Trainer(
                    total_steps=4,
                    train_unit="iteration",
                    use_cpu=True,
                    print_banner=False,
                    accumulation_steps=accumulate,
                    valid_frequency=2,
                    precision=precision,
                    parallel=parallel,  # type: ignore[arg-type]  # one of two texts
                    # Their averages are the weights of the validation.
                    plugins=[("ema", {"decay": 0.5}) if accumulate == 1 else ("swa", {"start": 0})],
                )
                trainer.fit(model, Data(8 // ranks))
                name = f"{parallel}-{precision}-{accumulate}"
                found[name] = [*model.weights(), model.metrics["loss"]]
    return found


def test_shards_and_small_numbers_are_like_one_process(ranks: StartRanks) -> None:
    (alone,) = ranks(1, train_sharded, "")
    first, second = ranks(2, train_sharded, "")
    assert first.result == second.result
    for name, weights in alone.result.items():
        tolerance = 1e-5 if "fp32" in name else 2e-2
        assert first.result[name] == pytest.approx(weights, abs=tolerance), name
