"""What of a model is saved: every attribute that has a state, wherever it is."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from helios import Model
from helios.errors import CheckpointError
from helios.model import stateful
from helios.testing import equal

# What torch.compile imports is PyTorch's own affair.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Empty(Model):
    """A model to give attributes to."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("empty")
        vars(self).update(attributes)

    def setup(self, fast_init: bool = False) -> None: ...


def linear(value: float = 0.0) -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def names(model: Model) -> list[str]:
    return list(model.state_dict())


def test_modules_optimizers_and_schedulers() -> None:
    net = linear()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    model = Empty(net=net, optimizer=optimizer, scheduler=scheduler, scaler=scaler, epochs=3)
    assert names(model) == ["net", "optimizer", "scheduler", "scaler"]
    assert equal(dict(model.state_dict()["net"]), {"weight": torch.zeros(1, 1)})


def test_containers() -> None:
    model = Empty(
        nets=[linear(1.0), linear(2.0)],
        pair=(linear(3.0), "no state"),
        by_name={"a": linear(4.0), 5: [linear(5.0)]},
        modules=nn.ModuleList([linear(6.0)]),
    )
    weights = {
        name: next(iter(state.values())).item() for name, state in model.state_dict().items()
    }
    assert weights == {
        "nets.0": 1.0,
        "nets.1": 2.0,
        "pair.0": 3.0,
        "by_name.a": 4.0,
        "by_name.5.0": 5.0,
        "modules": 6.0,
    }


def test_what_has_no_state_is_left_out() -> None:
    model = Empty(
        kind=nn.Linear,  # a class has the methods, but is not an object
        number=1,
        tensor=torch.zeros(1),
        text="net",
        function=linear,
        _private=linear(),
        nothing=None,
        empty=[],
    )
    assert names(model) == []


def test_anything_with_the_two_methods_is_kept() -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.count = state_dict["count"]

    class Half:
        def state_dict(self) -> dict[str, Any]:
            return {}

    model = Empty(counter=Counter(), half=Half())
    model.counter.count = 7
    state = model.state_dict()
    assert state == {"counter": {"count": 7}}
    other = Empty(counter=Counter(), half=Half())
    other.load_state_dict(state)
    assert other.counter.count == 7


def test_compiled_modules_are_unwrapped() -> None:
    compiled: Any = torch.compile(linear(1.0))
    assert any(name.startswith("_orig_mod.") for name in compiled.state_dict())
    model = Empty(net=compiled, others=[torch.compile(linear(2.0))])
    weights = {name: dict(state) for name, state in model.state_dict().items()}
    assert equal(
        weights,
        {"net": {"weight": torch.ones(1, 1)}, "others.0": {"weight": torch.full((1, 1), 2.0)}},
    )


def test_compiled_and_plain_modules_share_checkpoints() -> None:
    saved = copy.deepcopy(Empty(net=torch.compile(linear(1.0))).state_dict())
    plain = Empty(net=linear())
    plain.load_state_dict(saved)
    assert plain.net.weight.item() == 1.0
    compiled = Empty(net=torch.compile(linear()))
    compiled.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert compiled.net.weight.item() == 1.0


def test_modules_of_several_processes_are_unwrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parallel(nn.Module):  # the real one needs a process group
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Parallel)
    inner = linear(1.0)
    assert stateful.unwrap(Parallel(inner)) is inner
    assert stateful.unwrap(torch.compile(Parallel(inner))) is inner
    assert stateful.unwrap(Parallel(torch.compile(inner))) is inner
    assert list(Empty(net=Parallel(inner)).state_dict()["net"]) == ["weight"]


def test_a_module_named_module_is_not_unwrapped() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = linear()

    holder = Holder()
    assert stateful.unwrap(holder) is holder


def test_restoring() -> None:
    def create(value: float) -> Empty:
        net = linear(value)
        optimizer = torch.optim.SGD(net.parameters(), lr=value)
        return Empty(net=net, optimizers=[optimizer])

    saved, model = create(1.0), create(2.0)
    model.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert equal(model.state_dict(), saved.state_dict())
    assert model.optimizers[0].param_groups[0]["lr"] == 1.0


def test_fast_init_restores_networks_only() -> None:
    net = linear(1.0)
    saved = Empty(net=net, optimizer=torch.optim.SGD(net.parameters(), lr=1.0))
    without, net = Empty(net=linear()), linear()
    with_one = Empty(net=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.5))
    for model in (without, with_one):
        model.load_state_dict(copy.deepcopy(saved.state_dict()), fast_init=True)
        assert model.net.weight.item() == 1.0
    assert with_one.optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("fast_init", [False, True])
def test_missing_state(fast_init: bool) -> None:
    model = Empty(net=linear(2.0), encoder=linear(2.0))
    state = {"net": linear(1.0).state_dict(), "encode": linear(1.0).state_dict()}
    with pytest.raises(CheckpointError) as caught:
        model.load_state_dict(state, fast_init=fast_init)
    message = str(caught.value)
    assert "holds nothing for Empty.encoder." in message
    if not fast_init:
        assert "Did you mean 'encode'?" in message
    assert "override load_state_dict()" in message
    assert model.net.weight.item() == 2.0, "half of a state was restored"


def test_unknown_state() -> None:
    model = Empty(net=linear(2.0))
    state = {"net": linear(1.0).state_dict(), "nets": linear(1.0).state_dict()}
    with pytest.raises(CheckpointError) as caught:
        model.load_state_dict(state)
    message = str(caught.value)
    assert "a state for Empty.nets, which the model does not have after setup()" in message
    assert "Did you mean 'net'?" in message
    assert model.net.weight.item() == 2.0, "half of a state was restored"


def test_networks() -> None:
    net, inner = linear(), linear()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    model = Empty(net=net, optimizer=optimizer, compiled=torch.compile(inner), nets=[linear()])
    found = dict(model.networks())
    assert list(found) == ["net", "compiled", "nets.0"]
    assert found["net"] is net
    assert found["compiled"] is inner


def test_train_and_eval_switch_all_networks() -> None:
    model = Empty(net=linear(), nets=[linear()], compiled=torch.compile(linear()))
    every = [model.net, model.nets[0], model.compiled]
    model.eval()
    assert [net.training for net in every] == [False] * 3
    model.train()
    assert [net.training for net in every] == [True] * 3


def test_one_object_under_two_names_is_restored() -> None:
    shared = linear(1.0)
    model = Empty(net=shared, alias=shared)
    state = copy.deepcopy(model.state_dict())
    nn.init.zeros_(shared.weight)
    model.load_state_dict(state)
    assert shared.weight.item() == 1.0


@pytest.mark.parametrize(
    "nets",
    [{1: linear(1.0), "1": linear(2.0)}, {"a": {"b": linear(1.0)}, "a.b": linear(2.0)}],
    ids=["number and text", "nested and dotted"],
)
def test_keys_that_would_have_one_name_are_not_mixed_up(nets: dict[Any, Any]) -> None:
    model = Empty(nets=nets)
    try:
        state = model.state_dict()
    except CheckpointError as error:  # refusing is as good as keeping them apart
        assert "nets." in str(error)  # noqa: PT017 - one of two outcomes
    else:
        assert {part["weight"].item() for part in state.values()} == {1.0, 2.0}
