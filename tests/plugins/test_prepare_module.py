"""The chain of ``prepare_module``: the order, the devices, the last plug-in, and errors."""

from typing import Any

import pytest
import torch
from helpers import Make, Named, UserError, notes_of
from torch import nn

from helios import hookimpl
from helios.errors import InvalidPluginError, PluginConflictError
from helios.testing import TinyDataModule, TinyModel


class Wrapped(nn.Module):
    """Remembers who has wrapped a network."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.inner = inner
        self.name = name

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


class Wrapping(Named):
    """Wraps networks."""

    def prepare_module(self, module: nn.Module) -> nn.Module:
        return Wrapped(module, self.plug_id)


class Early(Wrapping):
    @hookimpl(tryfirst=True)
    def prepare_module(self, module: nn.Module) -> nn.Module:
        return Wrapped(module, self.plug_id)


class Parallel(Early):
    exclusives = ("Module",)


class Watching(Named):
    @hookimpl(wrapper=True)
    def prepare_module(self) -> Any:
        result = yield
        self._seen = names_in(result)
        return result


def names_in(module: Any) -> list[str]:
    """Return who has wrapped a network, the first one first."""
    names = []
    while isinstance(module, Wrapped):
        names.insert(0, module.name)
        module = module.inner
    return names


def prepared(make_trainer: Make, *plugins: Any) -> list[str]:
    model = TinyModel()
    make_trainer(plugins=plugins, total_steps=1).fit(model, TinyDataModule())
    return names_in(model.net)


def test_each_receives_what_the_one_before_returned(make_trainer: Make) -> None:
    assert prepared(make_trainer, Wrapping("b"), Wrapping("a"), Early("c")) == ["c", "b", "a"]
    ordered = type("Ordered", (Wrapping,), {"before": ("b",)})("a")
    assert prepared(make_trainer, Wrapping("b"), ordered) == ["a", "b"]


def test_the_plugin_with_the_claim_comes_last_and_is_the_only_one(make_trainer: Make) -> None:
    watching = Watching("watching")
    plugins = Parallel("parallel"), Wrapping("b"), watching, Early("c")
    assert prepared(make_trainer, *plugins) == ["c", "b", "parallel"]
    assert watching._seen == ["c", "b", "parallel"]
    with pytest.raises(PluginConflictError, match="claim 'Module'"):
        make_trainer(plugins=[Parallel("one"), Parallel("two")])


@pytest.mark.parametrize("monitored", [False, True])
def test_every_plugin_receives_a_network_on_the_device(make_trainer: Make, monitored: bool) -> None:
    """The meta device stands for a GPU."""
    devices: list[set[str]] = []

    def devices_of(module: nn.Module) -> set[str]:
        return {each.device.type for each in (*module.parameters(), *module.buffers())}

    class Adding(Named):
        def prepare_module(self, module: nn.Module) -> nn.Module:
            devices.append(devices_of(module))
            return nn.Sequential(module, nn.Linear(1, 1), nn.BatchNorm1d(1))

    class Offloading(Adding):
        exclusives = ("module",)

    for last in [Adding("c"), Offloading("c")]:
        trainer = make_trainer(plugins=[last, Adding("a"), Adding("b")])
        manager = trainer.plugin_manager
        if monitored:
            manager.add_hookcall_monitoring(lambda *_: None, lambda *_: None)
        manager.built_in.device = torch.device("meta")
        call = manager.arrange().prepare_module
        assert call is not None
        devices.append(devices_of(call(module=nn.Linear(1, 1))))
    meta, mixed = {"meta"}, {"meta", "cpu"}
    assert devices == [meta, meta, meta, meta, meta, meta, meta, mixed]


def test_a_network_without_data_is_left_to_the_plugins(make_trainer: Make) -> None:
    class Creating(Named):
        def prepare_module(self, module: nn.Module) -> nn.Module:
            assert module[0].weight.is_meta  # type: ignore[index, union-attr]
            return nn.Sequential(nn.Linear(4, 2))

    class WithoutData(TinyModel):
        def prepare(self, module: nn.Module, *, compile: bool = False) -> nn.Module:  # noqa: A002 - torch's name for it
            return super().prepare(module.to("meta"))

    trainer = make_trainer(plugins=[Creating("creating")])
    assert trainer.fit(WithoutData(), TinyDataModule()).global_iteration == 12


class Failing(Wrapping):
    def prepare_module(self, module: nn.Module) -> nn.Module:
        raise UserError("in the chain")


class FailingObserver(Failing):
    critical = False


@pytest.mark.parametrize("failing", [Failing, FailingObserver])
@pytest.mark.parametrize("more", [(), (Watching("watching"),)])
def test_an_error_ends_the_run_and_names_the_plugin(
    make_trainer: Make, failing: Any, more: Any
) -> None:
    with pytest.raises(UserError) as caught:
        prepared(make_trainer, Wrapping("a"), failing("b"), Wrapping("c"), *more)
    assert "raised in prepare_module of plug-in 'b'" in notes_of(caught.value)[-1]


def test_nothing_returned_is_an_error_that_names_the_plugin(make_trainer: Make) -> None:
    class Forgetful(Named):
        def prepare_module(self, module: nn.Module) -> Any:
            module.to("cpu")

    with pytest.raises(InvalidPluginError, match=r"'b' .* returned None from prepare_module"):
        prepared(make_trainer, Wrapping("a"), Forgetful("b"), Wrapping("c"))
