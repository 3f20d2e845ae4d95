"""Networks that are narrow, late, replaced, extended, lazy, or impossible to copy."""

import copy
import os
import pathlib
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helios_ema import AveragedNetwork, EMAPlugin
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import helios
from helios import Trainer
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel, equal

NARROW = [torch.float16, torch.bfloat16]


def fit(model: helios.Model, *plugins: Any, decay: float = 0.8, **arguments: Any) -> EMAPlugin:
    """Train a model with the plug-in, and return the plug-in."""
    plugin = EMAPlugin(decay)
    defaults = {"total_steps": 2, "use_cpu": True, "print_banner": False, "autoload": False}
    trainer = Trainer(
        **{**defaults, "valid_frequency": 1, "plugins": [plugin, *plugins], **arguments}
    )
    trainer.fit(model, TinyDataModule())
    return plugin


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


class Built(TinyModel):
    """Has a network of the test's choice, and remembers its weights after each step."""

    def __init__(self, build: Callable[[], nn.Module] | None = None) -> None:
        super().__init__("built")
        self._build = build or self.make_network
        self._steps: list[dict[str, torch.Tensor]] = []
        self._seen: list[dict[str, torch.Tensor]] = []

    def make_network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(self._build())
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)

    def compute(self, features: torch.Tensor) -> torch.Tensor:
        return self.net(features)

    def train_step(self, batch: Any, state: Any) -> None:
        loss = nn.functional.cross_entropy(self.compute(batch[0]).float(), batch[1])
        self.optimize(loss, self.optimizer)
        self._steps.append(weights(self.net))

    def valid_step(self, batch: Any, step: int) -> None:
        self.compute(batch[0])
        self._seen.append(weights(self.net))


def mean(steps: list[torch.Tensor], decay: float) -> torch.Tensor:
    """Average tensors with PyTorch's own class, in 32 bits."""
    average = None
    for step in steps:
        holder = nn.ParameterList([step.float()])
        average = average or AveragedModel(holder, multi_avg_fn=get_ema_multi_avg_fn(decay))
        average.update_parameters(holder)
    assert average is not None
    return average.module[0].detach()


# Narrow weights.


@pytest.mark.parametrize("dtype", NARROW)
def test_run_of_narrow_weights(dtype: torch.dtype, tmp_path: pathlib.Path) -> None:
    class Narrow(Built):
        def make_network(self) -> nn.Module:
            network = super().make_network().to(dtype)
            network.register_buffer("scale", torch.ones(2, dtype=dtype))
            network.register_buffer("codes", torch.arange(3))
            return network

        def compute(self, features: torch.Tensor) -> torch.Tensor:
            return self.net(features.to(dtype))

    model = Narrow()
    plugin = fit(model, decay=0.99, run_root=tmp_path, total_steps=3)
    expected = {
        name: mean([s[name] for s in model._steps], 0.99) for name in ("0.weight", "1.bias")
    }
    for name, average in expected.items():
        assert equal(dict(plugin.averages["net"].module.named_parameters())[name].detach(), average)
        assert equal(model._seen[-1][name], average.to(dtype))
    assert equal(weights(model.net), model._steps[-1])
    module = plugin.averages["net"].module
    assert module(torch.ones(1, 4)).dtype == torch.float32
    assert (module.scale.dtype, module.codes.dtype) == (torch.float32, torch.int64)
    resumed = fit(Narrow(), decay=0.99, run_root=tmp_path, total_steps=3)
    assert equal(resumed.state_dict(), plugin.state_dict())


