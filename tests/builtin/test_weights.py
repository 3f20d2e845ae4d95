"""Frozen parts, means of weights, checkpointed activations and compilation, beside PyTorch."""

from typing import Any

import pytest
import torch
from helpers import Make
from torch import nn
from torch.optim.swa_utils import AveragedModel

from helios.errors import ConfigurationError, PluginConflictError, PluginProblems
from helios.plugins.builtin import gradient_checkpointing
from helios.plugins.builtin.compiler import CompilePlugin
from helios.plugins.builtin.freeze import FreezePlugin
from helios.plugins.builtin.gradient_checkpointing import GradientCheckpointingPlugin
from helios.plugins.builtin.swa import SWAPlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, check_conformance, equal

BATCHES = 6


class Normalised(TinyModel):
    """Has a batch normalization, and records its weights after each step, and when evaluated."""

    def setup(self, fast_init: bool = False) -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
        net.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.net = self.prepare(net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3, gamma=0.9)
        self._weights: list[dict[str, torch.Tensor]] = []
        self._evaluated: list[dict[str, torch.Tensor]] = []
        self._rates: list[float] = []

    def snapshot(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.net.state_dict().items()}

    def train_step(self, batch: Any, state: Any) -> Any:
        super().train_step(batch, state)
        self._weights.append(self.snapshot())

    def valid_step(self, batch: Any, step: int) -> Any:
        if step == 0:
            self._evaluated.append(self.snapshot())
        return super().valid_step(batch, step)


def fit(make_trainer: Make, *plugins: Any, model: Any = None, **arguments: Any) -> Any:
    model = model or Normalised()
    make_trainer(plugins=plugins, **arguments).fit(model, TinyDataModule())
    return model


# Freezing.


class ByHand(Normalised):
    """Freezes its first layers itself, and trains them from an epoch on."""

    until: int | None = 1

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.net[0].requires_grad_(False).eval()
        self.net[1].requires_grad_(False).eval()

    def on_training_epoch_start(self, current_epoch: int) -> None:
        if current_epoch == self.until:
            self.net[0].requires_grad_(True).train()
            self.net[1].requires_grad_(True).train()


@pytest.mark.parametrize("until", [None, 1])
def test_freezing_equals_lines_in_the_model(make_trainer: Make, until: int | None) -> None:
    by_hand = ByHand()
    by_hand.until = until
    fit(make_trainer, model=by_hand)
    found = fit(make_trainer, FreezePlugin(["net.0", "net.1"], until))
    assert equal(found._weights, by_hand._weights)
    first, last = found._weights[0], found._weights[-1]
    assert torch.equal(first["1.running_mean"], torch.zeros(8))
    assert torch.equal(first["0.weight"], last["0.weight"]) is (until is None)


def test_wildcards_and_single_parameters(make_trainer: Make) -> None:
    model = fit(make_trainer, FreezePlugin(["net.*.bias"], evaluate=False), total_steps=1)
    trained = {name for name, each in model.net.named_parameters() if each.requires_grad}
    assert trained == {"0.weight", "1.weight", "3.weight"}
    assert all(module.training for module in model.net.modules())


def test_what_the_model_has_frozen_stays_frozen(make_trainer: Make) -> None:
    class Frozen(Normalised):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.net[0].weight.requires_grad_(False)

    model = fit(make_trainer, FreezePlugin(["net.0"], until=1), model=Frozen())
    assert [each.requires_grad for each in model.net[0].parameters()] == [False, True]


@pytest.mark.parametrize("stop", [3, 6, 7, 13])
def test_a_run_that_was_cut_freezes_the_same(make_trainer: Make, tmp_path: Any, stop: int) -> None:
    arguments: dict[str, Any] = {"total_steps": 3, "run_root": tmp_path}
    whole = fit(make_trainer, FreezePlugin(["net.0", "net.1"], until=2), total_steps=3)
    fit(make_trainer, FreezePlugin(["net.0", "net.1"], until=2), StopAfter(stop), **arguments)
    resumed = fit(make_trainer, FreezePlugin(["net.0", "net.1"], until=2), **arguments)
    assert equal(resumed.state_dict(), whole.state_dict())


