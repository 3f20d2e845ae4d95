"""What training changes in the attributes of a model is the same in a resumed run."""

import collections
import copy
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Make

from helios import TrainingState
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

BATCHES = 6  # an epoch of TinyDataModule
EPOCHS = 3
CUTS = (1, 5, 6, 9, 14)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Changing(TinyModel):
    """Changes attributes at random moments, with its own random numbers, and steps on them.

    Args:
        seed: determines what is changed, and when.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        for kind, (create, _) in KINDS.items():
            setattr(self, kind, create())
        self.list_alias = self.a_list
        self.window = self.a_tensor[1:]
        self.bias_alias = self.net[0].bias.detach()
        self.hyper = 0.1  # never changed

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        draws = random.Random(1000 * self._seed + state.global_iteration)
        for kind in draws.sample(list(KINDS), 4):
            change = draws.choice(KINDS[kind][1])
            change(self, kind, draws)
        features, labels = batch
        features = features + 0.01 * self.window.sum() + 0.01 * len(self.list_alias)
        return super().train_step((features, labels), state)


Change = Callable[[Any, str, random.Random], Any]


def rebind(create: Callable[[random.Random], Any]) -> Change:
    return lambda model, name, draws: setattr(model, name, create(draws))


def appear(model: Any, name: str, draws: random.Random) -> None:
    setattr(model, f"{name}_{draws.randrange(3)}", draws.random())


def delete(model: Any, name: str, draws: random.Random) -> None:
    for other in [each for each in vars(model) if each.startswith(f"{name}_")][:1]:
        delattr(model, other)


KINDS: dict[str, tuple[Callable[[], Any], list[Change]]] = {
    "an_int": (int, [rebind(lambda d: d.randrange(9)), appear, delete]),
    "a_large_int": (int, [rebind(lambda d: d.getrandbits(5000))]),
    "a_bool": (bool, [rebind(lambda d: d.random() < 0.5), rebind(lambda d: d.randrange(2))]),
    "a_float": (
        lambda: float("inf"),
        [rebind(lambda d: d.random()), rebind(lambda d: float("nan")), rebind(lambda d: -0.0)],
    ),
    "a_text": (str, [rebind(lambda d: str(d.random()))]),
    "some_bytes": (bytes, [rebind(lambda d: d.randbytes(d.randrange(3)))]),
    "a_path": (lambda: None, [rebind(lambda d: pathlib.Path("best") / str(d.random()))]),
    "a_numpy_number": (lambda: 0.0, [rebind(lambda d: np.float64(d.random()))]),
    "a_tuple": (tuple, [rebind(lambda d: (d.random(), [d.random()], torch.rand(2)))]),
    "a_set": (set, [lambda m, n, d: getattr(m, n).add(d.randrange(99))]),
    "a_list": (
        list,
        [
            lambda m, n, d: m.a_list.append(d.random()),
            lambda m, n, d: m.a_list.insert(0, [d.random(), torch.zeros(2)]),
            lambda m, n, d: m.a_list and m.a_list.pop(),
        ],
    ),
    "a_dict": (
        dict,
        [
            lambda m, n, d: m.a_dict.update({d.randrange(4): d.random(), "x": torch.ones(1)}),
            lambda m, n, d: m.a_dict.clear(),
            lambda m, n, d: m.a_dict.setdefault("inner", {}).update(y=d.random()),
        ],
    ),
    "a_queue": (
        lambda: collections.deque(maxlen=3),
        [lambda m, n, d: m.a_queue.append(torch.rand(2))],
    ),
    "counts": (collections.Counter, [lambda m, n, d: m.counts.update([d.randrange(3)])]),
    "by_default": (
        lambda: collections.defaultdict(list),
        [lambda m, n, d: m.by_default[d.randrange(3)].append(d.random())],
    ),
    "a_tensor": (
        lambda: torch.zeros(3),
        [
            lambda m, n, d: m.a_tensor.add_(d.random()),
            lambda m, n, d: m.a_tensor.data.mul_(0.5),
            lambda m, n, d: m.window.add_(d.random()),
            lambda m, n, d: setattr(m, "window", m.a_tensor[:2]),
            lambda m, n, d: setattr(m, "window", m.net[0].weight[0].detach()),
            lambda m, n, d: m.a_list.append(m.a_tensor),
            lambda m, n, d: setattr(m, "other", copy.deepcopy(m.net.state_dict())),
            rebind(lambda d: torch.rand(3)),
            rebind(lambda d: torch.tensor([1.0, float("nan"), d.random()])),
        ],
    ),
    "integers": (
        lambda: torch.zeros(2, dtype=torch.int64),
        [lambda m, n, d: m.integers.add_(1), rebind(lambda d: torch.arange(d.randrange(4)))],
    ),
    "an_array": (lambda: np.zeros(2), [lambda m, n, d: np.add(m.an_array, 1, out=m.an_array)]),
    "python_random": (
        lambda: random.Random(1),
        [lambda m, n, d: setattr(m, "drawn", m.python_random.gauss(0, 1))],
    ),
    "numpy_random": (
        lambda: np.random.default_rng(1),
        [lambda m, n, d: setattr(m, "drawn", float(m.numpy_random.random()))],
    ),
    "in_modules": (
        lambda: None,
        [
            lambda m, n, d: setattr(m.net[1], "p", d.random() / 2),
            lambda m, n, d: setattr(m.net[2], "note", [d.random()]),
            lambda m, n, d: m.net[1].train(d.random() < 0.5),
            lambda m, n, d: m.net[0].requires_grad_(d.random() < 0.5),
        ],
    ),
}


def train(
    make_trainer: Make, root: pathlib.Path, model: TinyModel, stop_after: int | None = None
) -> dict[str, Any]:
    make_trainer(
        total_steps=EPOCHS, valid_frequency=1, chkpt_root=root, plugins=[StopAfter(stop_after)]
    ).fit(model, TinyDataModule())
    return everything(model)


def everything(model: Any) -> dict[str, Any]:
    """Return all that must be equal, also what belongs together."""
    attributes = {name: comparable(value) for name, value in vars(model).items() if is_mine(name)}
    aliases = {
        "list": model.a_list is model.list_alias if hasattr(model, "a_list") else None,
        "memory": sharing(model),
    }
    modules = [(m.training, getattr(m, "p", None), getattr(m, "note", None)) for m in model.net]
    gradients = [parameter.requires_grad for parameter in model.net.parameters()]
    return {
        "model": model.state_dict(),
        "attributes": attributes,
        "aliases": aliases,
        "modules": repr(modules),
        "requires_grad": gradients,
    }


def is_mine(name: str) -> bool:
    return not name.startswith("_") and name not in ("net", "optimizer", "scheduler")


def comparable(value: Any) -> Any:
    if isinstance(value, set):
        value = sorted(value)
    if isinstance(value, np.random.Generator):
        value = value.bit_generator.state
    return value.getstate() if isinstance(value, random.Random) else repr(value)


def sharing(model: Any) -> list[tuple[str, str]]:
    """Return the pairs of tensors that share memory."""
    tensors = {n: v for n, v in vars(model).items() if is_mine(n) and isinstance(v, torch.Tensor)}
    tensors |= dict(model.net.named_parameters())
    pointers = {name: each.untyped_storage().data_ptr() for name, each in tensors.items()}
    return [(a, b) for a in pointers for b in pointers if a < b and pointers[a] == pointers[b] != 0]


@pytest.mark.parametrize("seed", range(12))
def test_random_models(make_trainer: Make, tmp_path: pathlib.Path, seed: int) -> None:
    whole = train(make_trainer, tmp_path / "whole", Changing(seed))
    for cut in random.Random(seed).sample(range(1, BATCHES * EPOCHS), 3):
        root = tmp_path / str(cut)
        train(make_trainer, root, Changing(seed), cut)
        train(make_trainer, root, Changing(seed), 1)  # and once more, a batch later
        resumed = train(make_trainer, root, Changing(seed))
        assert whole["attributes"] == resumed["attributes"], cut
        different = [name for name in whole if not equal(whole[name], resumed[name])]
        assert different == [], cut


class Frozen(TinyModel):
    """Trains the head first, and a module more from the second epoch on."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.net[0].requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.net[2].parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)

    def on_training_epoch_start(self, current_epoch: int) -> None:
        if current_epoch == 1:
            self.net[0].requires_grad_(True)
            group = {"params": list(self.net[0].parameters()), "lr": 0.01}
            self.optimizer.add_param_group(group)


@pytest.mark.parametrize("cut", CUTS)
def test_parameter_groups(make_trainer: Make, tmp_path: pathlib.Path, cut: int) -> None:
    def fit(root: pathlib.Path, stop_after: int | None = None) -> Any:
        model = Frozen()
        make_trainer(total_steps=EPOCHS, chkpt_root=root, plugins=[StopAfter(stop_after)]).fit(
            model, TinyDataModule()
        )
        return model

    whole = fit(tmp_path / "whole")
    fit(tmp_path / "cut", cut)
    resumed = fit(tmp_path / "cut")
    assert equal(whole.state_dict(), resumed.state_dict())
    assert resumed.net[0].weight.requires_grad
    assert len(resumed.optimizer.param_groups) == 2
