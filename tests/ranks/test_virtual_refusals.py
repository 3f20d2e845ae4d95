"""Virtual ranks refuse by name what they do not cover, and what contradicts them."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import Make
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import IterableDataset

from helios import Plugin, TrainingState
from helios.core import Alone, Place
from helios.errors import CheckpointError, ConfigurationError
from helios.model.virtual.ranks import local_ranks
from helios.testing import StopAfter, TinyDataModule, TinyModel

Batch = tuple[torch.Tensor, torch.Tensor]


class Stepping(TinyModel):
    """A model that does something in its steps, or has another network."""

    def __init__(self, step: Callable[..., Any] | None = None, net: Any = None) -> None:
        super().__init__()
        self._step = step
        self._net = net

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        if self._net is not None:
            self.extra = self._net()

    def train_step(self, batch: Batch, state: TrainingState) -> Any:
        if self._step is None:
            return super().train_step(batch, state)
        self.calls = getattr(self, "calls", 0) + 1
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        return self._step(self, loss)


def twice(model: Any, loss: torch.Tensor) -> None:
    model.optimize(loss, model.optimizer, retain_graph=True)
    model.optimize(loss, model.optimizer)


def by_hand(model: Any, loss: torch.Tensor) -> None:
    loss.backward()
    model.optimizer.step()


def schedules_always(model: Any, loss: torch.Tensor) -> None:
    model.optimize(loss, model.optimizer)
    for group in model.optimizer.param_groups:
        group["lr"] *= 0.9


def limits_weights(model: Any, loss: torch.Tensor) -> None:
    model.optimize(loss, model.optimizer)
    with torch.no_grad():
        model.net[2].weight.clamp_(-1, 1)


def limits_unseen(model: Any, loss: torch.Tensor) -> None:
    model.optimize(loss, model.optimizer)
    model.net[2].weight.data.clamp_(-0.01, 0.01)


def averages_always(model: Any, loss: torch.Tensor) -> None:
    model.optimize(loss, model.optimizer)
    with torch.no_grad():
        for one, other in zip(model.extra.parameters(), model.net[2].parameters(), strict=True):
            one.lerp_(other, 0.1)


def sometimes(model: Any, loss: torch.Tensor) -> None:
    if model.calls % 2:
        model.optimize(loss, model.optimizer)


def weighs_sometimes(model: Any, loss: torch.Tensor) -> None:
    model.optimize(loss, model.optimizer, weight=2.0 if model.calls % 2 else None)


def logs_metric(model: Any, loss: torch.Tensor) -> None:
    class Metric(nn.Module):
        update = compute = reset = lambda self: None

    model.log("metric", Metric())


def trains_on(model: Any, loss: torch.Tensor) -> None:
    norm = model.extra
    norm(torch.randn(3, 2))
    model.optimize(loss, model.optimizer)
    norm(torch.randn(3, 2))


def grows(model: Any, loss: torch.Tensor) -> None:
    model.extra.running_mean = torch.zeros(model.calls + 5)
    model.optimize(loss, model.optimizer)


def draws(model: Any, loss: torch.Tensor) -> None:
    noise = torch.rand((), generator=model.extra)
    model.optimize(loss * noise, model.optimizer)


def creates_buffer(model: Any, loss: torch.Tensor) -> None:
    model.net.register_buffer("scale", torch.ones(2))
    model.optimize(loss, model.optimizer)


STEPS: list[tuple[Callable[..., Any], Callable[[], Any] | None, str]] = [
    (twice, None, "train_step has called optimize() twice"),
    (by_hand, None, "takes a step of SGD (optimizer) by hand"),
    (schedules_always, None, "call a scheduler only if optimize() returns True"),
    (limits_weights, None, "virtual rank 0 has changed Stepping.net.2.weight, before the step"),
    (limits_unseen, None, "has changed Stepping.net.2.weight, before the step is taken"),
    (averages_always, lambda: nn.Linear(8, 2), "averages of weights, only if optimize() returns"),
    (sometimes, None, "optimize(SGD) got a loss from 1 of 2 virtual ranks"),
    (weighs_sometimes, None, "optimize(SGD) got a weight from 1 of 2 virtual ranks"),
    (logs_metric, None, "log('metric') got a Metric, which the virtual ranks of a process share"),
    (trains_on, lambda: nn.BatchNorm1d(2), "call optimize() after the last forward pass"),
    (draws, torch.Generator, "has drawn from the generator Stepping.extra, which all virtual"),
    (creates_buffer, None, "a training step creates the buffer 'net.scale'"),
    (grows, lambda: nn.BatchNorm1d(2), "changes the buffer 'extra.running_mean' from"),
]


@pytest.mark.parametrize(("step", "net", "message"), STEPS)
def test_refused_steps(
    make_trainer: Make, step: Callable[..., Any], net: Any, message: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        make_trainer(virtual_ranks=2).fit(Stepping(step, net), TinyDataModule())
    assert message in str(error.value)


def test_generator_of_the_model_in_the_last_virtual_rank(make_trainer: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"has drawn from the generator Stepping\.extra"):
        make_trainer(virtual_ranks=1).fit(Stepping(draws, torch.Generator), TinyDataModule())


NETWORKS: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: nn.SyncBatchNorm(3), "extra is a SyncBatchNorm"),
    (lambda: nn.LazyLinear(3), "extra.weight gets its shape and values only in the first forward"),
]


@pytest.mark.parametrize(("net", "message"), NETWORKS)
def test_refused_networks(make_trainer: Make, net: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        make_trainer(virtual_ranks=2).fit(Stepping(net=net), TinyDataModule())
    assert "does not cover this model" in str(error.value)
    assert message in str(error.value)


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group that consists of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS: list[tuple[Callable[[nn.Module], Any], str]] = [
    (nn.parallel.DistributedDataParallel, "extra is wrapped in DistributedDataParallel: leave"),
    (fully_shard, "as fully_shard does: leave fully_shard out"),
]


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(("wrap", "message"), WRAPPERS, ids=["ddp", "fsdp"])
def test_refused_wrappers(make_trainer: Make, wrap: Callable[..., Any], message: str) -> None:
    model = Stepping(net=lambda: wrap(nn.Linear(2, 2)))
    with pytest.raises(ConfigurationError) as error:
        make_trainer(virtual_ranks=2).fit(model, TinyDataModule())
    assert message in str(error.value)


class Sparse(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(nn.Embedding(4, 2, sparse=True))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)

    def train_step(self, batch: Batch, state: TrainingState) -> None:
        self.optimize(self.net(batch[1]).sum(), self.optimizer)


def test_sparse_gradients(make_trainer: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"sparse gradients.*sparse=False"):
        make_trainer(virtual_ranks=2).fit(Sparse(), TinyDataModule())


class Numbers(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(4), torch.tensor(0))] * 8)


class Streaming(TinyDataModule):
    def setup(self) -> None:
        super().setup()
        self._train_dataset = self._create_dataset(Numbers(), {"batch_size": 2})


class WithoutOptimizer(TinyModel):
    """Has a layer that no optimizer trains, and clips the gradients of all layers."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.optimizer = torch.optim.SGD(self.net[2].parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)