# Means of weights.


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_means_are_those_of_pytorch(make_trainer: Make, unit: Any) -> None:
    per_epoch = 1 if unit == "epoch" else BATCHES
    plugin, model = SWAPlugin(start=0.5), Normalised()
    trainer = make_trainer(
        plugins=[plugin],
        train_unit=unit,
        total_steps=4 * per_epoch,
        valid_frequency=per_epoch,
    )
    trainer.fit(model, TinyDataModule())
    network = nn.Sequential(*model.net)
    network.register_buffer("mask", model.net.mask)
    average = AveragedModel(network)
    means = []
    for epoch in (2, 3):
        network.load_state_dict(model._weights[(epoch + 1) * BATCHES - 1])
        average.update_parameters(network)
        means.append({name: each.clone() for name, each in average.module.named_parameters()})
    assert equal(model._evaluated[0], model._weights[BATCHES - 1])  # before the start
    for seen, mean in zip(model._evaluated[2:], means, strict=True):
        assert all(torch.equal(seen[name], tensor) for name, tensor in mean.items())
    statistics = [model._weights[(epoch + 1) * BATCHES - 1]["1.running_var"] for epoch in (2, 3)]
    torch.testing.assert_close(model._evaluated[3]["1.running_var"], sum(statistics) / 2)
    assert torch.equal(model._evaluated[3]["mask"], model.net.mask)
    assert equal(model.snapshot(), model._weights[-1])  # training goes on with its own weights
    assert equal(plugin.averages("net"), model._evaluated[3])
    newest = model._evaluated[3]
    trainer.test(model, TinyDataModule())
    assert equal(model._evaluated[0], newest)


def test_all_evaluations_use_the_means(make_trainer: Make, tmp_path: Any) -> None:
    class Predicting(Normalised):
        def predict_step(self, batch: Any, step: int) -> Any:
            if step == 0:
                self._evaluated.append(self.snapshot())
            return self.net(batch[0])

    plugin, seen = SWAPlugin(0), []
    fit(make_trainer, plugin, model=Predicting(), run_root=tmp_path)
    for method in ("validate", "test", "predict"):
        model = Predicting()
        trainer = make_trainer(plugins=[SWAPlugin(0)], run_root=tmp_path)
        getattr(trainer, method)(model, TinyDataModule())
        seen.append(model._evaluated)
        assert not equal(model.snapshot(), model._evaluated[0])  # the trained weights again
    assert equal(seen[0], seen[1])
    assert equal(seen[0], seen[2])
    assert equal(seen[0][0], plugin.averages("net"))


def test_the_rate_is_constant_from_the_start(make_trainer: Make) -> None:
    class Rates(Normalised):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.optimizer.register_step_pre_hook(
                lambda optimizer, *_: self._rates.append(optimizer.param_groups[0]["lr"])
            )

    model = fit(make_trainer, SWAPlugin(1, lr=0.02), model=Rates())
    assert model._rates[:3] == [0.05] * 3
    assert model._rates[BATCHES:] == [0.02] * BATCHES


def test_a_fraction_needs_a_length(make_trainer: Make) -> None:
    endless: dict[str, Any] = {"train_unit": "iteration", "total_steps": float("inf")}
    with pytest.raises(ConfigurationError, match=r"start=0.75 of swa is a fraction of"):
        fit(make_trainer, SWAPlugin(), **endless)
    fit(make_trainer, SWAPlugin(0), StopAfter(7), **endless)


def test_two_averages_of_weights_conflict(make_trainer: Make) -> None:
    ema = pytest.importorskip("helios_ema")
    with pytest.raises((PluginConflictError, PluginProblems), match="weights-of-evaluations"):
        make_trainer(plugins=[SWAPlugin(), ema.EMAPlugin()])


# Checkpointed activations.


