"""The arguments of plug-ins in the plan: what differs is seen, and what is equal is equal."""

import dataclasses
import datetime
import enum
import functools
import inspect
import json
import math
import pathlib
import pickle
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Make, Named

from helios import PLUGIN_REGISTRY, Plugin
from helios.errors import PlanDriftError
from helios.plugins.plans.call_record import plain, record_call
from helios.plugins.plans.drift import differences
from helios.plugins.plans.plan import PlanEntry, PluginPlan
from helios.testing import TinyDataModule, TinyModel


class Kind(enum.Enum):
    A = 1
    B = 2


class Unit(enum.StrEnum):
    EPOCH = "epoch"


class Flags(enum.Flag):
    X = 1
    Y = 2


@dataclasses.dataclass
class Schedule:
    steps: int = 3


class Sized(Named):
    """Has arguments of all sorts."""

    def __init__(self, decay: float = 0.99, size: int | float = 1, **more: Any) -> None:
        super().__init__("sized")


@dataclasses.dataclass(eq=False)
class Fielded(Named):
    steps: int = 3

    def __post_init__(self) -> None:
        super().__init__("fielded")


class Mixin:
    def __init__(self, rate: int) -> None:
        super().__init__("mixed")


class Mixed(Mixin, Named):
    pass


def planned(make_trainer: Make, *plugins: Any) -> PluginPlan:
    trainer = make_trainer(plugins=list(plugins))
    return trainer.plugin_manager.freeze()


def configuration(make_trainer: Make, plugin: Any) -> Any:
    (entry,) = planned(make_trainer, plugin).to_dict()["active"]
    return entry["configuration"]


# Values.


DIFFERENT: list[tuple[Any, ...]] = [
    (Kind.A, Kind.B, 1),
    (Flags.X, Flags.Y, Flags.X | Flags.Y),
    (pathlib.Path("runs"), pathlib.Path("other")),
    (torch.float16, torch.bfloat16, "torch.float16"),
    (torch.device("cpu"), torch.device("cuda", 1)),
    (np.dtype("int8"), np.dtype("int16")),
    (True, 1, "1", 1.5, None),
    (math.nan, math.inf, -math.inf, "inf"),
    (torch.nn.ReLU, torch.nn.GELU),
    (math.sin, math.cos),
    (functools.partial(round, ndigits=1), functools.partial(round, ndigits=2)),
    (Schedule(3), Schedule(4)),
    (b"a", b"b"),
    (torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([1.0], dtype=torch.float64)),
    (np.arange(2), np.arange(2) + 1),
    (datetime.timedelta(hours=1), datetime.timedelta(hours=2)),
    ({"a": 1}, {"a": 2}, {"b": 1}),
    ({1: "x"}, {"1": "x"}),
    ([1, 2], [2, 1], {1, 3}),
    (complex(1, 2), complex(2, 1)),
]


@pytest.mark.parametrize("values", DIFFERENT, ids=lambda values: type(values[0]).__name__)
def test_different_values_are_told_apart(values: tuple[Any, ...]) -> None:
    texts = [json.dumps(plain(value), allow_nan=False) for value in values]
    assert len(set(texts)) == len(values)


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ([1, 2], (1, 2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, frozenset({"z", "y", "x"})),
        (pathlib.Path("runs"), "runs"),
        (Unit.EPOCH, "epoch"),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (torch.device("cuda"), "cuda"),
        (torch.tensor([1.0]), torch.tensor([1.0])),
        (math.nan, -math.nan),
        (object(), object()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equal_values_in_other_spellings_are_equal(value: Any, other: Any) -> None:
    assert plain(value) == plain(other)
    plans = [
        PluginPlan((PlanEntry("a", "", "", "", (), (), configuration={"x": v}),), ())
        for v in (value, other)
    ]
    assert plans[0].digest == plans[1].digest


def test_cyclic_and_deep_values_end() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    assert "<...>" in json.dumps(plain(cyclic))
    deep: Any = {}
    for _ in range(5000):
        deep = {"deeper": deep}
    assert "<...>" in json.dumps(plain(deep))


def test_plan_json_is_valid_json(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    odd = Sized(math.inf, worst=math.nan, nested={"rates": [-math.inf]}, text='"\n\x1b')
    make_trainer(plugins=[odd], run_root=tmp_path).fit(TinyModel(), TinyDataModule())

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    (entry,) = json.loads(text, parse_constant=refuse)["active"]
    assert entry["configuration"] == {
        "decay": "<inf>",
        "size": 1,
        "worst": "<nan>",
        "nested": {"rates": ["<-inf>"]},
        "text": '"\n\x1b',
    }


# Arguments.


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Sized(), {"decay": 0.99, "size": 1}),
        (lambda: Sized(0.5, extra=3), {"decay": 0.5, "size": 1, "extra": 3}),
        (lambda: Fielded(4), {"steps": 4}),
        (lambda: Mixed(rate=7), {"rate": 7}),
        (lambda: type("Child", (Sized,), {})(decay=0.5), {"decay": 0.5, "size": 1}),
        (lambda: pickle.loads(pickle.dumps(Sized(0.5))), {"decay": 0.5, "size": 1}),
    ],
)
def test_arguments_of_an_instance(
    make_trainer: Make, make: Callable[[], Any], expected: dict[str, Any]
) -> None:
    assert configuration(make_trainer, make()) == expected


