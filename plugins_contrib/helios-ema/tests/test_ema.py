import pickle
from typing import Any

import pytest
import torch
from helios_ema import EMAPlugin
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import helios
from helios import Trainer, create_plugin
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel, check_conformance, equal


def make_trainer(*plugins: Any, **arguments: Any) -> Trainer:
    defaults = {"total_steps": 2, "use_cpu": True, "print_banner": False, "autoload": False}
    return Trainer(**{**defaults, "plugins": plugins, **arguments})


def snapshot(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


class Watched(TinyModel):
    """Remembers its weights after each step, and those that it is evaluated with."""

    def __init__(self, save_name: str = "watched") -> None:
        super().__init__(save_name)
        self._steps: list[dict[str, torch.Tensor]] = []
        self._seen: list[dict[str, torch.Tensor]] = []

    def make_network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(self.make_network())
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer)

    def train_step(self, batch: Any, state: Any) -> torch.Tensor:
        loss = super().train_step(batch, state)
        if self.trainer.is_optimizer_step:
            self._steps.append(snapshot(self.net))
        return loss

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self._seen.append(snapshot(self.net))
        return super().valid_step(batch, step)

    def predict_step(self, batch: Any, step: int) -> torch.Tensor:
        return self.valid_step(batch, step)


def test_warm_up_forgets_the_first_weights() -> None:
    model = Watched()
    make_trainer(EMAPlugin(decay=0.5, warmup=True), valid_frequency=1).fit(model, TinyDataModule())
    expected = model._steps[0]
    for number, weights in enumerate(model._steps[1:], start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = {n: e * decay + weights[n] * (1 - decay) for n, e in expected.items()}
    torch.testing.assert_close(model._seen[-1], expected)
    assert check_conformance(lambda: EMAPlugin(decay=0.9, warmup=True))
    with pytest.raises(ConfigurationError, match=r"EMAPlugin\(warmup=1\): write True or False."):
        EMAPlugin(warmup=1)  # type: ignore[arg-type]


def test_validations_and_predictions_of_a_checkpoint_use_the_averages(tmp_path: Any) -> None:
    class Predicting(Watched):
        def predict_step(self, batch: Any, step: int) -> Any:
            self._seen.append(snapshot(self.net))
            return self.net(batch[0])

    seen = []
    trainer = make_trainer(EMAPlugin(decay=0.5), run_root=tmp_path)
    trainer.fit(Predicting(), TinyDataModule())
    average = trainer.plugins["ema"].averages["net"].module.state_dict()
    for method in ("validate", "test", "predict"):
        model = Predicting()
        trainer = make_trainer(EMAPlugin(decay=0.5), run_root=tmp_path)
        getattr(trainer, method)(model, TinyDataModule())
        seen.append(model._seen[0])
        assert not equal(snapshot(model.net), model._seen[0])
    assert all(equal(dict(average), each) for each in seen)


class Normalised(Watched):
    """Has running statistics, a counter, and a mask of infinities that must stay what it is."""

    def make_network(self) -> nn.Module:
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        network.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        network.register_buffer("positions", torch.arange(5))
        return network


def reference(steps: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """Average what is no integer with PyTorch's own class, tensor by tensor, in 32 bits."""
    averages = {}
    for name in (n for n, tensor in steps[0].items() if tensor.dtype != torch.int64):
        is_narrow = steps[0][name].dtype in (torch.float16, torch.bfloat16)
        weights = [step[name].float() if is_narrow else step[name] for step in steps]
        holders = [nn.ParameterList([weight]) for weight in weights]
        average = AveragedModel(holders[0], multi_avg_fn=get_ema_multi_avg_fn(decay))
        for holder in holders:
            average.update_parameters(holder)
        averages[name] = average.module[0].detach()
    return averages


@pytest.mark.parametrize("decay", [1, 1.5, -0.1, float("nan"), "0.9", True, False, None])
def test_impossible_decay_is_refused(decay: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"EMAPlugin\(decay=.*write decay=0\.999"):
        EMAPlugin(decay)


@pytest.mark.parametrize("decay", [0, 0.0, 0.5, 0.9999])
def test_possible_decay_is_taken(decay: float) -> None:
    assert EMAPlugin(decay).decay == decay


def test_average_is_that_of_pytorch() -> None:
    plugin, model = EMAPlugin(decay=0.8), Watched()
    make_trainer(plugin).fit(model, TinyDataModule())
    assert len(model._steps) == 12
    assert equal(dict(plugin.averages["net"].module.state_dict()), reference(model._steps, 0.8))


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_one_update_for_each_optimizer_step(unit: str) -> None:
    plugin, model = EMAPlugin(decay=0.8), Watched()
    trainer = make_trainer(plugin, accumulation_steps=3, train_unit=unit, total_steps=3)
    state = trainer.fit(model, TinyDataModule())
    assert 0 < state.current_iteration < state.global_iteration
    assert plugin.averages["net"].n_averaged == state.current_iteration
    assert equal(dict(plugin.averages["net"].module.state_dict()), reference(model._steps, 0.8))


def test_steps_of_several_optimizers_are_one_update() -> None:
    class TwoOptimizers(Watched):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.critic = self.prepare(nn.Linear(4, 2))
            self.critic_optimizer = torch.optim.SGD(self.critic.parameters(), lr=0.1)

        def train_step(self, batch: Any, state: Any) -> torch.Tensor:
            self.optimize(self.critic(batch[0]).square().mean(), self.critic_optimizer)
            return super().train_step(batch, state)

    plugin, model = EMAPlugin(decay=0.8), TwoOptimizers()
    state = make_trainer(plugin).fit(model, TinyDataModule())
    counts = {name: int(average.n_averaged) for name, average in plugin.averages.items()}
    assert counts == {"net": state.current_iteration, "critic": state.current_iteration}
    assert not equal(plugin.averages["critic"].module.weight, model.critic.weight)
    assert equal(dict(plugin.averages["net"].module.state_dict()), reference(model._steps, 0.8))


def test_training_is_what_it_is_without() -> None:
    with_average, without = Normalised(), Normalised()
    data = TinyDataModule(batch_size=11)
    make_trainer(EMAPlugin(0.5), valid_frequency=1).fit(with_average, data)
    make_trainer(valid_frequency=1).fit(without, data)
    assert equal(with_average.state_dict(), without.state_dict())
    assert equal(with_average._steps, without._steps)
    assert not equal(with_average._seen, without._seen)


def test_validation_sees_the_averages() -> None:
    model = Watched()
    make_trainer(EMAPlugin(0.8), valid_frequency=1).fit(model, TinyDataModule())
    assert len(model._seen) == 6  # three batches a validation
    for seen in model._seen[:3]:
        assert equal(seen, reference(model._steps[:6], 0.8))
    for seen in model._seen[3:]:
        assert equal(seen, reference(model._steps, 0.8))
    assert equal(snapshot(model.net), model._steps[-1])


@pytest.mark.parametrize("phase", ["validation", "testing"])
def test_failing_evaluation_puts_the_trained_weights_back(phase: str) -> None:
    class Failing(Normalised):
        fails = False

        def valid_step(self, batch: Any, step: int) -> torch.Tensor:
            if self.fails and step == 1:
                self._present = snapshot(self.net)
                raise KeyboardInterrupt
            return super().valid_step(batch, step)

    model, data = Failing(), TinyDataModule(batch_size=11)
    trainer = make_trainer(EMAPlugin(0.8), valid_frequency=1)
    if phase == "validation":
        model.fails = True
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(model, data)
    else:
        trainer.fit(model, data)
        model.fails = True
        with pytest.raises(KeyboardInterrupt):
            trainer.test(model, data)
    assert not equal(model._present, model._steps[-1])
    assert equal(snapshot(model.net), model._steps[-1])


@pytest.mark.parametrize("run", ["test", "validate", "predict"])
def test_evaluations_see_the_averages_of_the_model_just_trained(run: str) -> None:
    model, trainer = Watched(), make_trainer(EMAPlugin(0.8))
    trainer.fit(model, TinyDataModule())
    for _ in range(2):
        model._seen.clear()
        getattr(trainer, run)(model, TinyDataModule())
        assert len(model._seen) == 3
        for seen in model._seen:
            assert equal(seen, reference(model._steps, 0.8))
        assert equal(snapshot(model.net), model._steps[-1])


@pytest.mark.parametrize("run", ["test", "validate", "predict"])
def test_evaluations_see_the_averages_of_a_checkpoint(tmp_path: Any, run: str) -> None:
    trained, tested = Watched(), Watched()
    make_trainer(EMAPlugin(0.8), chkpt_root=tmp_path).fit(trained, TinyDataModule())
    trainer = make_trainer(EMAPlugin(0.8), chkpt_root=tmp_path)
    getattr(trainer, run)(tested, TinyDataModule())
    assert len(tested._seen) == 3
    for seen in tested._seen:
        assert equal(seen, reference(trained._steps, 0.8))
    assert equal(snapshot(tested.net), trained._steps[-1])


def test_testing_without_averages_changes_nothing() -> None:
    class Loaded(Watched):
        def load_for_testing(self) -> None:
            with torch.no_grad():
                for parameter in self.net.parameters():
                    parameter.fill_(0.25)

    plugin, model = EMAPlugin(0.8), Loaded()
    trainer = make_trainer(plugin)
    trainer.fit(Watched(), TinyDataModule())  # the averages of another model are not for this one
    trainer.test(model, TinyDataModule())
    assert plugin.averages == {}
    assert len(model._seen) == 3
    assert all((tensor == 0.25).all() for seen in model._seen for tensor in seen.values())


def test_running_statistics_are_averaged_and_other_buffers_are_not() -> None:
    plugin, model = EMAPlugin(0.8), Normalised()
    make_trainer(plugin, valid_frequency=2).fit(model, TinyDataModule(batch_size=11))
    latest, averages = model._steps[-1], reference(model._steps, 0.8)
    for seen in (model._seen[0], dict(plugin.averages["net"].module.state_dict())):
        for name in ("0.weight", "1.weight", "1.running_mean", "1.running_var"):
            assert equal(seen[name], averages[name])
            assert not equal(seen[name], latest[name])
        for name in ("1.num_batches_tracked", "mask", "positions"):
            assert equal(seen[name], latest[name])
    assert latest["1.num_batches_tracked"] == 4


def test_frozen_and_shared_parameters() -> None:
    class Frozen(Watched):
        def make_network(self) -> nn.Module:
            network = super().make_network()
            network[0].requires_grad_(False)
            return network

        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.head = self.net[2]  # the same module again, under a second name

    plugin, model = EMAPlugin(0.8), Frozen()
    make_trainer(plugin, valid_frequency=1).fit(model, TinyDataModule())
    for step in (*model._steps, *model._seen):
        assert equal(step["0.weight"], model._steps[0]["0.weight"])
    averages = reference(model._steps, 0.8)
    assert equal(model._seen[-1], averages)
    assert equal(
        dict(plugin.averages["head"].module.state_dict()),
        {"weight": averages["2.weight"], "bias": averages["2.bias"]},
    )
    assert equal(snapshot(model.net), model._steps[-1])


def test_parameters_of_several_types() -> None:
    class Mixed(Watched):
        def make_network(self) -> nn.Module:
            network = super().make_network()
            network.register_parameter("narrow", nn.Parameter(torch.ones(3, dtype=torch.bfloat16)))
            network.register_parameter("wave", nn.Parameter(torch.ones(3, dtype=torch.complex64)))
            network.register_parameter("codes", nn.Parameter(torch.arange(3), requires_grad=False))
            return network

        def train_step(self, batch: Any, state: Any) -> torch.Tensor:
            with torch.no_grad():
                self.net.narrow += 2
                self.net.wave *= 1j
                self.net.codes += 1
            return super().train_step(batch, state)

    plugin, model = EMAPlugin(0.5), Mixed()
    make_trainer(plugin).fit(model, TinyDataModule())
    present, averages = plugin.averages["net"].module.state_dict(), reference(model._steps, 0.5)
    for name in ("narrow", "wave"):
        assert equal(present[name], averages[name])
        assert not equal(present[name], model._steps[-1][name])
    assert equal(present["codes"], model._steps[-1]["codes"])


def test_model_without_networks(tmp_path: Any) -> None:
    class Empty(helios.Model):
        _steps = 0

        def setup(self, fast_init: bool = False) -> None:
            pass

        def train_step(self, batch: Any, state: Any) -> None:
            self._steps += 1

    plugin, model = EMAPlugin(), Empty("empty")
    trainer = make_trainer(plugin, valid_frequency=1, run_root=tmp_path)
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    assert model._steps == 12
    assert plugin.state_dict() == {}
    assert "seen no optimizer step" not in (tmp_path / "helios.log").read_text()


def test_modules_without_weights_are_left_alone() -> None:
    class Measuring(Watched):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.meter = nn.Module()
            self.meter.register_buffer("count", torch.zeros(()))

        def valid_step(self, batch: Any, step: int) -> torch.Tensor:
            self.meter.count += 1
            return super().valid_step(batch, step)

        def on_validation_end(self, validation_cycle: int) -> None:
            self._count = float(self.meter.count)

    plugin, model = EMAPlugin(0.8), Measuring()
    make_trainer(plugin, valid_frequency=1).fit(model, TinyDataModule())
    assert model._count == 6
    assert list(plugin.averages) == ["net"]


def test_steps_that_helios_does_not_see_are_reported(tmp_path: Any) -> None:
    class Manual(Watched):
        def train_step(self, batch: Any, state: Any) -> None:
            self.net(batch[0]).mean().backward()
            self.optimizer.step()

    model = Manual()
    make_trainer(EMAPlugin(), valid_frequency=1, run_root=tmp_path).fit(model, TinyDataModule())
    assert "saw no optimizer step, so it averaged nothing" in (tmp_path / "helios.log").read_text()
    assert equal(model._seen[-1], snapshot(model.net))


def test_nothing_is_copied_before_training() -> None:
    plugin = EMAPlugin()
    found = []

    class Asking(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            found.append(dict(plugin.averages))

        def on_training_start(self) -> None:
            found.append(dict(plugin.averages))

    make_trainer(plugin).fit(Asking(), TinyDataModule())
    assert [list(averages) for averages in found] == [[], ["net"]]


def test_each_fit_begins_with_new_averages() -> None:
    plugin = EMAPlugin(0.8)
    trainer = make_trainer(plugin)
    for model in (Watched(), Watched()):
        state = trainer.fit(model, TinyDataModule())
        assert plugin.averages["net"].n_averaged == state.current_iteration
        assert equal(dict(plugin.averages["net"].module.state_dict()), reference(model._steps, 0.8))


def test_a_run_that_fails_leaves_nothing_to_the_next(tmp_path: Any) -> None:
    class Failure(Exception):
        pass

    class Failing(Watched):
        def train_step(self, batch: Any, state: Any) -> torch.Tensor:
            super().train_step(batch, state)
            raise Failure

    class Refusing:
        @helios.hookimpl
        def on_checkpoint_loaded(self) -> None:
            raise Failure

    make_trainer(EMAPlugin(0.8), chkpt_root=tmp_path).fit(Watched(), TinyDataModule())
    for failing, options in (
        (Failing(), {"accumulation_steps": 1}),  # after a step, before its update
        (Watched(), {"chkpt_root": tmp_path}),  # after restoring, before training
    ):
        plugin, model = EMAPlugin(0.8), Watched()
        with pytest.raises(Failure):
            make_trainer(plugin, Refusing(), **options).fit(failing, TinyDataModule())
        make_trainer(plugin, accumulation_steps=3).fit(model, TinyDataModule())
        assert equal(dict(plugin.averages["net"].module.state_dict()), reference(model._steps, 0.8))


def test_models_that_take_turns_keep_to_themselves(tmp_path: Any) -> None:
    first, second = Watched("first"), Watched("second")
    trainer = make_trainer(EMAPlugin(0.8), chkpt_root=tmp_path)
    for model in (first, second):
        trainer.fit(model, TinyDataModule(batch_size=4 if model is first else 11))
    for model in (first, second):
        trainer.test(model, TinyDataModule())
        assert len(model._seen) == 3
        for seen in model._seen:
            assert equal(seen, reference(model._steps, 0.8))
        assert equal(snapshot(model.net), model._steps[-1])


@pytest.mark.parametrize("trained", [False, True])
def test_plugin_survives_pickling_with_trainer_and_model(trained: bool) -> None:
    model, trainer = TinyModel(), make_trainer(EMAPlugin(0.8))
    if trained:
        trainer.fit(model, TinyDataModule())
    before = trainer.plugins["ema"]
    trainer, model = pickle.loads(pickle.dumps((trainer, model)))
    assert equal(trainer.plugins["ema"].state_dict(), before.state_dict())
    state = trainer.fit(model, TinyDataModule())
    assert trainer.plugins["ema"].averages["net"].n_averaged == state.current_iteration


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"accumulation_steps": 3},
        {"accumulation_steps": 3, "train_unit": "iteration", "total_steps": 7},
    ],
)
def test_conformance(arguments: dict[str, Any]) -> None:
    check_conformance(lambda: EMAPlugin(decay=0.5), **arguments)


def test_created_by_name() -> None:
    plugin = create_plugin("ema", decay=0.25)
    assert isinstance(plugin, EMAPlugin)
    assert (plugin.plug_id, plugin.decay) == ("ema", 0.25)


def test_autoloaded_where_installed() -> None:
    model, trainer = Watched(), make_trainer(autoload=["ema"], valid_frequency=1)
    assert "ema" in trainer.plugins
    trainer.fit(model, TinyDataModule())
    entry = next(entry for entry in trainer.plan.active if entry.id == "ema")
    assert entry.distribution == "helios-ema"
    assert equal(model._seen[-1], reference(model._steps, 0.99))


class LeavingValidation(Watched):
    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self.trainer.interruptible = True
        self.trainer.request_stop("for this test", urgent=True)
        return super().valid_step(batch, step)

    def on_training_end(self) -> None:
        self._last = snapshot(self.net)


def test_validation_that_was_left_puts_the_trained_weights_back() -> None:
    model = LeavingValidation()
    make_trainer(EMAPlugin(decay=0.5), valid_frequency=1).fit(model, TinyDataModule())
    assert not equal(model._seen[-1], model._steps[-1])
    assert equal(model._last, model._steps[-1])