class Release01(helios.Plugin):
    """Averages as release 0.1 of helios-ema did, and saves what it saved."""

    def __init__(self) -> None:
        super().__init__("ema")

    def setup(self) -> None:
        pass

    def on_training_start(self) -> None:
        self._average = AveragedModel(
            self.trainer.model.net, multi_avg_fn=get_ema_multi_avg_fn(0.8)
        )

    def on_training_batch_end(self) -> None:
        self._average.update_parameters(self.trainer.model.net)

    def state_dict(self) -> dict[str, Any]:
        return {"net": self._average.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class StopAfter:
    def __init__(self, batches: int) -> None:
        self._batches = batches

    @helios.hookimpl
    def configure_trainer(self, trainer: Trainer) -> None:
        self._trainer = trainer

    @helios.hookimpl
    def on_training_batch_end(self, state: Any) -> None:
        if state.running_iter == self._batches:
            self._trainer.request_stop("enough for this test")


def test_checkpoint_of_release_0_1(tmp_path: pathlib.Path, log: pytest.LogCaptureFixture) -> None:
    class Masked(Built):
        def make_network(self) -> nn.Module:
            network = super().make_network()
            network.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
            return network

    Trainer(
        total_steps=2,
        use_cpu=True,
        print_banner=False,
        autoload=False,
        run_root=tmp_path,
        plugins=[Release01(), StopAfter(5)],
    ).fit(Masked(), TinyDataModule())
    resumed = fit(Masked(), run_root=tmp_path)
    whole = fit(Masked())
    assert equal(resumed.state_dict(), whole.state_dict())
    assert "do not fit" not in log.text


# Networks that change.


def test_replaced_network_gets_a_new_average(log: pytest.LogCaptureFixture) -> None:
    class Replaced(Built):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            if current_epoch == 1:
                self.net = self.make_network()
                self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)

    model = Replaced()
    plugin = fit(model)
    expected = mean([step["0.weight"] for step in model._steps[6:]], 0.8)
    assert equal(plugin.averages["net"].module[0].weight.detach(), expected)
    assert equal(model._seen[-1]["0.weight"], expected)
    assert plugin.averages["net"].n_averaged == 6
    assert equal(weights(model.net), model._steps[-1])
    assert "averages 4 tensors of 'net' only from iteration 7 on" in log.text


def test_late_network(log: pytest.LogCaptureFixture) -> None:
    class Late(Built):
        def on_training_start(self) -> None:
            self.head = self.prepare(nn.Linear(2, 2))
            self.optimizer.add_param_group({"params": self.head.parameters()})
            self._heads: list[torch.Tensor] = []

        def compute(self, features: torch.Tensor) -> torch.Tensor:
            return self.head(self.net(features))

        def on_training_batch_end(self, state: Any, should_log: bool = False) -> None:
            self._heads.append(self.head.weight.detach().clone())

    model = Late()
    plugin = fit(model)
    assert list(plugin.averages) == ["net", "head"]
    assert equal(plugin.averages["head"].module.weight.detach(), mean(model._heads, 0.8))
    assert "only from" not in log.text  # it was there at the first step


class Growing(Built):
    """Gets a layer in its second epoch, in front of the one that it had; resumes with it."""

    def grow(self) -> None:
        self.net.insert(0, nn.Linear(4, 4))
        nn.init.eye_(self.net[0].weight)
        self.optimizer.add_param_group({"params": self.net[0].parameters()})

    def on_training_epoch_start(self, current_epoch: int) -> None:
        if current_epoch == 1:
            self.grow()

    def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
        if len(state_dict["net"]) > len(self.net.state_dict()):
            self.grow()
        super().load_state_dict(state_dict, fast_init)


def test_extended_network_keeps_the_averages_that_it_had(log: pytest.LogCaptureFixture) -> None:
    model = Growing()
    plugin = fit(model)
    steps = [step["0.weight"] for step in model._steps[:6]]
    steps += [step["1.weight"] for step in model._steps[6:]]
    assert equal(plugin.averages["net"].module[1].weight.detach(), mean(steps, 0.8))
    new = mean([step["0.weight"] for step in model._steps[6:]], 0.8)
    assert equal(plugin.averages["net"].module[0].weight.detach(), new)
    assert equal(model._seen[-1]["0.weight"], new)
    assert "'net' only from iteration 7 on: 0.weight, 0.bias" in log.text


class Replacing(Built):
    """Wraps its network in a new one at the end of an epoch, after the validation."""

    def wrap(self) -> None:
        self.net = nn.Sequential(self.net, nn.Linear(2, 2))
        self.optimizer.add_param_group({"params": self.net[1].parameters()})

    def on_training_epoch_end(self, current_epoch: int) -> None:
        if current_epoch == 0:
            self.wrap()

    def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
        if "0.0.weight" in state_dict["net"]:
            self.wrap()
        super().load_state_dict(state_dict, fast_init)


