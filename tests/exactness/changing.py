"""Models whose attributes change at random moments, and images of these to compare two runs."""

import collections
import copy
import datetime
import decimal
import enum
import fractions
import pathlib
import random
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from helios import Model, TrainingState


class Changing(Model):
    """Changes attributes in most hooks, with its own random numbers, and steps on them.

    A class to mix into a model with a network ``net`` of several layers. ``seed`` determines what
    is changed, and when; ``changes`` counts the moments, so a moment that is repeated after a
    resume repeats its changes.
    """

    seed: int

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.changes = 0
        for kind, (create, _) in KINDS.items():
            setattr(self, kind, create())
        self.net[0].register_buffer("extra", torch.zeros(2), persistent=False)
        self.list_alias = self.a_list
        self.window = self.a_tensor[1:]
        self.bias_alias = self.net[0].bias.detach()
        self.hyper = 0.1  # never changed

    def change(self, most: int) -> None:
        """Change up to so many attributes."""
        self.changes += 1
        draws = random.Random(f"{self.seed} {self.changes}")
        for kind in draws.sample(list(KINDS), draws.randint(0, most)):
            draws.choice(KINDS[kind][1])(self, kind, draws)

    def train_step(self, batch: Any, state: TrainingState) -> Any:
        self.change(8)
        features, *rest = batch
        shift = self.window.float().sum().nan_to_num().clamp(-9, 9)
        features = features + 0.01 * shift + 0.01 * (len(self.list_alias) % 9)
        return super().train_step([features, *rest], state)

    def on_training_epoch_start(self, current_epoch: int) -> None:
        self.change(3)
        super().on_training_epoch_start(current_epoch)

    def on_training_batch_start(self, state: TrainingState) -> None:
        self.change(2)
        super().on_training_batch_start(state)

    def on_training_batch_end(self, state: TrainingState, should_log: bool = False) -> None:
        self.change(2)
        super().on_training_batch_end(state, should_log)

    def on_training_epoch_end(self, current_epoch: int) -> None:
        self.change(3)
        super().on_training_epoch_end(current_epoch)

    def on_validation_start(self, validation_cycle: int) -> None:
        self.change(3)
        super().on_validation_start(validation_cycle)

    def valid_step(self, batch: Any, step: int) -> Any:
        self.change(2)
        return super().valid_step(batch, step)

    def on_validation_end(self, validation_cycle: int) -> None:
        self.change(3)
        super().on_validation_end(validation_cycle)


class Point(NamedTuple):
    x: Any
    y: Any


class Colour(enum.Enum):
    RED = "red"
    BLUE = object()


class Side(enum.IntEnum):
    LEFT = 1


Change = Callable[[Any, str, random.Random], Any]


def rebind(create: Callable[[random.Random], Any]) -> Change:
    return lambda model, name, draws: setattr(model, name, create(draws))


def inside(change: Callable[[Any, random.Random], Any]) -> Change:
    """Make a change in the object that an attribute is."""
    return lambda model, name, draws: change(getattr(model, name), draws)


def appear(model: Any, name: str, draws: random.Random) -> None:
    setattr(model, f"{name}_{draws.randrange(3)}", plain(draws))


def delete(model: Any, name: str, draws: random.Random) -> None:
    for other in [each for each in vars(model) if each.startswith(f"{name}_")][:1]:
        delattr(model, other)


def scalar(draws: random.Random) -> Any:
    """Return a plain value without content; all of them can be keys."""
    return draws.choice(
        [
            None,
            draws.random() < 0.5,
            draws.randrange(-9, 9),
            draws.getrandbits(draws.choice([64, 5000])),
            draws.choice([draws.random(), -0.0, float("inf"), float("nan"), 5e-324]),
            complex(draws.random(), -0.0),
            draws.choice(["", "\N{GREEK SMALL LETTER LAMDA}\0\n", str(draws.random())]),
            draws.randbytes(draws.randrange(3)),
            pathlib.Path("best") / str(draws.randrange(9)),
            draws.choice([torch.bfloat16, torch.device("cpu"), torch.Size([2, 3])]),
            draws.choice([np.float32(draws.random()), np.int64(-3), np.bool_(True)]),
            draws.choice([fractions.Fraction(draws.randrange(9), 7), decimal.Decimal("-0.10")]),
            draws.choice([Colour.RED, Colour.BLUE, Side.LEFT, range(draws.randrange(3), 9, 2)]),
            draws.choice(
                [
                    datetime.timedelta(draws.randrange(9), microseconds=1),
                    datetime.date(2024, 2, 29),
                    datetime.time(1, 2, 3, 4),
                    datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
                    uuid.UUID(int=draws.getrandbits(128)),
                    pathlib.PurePosixPath("a"),
                ]
            ),
        ]
    )