class Sees(Plugin):
    def __init__(self) -> None:
        super().__init__("sees")
        self.gradients: list[Any] = []

    def setup(self) -> None: ...

    def on_gradients_ready(self) -> None:
        net = self.trainer.model.net
        self.gradients.append((net[0].weight.grad, net[2].weight.grad is None))


def test_gradients_without_an_optimizer_are_dropped(make_trainer: Make) -> None:
    sees = Sees()
    make_trainer(virtual_ranks=2, plugins=[sees]).fit(WithoutOptimizer(), TinyDataModule())
    assert sees.gradients
    assert set(sees.gradients) == {(None, False)}


def test_streams(make_trainer: Make) -> None:
    with pytest.raises(ConfigurationError, match="cannot share the samples of Numbers"):
        make_trainer(virtual_ranks=2).fit(TinyModel(), Streaming())


def test_two_ways_to_reduce(make_trainer: Make) -> None:
    with pytest.raises(ConfigurationError, match="contradicts parallel='ddp'"):
        make_trainer(virtual_ranks=2, parallel="ddp").fit(TinyModel(), TinyDataModule())


@pytest.mark.parametrize("count", [0, -1, 2.0, "4", True])
def test_wrong_numbers(make_trainer: Make, count: Any) -> None:
    with pytest.raises(ConfigurationError, match="virtual_ranks="):
        make_trainer(virtual_ranks=count)


def test_number_of_processes_divides_it() -> None:
    place = Place(torch.device("cpu"), rank=1, world_size=4)
    assert local_ranks(8, place) == range(2, 4)
    with pytest.raises(ConfigurationError, match="Start 1 or 2 or 3 or 6 processes"):
        local_ranks(6, place)


@pytest.mark.parametrize(("before", "now"), [(2, 4), (2, None), (None, 2)])
def test_other_numbers_on_resume(
    make_trainer: Make, tmp_path: pathlib.Path, before: int | None, now: int | None
) -> None:
    stop = StopAfter(2)
    make_trainer(run_root=tmp_path, virtual_ranks=before, plugins=[stop]).fit(
        TinyModel(), TinyDataModule()
    )
    with pytest.raises(CheckpointError, match="resume with the number of virtual ranks"):
        make_trainer(run_root=tmp_path, virtual_ranks=now).fit(TinyModel(), TinyDataModule())


def test_other_threads_on_resume(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    arguments: dict[str, Any] = {"run_root": tmp_path, "virtual_ranks": 2}
    threads = torch.get_num_threads()
    make_trainer(**arguments, plugins=[StopAfter(2)]).fit(TinyModel(), TinyDataModule())
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(CheckpointError, match=rf"torch.set_num_threads\({threads}\)"):
            make_trainer(**arguments).fit(TinyModel(), TinyDataModule())
        trainer = make_trainer(**arguments)
        trainer.test(TinyModel(), TinyDataModule())  # a test trains nothing
    finally:
        torch.set_num_threads(threads)
    assert isinstance(trainer.group, Alone)
    make_trainer(**arguments).fit(TinyModel(), TinyDataModule())


def test_two_optimizers_of_one_loss(make_trainer: Make) -> None:
    class Both(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.other = torch.optim.SGD(self.net[2].parameters(), lr=0.1)
            self.optimizer = torch.optim.SGD(self.net[0].parameters(), lr=0.1)

        def train_step(self, batch: Batch, state: TrainingState) -> None:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.optimize(loss, [self.optimizer, self.other])

    state = make_trainer(virtual_ranks=2).fit(Both(), TinyDataModule())
    assert state.current_iteration == 6