@pytest.mark.parametrize("create", [Growing, Replacing])
@pytest.mark.parametrize("batches", [3, 6, 7, 11])
def test_resumed_run_of_a_changing_network(
    create: Callable[[], Built], batches: int, tmp_path: pathlib.Path
) -> None:
    whole, resumed = create(), create()
    expected = fit(whole, total_steps=3, chkpt_frequency=1, chkpt_root=tmp_path / "whole")
    options = {"total_steps": 3, "chkpt_frequency": 1, "chkpt_root": tmp_path / "cut"}
    fit(create(), StopAfter(batches), **options)
    found = fit(resumed, **options)
    assert equal(found.state_dict(), expected.state_dict())
    assert equal(resumed.state_dict(), whole.state_dict())
    assert equal(resumed._seen[-1], whole._seen[-1])


def test_wrapped_network_keeps_its_averages() -> None:
    model = Replacing()
    plugin = fit(model)
    steps = [step["0.weight"] for step in model._steps[:6]]
    steps += [step["0.0.weight"] for step in model._steps[6:]]
    assert equal(plugin.averages["net"].module[0][0].weight.detach(), mean(steps, 0.8))


def test_second_name_of_a_network_gets_the_same_average() -> None:
    class Alias(Built):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            if current_epoch == 1:
                self.head = self.net[1]

    plugin = fit(Alias())
    assert equal(weights(plugin.averages["head"].module), weights(plugin.averages["net"].module[1]))


def test_removed_network_is_forgotten() -> None:
    class Removing(Built):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.helper = nn.Linear(2, 2)

        def on_training_epoch_end(self, current_epoch: int) -> None:
            if current_epoch == 0:
                del self.helper

    plugin = fit(Removing())
    assert list(plugin.averages) == list(plugin.state_dict()) == ["net"]


def test_lazy_network() -> None:
    model = Built(lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Linear(8, 2)))
    plugin = fit(model)
    expected = mean([step["0.weight"] for step in model._steps], 0.8)
    assert equal(plugin.averages["net"].module[0].weight.detach(), expected)
    assert equal(model._seen[-1]["0.weight"], expected)
    statistics = mean([step["1.running_mean"] for step in model._steps], 0.8)
    assert equal(model._seen[-1]["1.running_mean"], statistics)


def test_parameter_that_changes_its_size_gets_a_new_average() -> None:
    class Resizing(Built):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            if current_epoch == 1:
                self.net[0].weight.data = torch.ones(9, 4)
                self.net[0].bias = nn.Parameter(torch.ones(9))
                self.net[1].weight.data = torch.ones(2, 9)
                self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)

    model = Resizing()
    plugin = fit(model)
    for index in (0, 1):
        expected = mean([step[f"{index}.weight"] for step in model._steps[6:]], 0.8)
        assert equal(plugin.averages["net"].module[index].weight.detach(), expected)
    expected = mean([step["1.bias"] for step in model._steps], 0.8)
    assert equal(plugin.averages["net"].module[1].bias.detach(), expected)


def test_weights_return_to_a_network_that_moves_during_a_validation() -> None:
    class Moving(Built):
        def on_validation_start(self, validation_cycle: int) -> None:
            self.net.double()

        def on_validation_end(self, validation_cycle: int) -> None:
            self.net.float()

        def compute(self, features: torch.Tensor) -> torch.Tensor:
            return self.net(features.to(self.net[0].weight.dtype))

    model = Moving()
    fit(model, total_steps=1)
    assert equal(weights(model.net), model._steps[-1])


def test_restored_average_that_fits_no_tensor_is_named(
    tmp_path: pathlib.Path, log: pytest.LogCaptureFixture
) -> None:
    class Renamed(Built):
        def make_network(self) -> nn.Module:
            return nn.ModuleDict({"first": nn.Linear(4, 8), "1": nn.Linear(8, 2)})

        def compute(self, features: torch.Tensor) -> torch.Tensor:
            return self.net["1"](self.net["first"](features))

        def load_state_dict(self, state_dict: dict[str, Any], fast_init: bool = False) -> None:
            old = state_dict["net"]
            new = {name.replace("0.", "first."): tensor for name, tensor in old.items()}
            super().load_state_dict({**state_dict, "net": new}, fast_init)

    fit(Built(), chkpt_root=tmp_path, total_steps=1)
    model = Renamed()
    plugin = fit(model, chkpt_root=tmp_path)
    assert "do not fit the networks of the model, and drops them: net.0.weight, net.0." in log.text
    assert "net.1.weight" not in log.text
    steps = [step["first.weight"] for step in model._steps]
    assert equal(plugin.averages["net"].module["first"].weight.detach(), mean(steps, 0.8))