def test_activations_are_computed_twice_with_the_same_numbers(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = nn.Linear.forward

    def counted(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return real(self, x)

    class Nested(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.net = nn.Sequential(
                *(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3)) for _ in range(2)),
                nn.Linear(4, 2),
            )
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)
            self.scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    arguments: dict[str, Any] = {"total_steps": 1, "valid_frequency": 1}
    usual = fit(make_trainer, model=Nested(), **arguments)
    usual_calls, calls[:] = len(calls), []
    plugin = GradientCheckpointingPlugin(["net.[01]"])
    saving = fit(make_trainer, plugin, model=Nested(), **arguments)
    assert equal(saving.state_dict(), usual.state_dict())
    assert len(calls) == usual_calls + 2 * BATCHES


def test_networks_of_transformers_choose_their_layers(make_trainer: Make) -> None:
    class Own(nn.Linear):
        enabled = 0

        def gradient_checkpointing_enable(self) -> None:
            self.enabled += 1

    class WithOwn(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.own = Own(1, 1)

    assert fit(make_trainer, GradientCheckpointingPlugin(), model=WithOwn()).own.enabled == 1
    with pytest.raises(ConfigurationError, match="no network in Normalised with a method gradient"):
        fit(make_trainer, GradientCheckpointingPlugin())


def test_copies_of_a_layer_compute_with_their_own_weights(make_trainer: Make) -> None:
    import copy

    model = fit(make_trainer, GradientCheckpointingPlugin(["net.0"]), total_steps=1)
    copied = copy.deepcopy(model.net)
    nn.init.zeros_(copied[0].weight)
    nn.init.zeros_(copied[0].bias)
    assert not copied[0](torch.ones(2, 4)).any()
    assert gradient_checkpointing.GradientCheckpointingPlugin.summary


# Compilation.


def test_each_prepared_network_is_compiled_once(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[dict[str, Any]] = []

    class Compiled(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

        def forward(self, *arguments: Any) -> Any:
            return self._orig_mod(*arguments)

    def record(module: nn.Module, **options: Any) -> nn.Module:
        compiled.append(options)
        return Compiled(module)

    class Asking(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.net = self.prepare(nn.Linear(4, 2), compile=True)
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)
            self.scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer)

    monkeypatch.setattr(torch, "compile", record)
    fit(make_trainer, CompilePlugin("max-autotune"), model=Asking(), total_steps=1)
    assert compiled == [
        {"mode": "max-autotune", "backend": "inductor", "fullgraph": False, "dynamic": False}
    ]


# All of them.


@pytest.mark.parametrize(
    "create",
    [
        lambda: FreezePlugin(["net.0"], until=1),
        lambda: SWAPlugin(0, lr=0.01),
        lambda: GradientCheckpointingPlugin(["net"]),
    ],
    ids=["freeze", "swa", "gradient-checkpointing"],
)
def test_resumes_exactly(create: Any) -> None:
    check_conformance(create)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: FreezePlugin("net"), "this is a single string: write a list, ['net']."),
        (lambda: FreezePlugin([]), "parts=[] of freeze: write a list of names, such as ['net.enc"),
        (lambda: FreezePlugin(["net"], 0), "until=0 of freeze: write the number of epochs to fre"),
        (lambda: SWAPlugin(1.0), "start=1.0 of swa: write the number of an epoch, from 0, or a"),
        (lambda: SWAPlugin(0, lr=-1), "lr=-1 of swa: write a learning rate, or None."),
        (lambda: CompilePlugin(fullgraph=1), "fullgraph=1 of compile: write True or False."),  # type: ignore[arg-type]
        (lambda: GradientCheckpointingPlugin("net"), "write a list, ['net']."),
    ],
)
def test_a_wrong_argument_is_refused(create: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create()
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [FreezePlugin, GradientCheckpointingPlugin])
def test_a_name_that_means_nothing_is_refused(make_trainer: Make, kind: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fit(make_trainer, kind(["nett.0"]))
    assert "names 'nett.0', but Normalised has no such" in str(caught.value)
    assert "Did you mean 'net.0'" in str(caught.value)