def test_arguments_are_those_of_the_outermost_constructor(make_trainer: Make) -> None:
    class Outer(Sized):
        def __init__(self, half: bool = False) -> None:
            super().__init__(decay=0.5 if half else 0.9)

    assert configuration(make_trainer, Outer(half=True)) == {"half": True}


def test_arguments_are_recorded_when_they_are_passed(make_trainer: Make) -> None:
    names = ["a"]
    plugin = Sized(names=names)
    names.append("b")
    assert configuration(make_trainer, plugin)["names"] == ["a"]


def test_the_signature_stays() -> None:
    assert str(inspect.signature(Sized)).startswith("(decay: float = 0.99, size: int | float = 1")
    with pytest.raises(TypeError, match=r"Sized.__init__\(\) takes from 1 to 3 positional"):
        Sized(1, 2, 3)  # type: ignore[call-arg]


def test_a_whole_number_for_a_float_is_a_float(make_trainer: Make) -> None:
    one, other = (configuration(make_trainer, Sized(decay)) for decay in (1, 1.0))
    assert json.dumps(one) == json.dumps(other)
    one, other = (configuration(make_trainer, Sized(size=size)) for size in (1, 1.0))
    assert json.dumps(one) != json.dumps(other)


def test_defaults_spelled_out_and_instances_are_the_same_plan(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", {"Sized": Sized})
    requests = ["Sized", ("Sized", {"decay": 0.99}), Sized(), Sized(size=1, decay=0.99)]
    assert len({planned(make_trainer, request).digest for request in requests}) == 1


def test_arguments_of_a_factory(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(level: int = 3) -> Plugin:
        return Sized(decay=level / 10)

    monkeypatch.setattr(PLUGIN_REGISTRY, "_objects", {"create": create})
    expected = {"level": 3, "decay": 0.3, "size": 1}
    assert configuration(make_trainer, "create") == expected
    assert configuration(make_trainer, ("create", {"level": 3})) == expected


def test_arguments_that_do_not_fit_fail_as_usual() -> None:
    assert record_call(Sized, (1, 2, 3), {}) == {}
    assert record_call(types.SimpleNamespace, (), {"a": 1}) in ({"a": 1}, {})


# Resuming.


def resume(make_trainer: Make, folder: pathlib.Path, *plugins: Any) -> Any:
    """Train an epoch with each plug-in; the second is strict."""
    for steps, plugin in enumerate(plugins, start=1):
        trainer = make_trainer(
            plugins=[plugin], total_steps=steps, run_root=folder, resume_plugins="strict"
        )
        trainer.fit(TinyModel(), TinyDataModule())


class SameId(Sized):
    def on_log(self) -> None: ...


class Renamed(Sized):
    pass


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (Sized(0.9), Sized(0.5), "the configuration of 'sized' changed from decay=0.9 to decay=0."),
        (Sized(), Renamed(), f"changed from the class {__name__}:Sized to {__name__}:Renamed"),
        (Sized(), SameId(), "'sized' changed its hooks from setup to setup, on_log"),
        (Sized(size=1), Sized(size=True), "changed from size=1 to size=true"),
        (Sized(), Sized(new="x"), "changed from no new to new='x'"),
        (Sized(k=Kind.A), Sized(k=Kind.B), f"k='<{__name__}.Kind.A>' to k='<{__name__}.Kind.B>'"),
        (
            Sized(dtype=torch.float16),
            Sized(dtype=torch.bfloat16),
            "dtype='<torch.float16>' to dtype='<torch.bfloat16>'",
        ),
    ],
    ids=["argument", "class", "hooks", "bool", "new", "enum", "dtype"],
)
def test_strict_sees_it(
    make_trainer: Make, tmp_path: pathlib.Path, before: Plugin, now: Plugin, told: str
) -> None:
    with pytest.raises(PlanDriftError) as caught:
        resume(make_trainer, tmp_path, before, now)
    assert told in str(caught.value)


def test_strict_lets_equal_plugins_resume(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    resume(make_trainer, tmp_path, Sized(), Sized(0.99, 1), Sized(size=1))


def test_plans_of_version_1_hold_fewer_arguments(make_trainer: Make) -> None:
    now = planned(make_trainer, Sized(0.5, path=pathlib.Path("runs"))).to_dict()
    old = json.loads(json.dumps(now))
    del old["format"]
    old["active"][0]["configuration"] = {"path": "<pathlib.PosixPath>"}
    assert differences(old, now) == []
    old["active"][0]["configuration"] = {"decay": 0.25}
    assert differences(old, now) == [
        "~ the configuration of 'sized' changed from decay=0.25 to decay=0.5"
    ]