def plain(draws: random.Random, depth: int = 3) -> Any:
    """Return a random plain value, nested up to so many times."""
    if depth == 0 or draws.random() < 0.3:
        return draws.choice([scalar, tensor, array])(draws)
    items = [plain(draws, depth - 1) for _ in range(draws.randrange(4))]
    items += items[:1]  # one object twice
    pairs = [(scalar(draws), item) for item in items]
    keys = [key for key, _ in pairs]
    return draws.choice(
        [
            items,
            tuple(items),
            Point(items, items),
            dict(pairs),
            slice(draws.randrange(9), None, -1),
            collections.OrderedDict(pairs),
            collections.defaultdict(draws.choice([list, int, None]), pairs),
            collections.deque(items, maxlen=draws.choice([None, 2])),
            set(keys),
            frozenset(keys),
            collections.Counter(draws.randrange(3) for _ in range(5)),
        ]
    )


def tensor(draws: random.Random) -> torch.Tensor:
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
    shape = draws.choice([(), (0,), (3,), (2, 2)])
    values = torch.tensor(draws.random()).expand(shape) * 100
    values = values.to(draws.choice([*dtypes, torch.complex64])).clone()
    return values.t() if values.dim() == 2 else values


def array(draws: random.Random) -> Any:
    shape = draws.choice([(), (0,), (3,), (2, 2)])
    values = np.full(shape, 100 * draws.random())
    return np.asarray(values, dtype=draws.choice(["f4", "f8", "i4", "?", "c8"]), order="F")


def extend(value: Any, draws: random.Random) -> None:
    """Change a random container inside a value, or add to the value itself."""
    containers = [each for each in walk(value) if isinstance(each, list | dict | set)]
    chosen = draws.choice([value, *containers])
    if isinstance(chosen, list):
        others = [each for each in containers if all(inner is not chosen for inner in walk(each))]
        chosen.append(draws.choice([plain(draws, 1), *others]))  # no list is in itself
    elif isinstance(chosen, collections.Counter):
        chosen.update([draws.randrange(3)])
    elif isinstance(chosen, dict):
        chosen[draws.randrange(4)] = plain(draws, 1)
    else:
        chosen.add(scalar(draws))


def walk(value: Any) -> Iterator[Any]:
    """Iterate over a value and what is in it."""
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen[id(each)] = each
            yield each
            waiting += each.values() if isinstance(each, dict) else ()
            waiting += each if isinstance(each, list | tuple | collections.deque) else ()