# Networks that cannot be copied, or only with care.


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.lock = threading.Lock()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layer(features)


class Keeping(nn.Module):
    """Keeps activations in an attribute, and in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.kept: dict[str, list[torch.Tensor]] = {}
        self.last: torch.Tensor | None = None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.last = self.layer(features)
        self.kept["layer"] = [self.last]
        return self.last


def with_old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 2))


def pruned() -> nn.Module:
    layer = nn.Linear(4, 8)
    prune.l1_unstructured(layer, "weight", 0.3)
    return nn.Sequential(layer, nn.Linear(8, 2))


def parametrized() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 2))


@pytest.mark.parametrize("build", [Locked, Keeping, with_old_weight_norm, pruned, parametrized])
def test_network_that_deepcopy_may_refuse(build: Callable[[], nn.Module]) -> None:
    model = Built(build)
    plugin = fit(model)
    names = [name for name, _ in model.net.named_parameters()]
    for name in names:
        expected = mean([step[name] for step in model._steps], 0.8)
        assert equal(plugin.state_dict()["net"][f"module.{name}"], expected)
        assert equal(model._seen[-1][name], expected)
    assert equal(weights(model.net), model._steps[-1])
    if build is not Locked:
        assert plugin.averages["net"].module(torch.ones(1, 4)).shape == (1, 2)


def test_module_of_a_network_that_cannot_be_copied() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot copy Locked.*pickle '_thread\.lock'"):
        _ = AveragedNetwork(Locked(), 0.9).module


# A loop without Helios.


@pytest.mark.parametrize("cut", [None, 4, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_run_equals_a_loop_in_plain_pytorch(
    dtype: torch.dtype, cut: int | None, tmp_path: pathlib.Path
) -> None:
    batches: list[Any] = []

    class Recording(Built):
        def make_network(self) -> nn.Module:
            torch.manual_seed(3)
            return super().make_network().to(dtype)

        def compute(self, features: torch.Tensor) -> torch.Tensor:
            return self.net(features.to(dtype))

        def train_step(self, batch: Any, state: Any) -> None:
            batches.append(batch)
            super().train_step(batch, state)

    model = Recording()
    if cut is not None:
        fit(Recording(), StopAfter(cut), decay=0.99, chkpt_root=tmp_path)
    plugin = fit(model, decay=0.99, **({} if cut is None else {"chkpt_root": tmp_path}))

    network = Recording().make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    # The weights of this module are the same numbers in 32 bits, for AveragedModel to average.
    wide = copy.deepcopy(network).float()
    average = AveragedModel(wide, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    assert len(batches) == 12
    for features, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(features.to(dtype)).float(), labels).backward()
        optimizer.step()
        wide.load_state_dict(network.state_dict())
        average.update_parameters(wide)
    assert equal(weights(model.net), weights(network))
    assert equal(weights(plugin.averages["net"].module), weights(average.module))
    assert equal(model._seen[-1], weights(average.module.to(dtype)))


# Killed runs.

KILLED = """
import os, signal, sys
import helios
from helios_ema import EMAPlugin
from helios.testing import TinyDataModule, TinyModel

class Kill:
    @helios.hookimpl
    def on_training_batch_end(self, state):
        if state.running_iter == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

helios.Trainer(
    total_steps=3, valid_frequency=1, chkpt_frequency=1, run_root=sys.argv[1], use_cpu=True,
    print_banner=False, autoload=False, plugins=[EMAPlugin(0.8), Kill()],
).fit(TinyModel(), TinyDataModule())
"""


@pytest.mark.parametrize("batches", [7, 16])
def test_killed_run_resumes_exactly(batches: int, tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(batches)]
    killed = subprocess.run(command, env=dict(os.environ), check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    resumed, whole = TinyModel(), TinyModel()
    found = fit(resumed, run_root=tmp_path, total_steps=3)
    expected = fit(whole, total_steps=3)
    assert equal(found.state_dict(), expected.state_dict())
    assert equal(resumed.state_dict(), whole.state_dict())
