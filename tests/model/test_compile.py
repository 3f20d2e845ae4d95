"""``prepare(..., compile=True)``: a network that is really compiled."""

import os
import pathlib
import shutil
from typing import Any

import pytest
import torch
from helpers import Make
from torch import nn

from helios import Plugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

COMPILER = os.environ.get("CXX", "g++")

pytestmark = [
    pytest.mark.skipif(
        shutil.which(COMPILER) is None,
        reason=f"torch.compile needs a C++ compiler, and there is no {COMPILER}",
    ),
    pytest.mark.filterwarnings("default"),  # what torch warns of while it compiles is its own
]


class Compiled(TinyModel):
    """Has a network of PyTorch's own class, compiled or not."""

    def __init__(self, compile_it: bool) -> None:
        super().__init__()
        self._compile_it = compile_it

    def setup(self, fast_init: bool = False) -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
        self.net = self.prepare(net, compile=self._compile_it)
        assert (self.net is net) is not self._compile_it
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3, gamma=0.9)


@pytest.fixture(scope="module", autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def train(
    make_trainer: Make, root: pathlib.Path, compile_it: bool, stop_after: int | None = None
) -> dict[str, Any]:
    model = Compiled(compile_it)
    make_trainer(valid_frequency=1, chkpt_root=root, plugins=[StopAfter(stop_after)]).fit(
        model, TinyDataModule()
    )
    return model.state_dict()


def test_state_is_that_of_the_network(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    eager = train(make_trainer, tmp_path / "eager", compile_it=False)
    assert counters["stats"]["unique_graphs"] == 0
    compiled = train(make_trainer, tmp_path / "compiled", compile_it=True)
    assert counters["stats"]["unique_graphs"] > 0
    assert list(compiled["net"]) == list(eager["net"])
    torch.testing.assert_close(compiled["net"], eager["net"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop_after", [4, 6, 8])  # so that other shapes of batches come first
def test_resumed_run_is_the_whole_run(
    make_trainer: Make, tmp_path: pathlib.Path, stop_after: int
) -> None:
    whole = train(make_trainer, tmp_path / "whole", compile_it=True)
    torch.compiler.reset()  # as in a new process
    train(make_trainer, tmp_path / "cut", compile_it=True, stop_after=stop_after)
    torch.compiler.reset()
    resumed = train(make_trainer, tmp_path / "cut", compile_it=True)
    assert equal(whole, resumed)


def test_compiled_run_goes_on_without_compiling(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    train(make_trainer, tmp_path, compile_it=True, stop_after=4)
    assert train(make_trainer, tmp_path, compile_it=False)["scheduler"]["last_epoch"] == 12


def test_what_a_plugin_wraps_is_compiled(make_trainer: Make) -> None:
    class Wrapping(Plugin):
        def __init__(self) -> None:
            super().__init__("wrapping")

        def setup(self) -> None: ...

        def prepare_module(self, module: nn.Module) -> nn.Module:
            self.wrapped = nn.Sequential(module)
            return self.wrapped

    class Wrapped(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.net = self.prepare(nn.Linear(4, 2), compile=True)

    wrapping, model = Wrapping(), Wrapped()
    make_trainer(plugins=[wrapping]).test(model, TinyDataModule())
    assert model.net._orig_mod is wrapping.wrapped
    assert list(model.state_dict()["net"]) == ["0.weight", "0.bias"]