KINDS: dict[str, tuple[Callable[[], Any], list[Change]]] = {
    "an_int": (int, [rebind(lambda d: d.randrange(9)), appear, delete]),
    "a_large_int": (int, [rebind(lambda d: d.getrandbits(5000))]),
    "a_bool": (bool, [rebind(lambda d: d.random() < 0.5), rebind(lambda d: d.randrange(2))]),
    "a_float": (
        lambda: float("inf"),
        [rebind(lambda d: d.random()), rebind(lambda d: float("nan")), rebind(lambda d: -0.0)],
    ),
    "a_complex": (complex, [rebind(lambda d: complex(-0.0, d.random()))]),
    "a_text": (str, [rebind(lambda d: str(d.random()))]),
    "some_bytes": (bytes, [rebind(lambda d: d.randbytes(d.randrange(3)))]),
    "a_path": (lambda: None, [rebind(lambda d: pathlib.Path("best") / str(d.random()))]),
    "a_numpy_number": (lambda: 0.0, [rebind(lambda d: np.float64(d.random()))]),
    "a_scalar": (lambda: None, [rebind(scalar)]),
    "anything": (lambda: None, [rebind(plain)]),
    "a_nest": (list, [inside(extend), inside(extend), inside(lambda v, d: v.clear())]),
    "a_tuple": (tuple, [rebind(lambda d: (d.random(), [d.random()], torch.rand(2)))]),
    "a_set": (set, [inside(lambda v, d: v.add(d.randrange(99)))]),
    "a_list": (
        list,
        [
            inside(lambda v, d: v.append(d.random())),
            inside(lambda v, d: v.insert(0, [d.random(), torch.zeros(2)])),
            inside(lambda v, d: v and v.pop()),
        ],
    ),
    "a_dict": (
        dict,
        [
            inside(lambda v, d: v.update({d.randrange(4): d.random(), "x": torch.ones(1)})),
            inside(lambda v, d: v.clear()),
            inside(lambda v, d: v.setdefault("inner", {}).update(y=d.random())),
            lambda m, n, d: m.a_dict.update(list=m.a_list, tensor=m.a_tensor),
        ],
    ),
    "a_queue": (
        lambda: collections.deque(maxlen=3),
        [inside(lambda v, d: v.append(torch.rand(2)))],
    ),
    "counts": (collections.Counter, [inside(lambda v, d: v.update([d.randrange(3)]))]),
    "by_default": (
        lambda: collections.defaultdict(list),
        [inside(lambda v, d: v[d.randrange(3)].append(d.random()))],
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
    "any_tensor": (lambda: None, [rebind(tensor)]),
    "integers": (
        lambda: torch.zeros(2, dtype=torch.int64),
        [inside(lambda v, d: v.add_(1)), rebind(lambda d: torch.arange(d.randrange(4)))],
    ),
    "an_array": (lambda: np.zeros(2), [inside(lambda v, d: v.fill(d.randrange(9))), rebind(array)]),
    "python_random": (
        lambda: random.Random(1),
        [lambda m, n, d: setattr(m, "drawn", m.python_random.gauss(0, 1))],
    ),
    "numpy_random": (
        lambda: np.random.default_rng(1),
        [lambda m, n, d: setattr(m, "drawn", float(m.numpy_random.random()))],
    ),
    "old_numpy_random": (
        lambda: np.random.RandomState(1),
        [lambda m, n, d: setattr(m, "drawn", m.old_numpy_random.standard_normal())],
    ),
    "a_byte_array": (bytearray, [inside(lambda v, d: v.append(d.randrange(256)))]),
    "a_namespace": (
        types.SimpleNamespace,
        [inside(lambda v, d: setattr(v, d.choice("ab"), plain(d, 1)))],
    ),
    "torch_random": (
        lambda: torch.Generator().manual_seed(1),
        [lambda m, n, d: setattr(m, "drawn", torch.rand(2, generator=m.torch_random))],
    ),
    "in_modules": (
        lambda: None,
        [
            lambda m, n, d: setattr(m.net[-2], "p", d.random() / 2),  # of the dropout
            lambda m, n, d: setattr(m.net[-1], "note", plain(d)),
            lambda m, n, d: m.net[-2].train(d.random() < 0.5),
            lambda m, n, d: m.net[0].requires_grad_(d.random() < 0.5),
            lambda m, n, d: m.net[0].extra.add_(d.random()),
        ],
    ),
}


# Images.


def everything(model: Any) -> dict[str, Any]:
    """Return all that must be equal, also what belongs together."""
    image = Image()
    attributes = {
        name: image.of(value, name) for name, value in vars(model).items() if is_mine(name)
    }
    for name, parameter in model.net.named_parameters():
        image.of(parameter, name)
    modules = [
        [m.training, image.of(getattr(m, "p", None)), image.of(getattr(m, "note", None))]
        for m in model.net
    ]
    return {
        "model": model.state_dict(),
        "attributes": dict(sorted(attributes.items())),
        "modules": modules,
        "extra": image.of(model.net[0].extra),
        "requires_grad": [parameter.requires_grad for parameter in model.net.parameters()],
        "shared memory": image.shared_memory(),
    }


def is_mine(name: str) -> bool:
    return not name.startswith("_") and name not in ("net", "optimizer", "scheduler")


class Image:
    """Describes values by text and lists, with all their bits, and with what is one object."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._objects: dict[str, Any] = {}

    def of(self, value: Any, path: str = "") -> Any:
        """Return the image of a value; ``path`` names its objects."""
        label = type(value).__name__
        if isinstance(value, np.generic):
            return f"{label} {value.tobytes().hex()}"
        if isinstance(value, tuple | frozenset) or not has_content(value):
            if isinstance(value, torch.Size) or not has_content(value):
                return f"{label} {value!r}"  # all the digits of a number
        elif id(value) in self._paths:
            return f"the same as {self._paths[id(value)]}"
        else:
            self._paths[id(value)] = path
            self._objects[path] = value
        if isinstance(value, types.SimpleNamespace):
            return [label, self.of(vars(value), path)]
        if isinstance(value, set | frozenset):
            return [label, sorted(str(self.of(each)) for each in value)]
        if isinstance(value, dict):
            pairs = [[self.of(k), self.of(v, f"{path}[{k!r}]")] for k, v in value.items()]
            return [label, str(getattr(value, "default_factory", "")), pairs]
        if isinstance(value, list | tuple | collections.deque):
            items = [self.of(each, f"{path}.{number}") for number, each in enumerate(value)]
            return [label, getattr(value, "maxlen", None), items]
        return [label, *bits(value)]

    def shared_memory(self) -> list[list[Any]]:
        """Return the tensors that share memory, and where they are in it."""
        tensors = {p: v for p, v in self._objects.items() if isinstance(v, torch.Tensor)}
        users = collections.defaultdict(list)
        for path, each in tensors.items():
            place = [path, each.storage_offset(), list(each.shape), list(each.stride())]
            users[each.untyped_storage().data_ptr()].append(place)
        return sorted(each for memory, each in users.items() if memory and len(each) > 1)


def has_content(value: Any) -> bool:
    containers = list | tuple | set | frozenset | dict | collections.deque
    generators = random.Random | np.random.Generator | np.random.RandomState | torch.Generator
    others = torch.Tensor | np.ndarray | bytearray | types.SimpleNamespace
    return isinstance(value, containers | generators | others)


def bits(value: Any) -> list[str]:
    if isinstance(value, random.Random):
        return [repr(value.getstate())]
    if isinstance(value, np.random.Generator):
        return [repr(value.bit_generator.state)]
    if isinstance(value, np.random.RandomState):
        return [repr(value.get_state(legacy=False))]
    if isinstance(value, bytearray):
        return [value.hex()]
    if isinstance(value, torch.Generator):
        value = value.get_state()
    if isinstance(value, np.ndarray):
        return [str(value.dtype), str(value.shape), value.tobytes().hex()]
    data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return [str(value.dtype), str(tuple(value.shape)), data.hex()]
