"""Plug-ins that prepare one network together: adapters, quantisation and compilation."""

import torch
from helpers import Make
from plugins_of_authors.compiler import CompilerPlugin
from plugins_of_authors.lora import Adapted, LoraPlugin
from plugins_of_authors.quantisation import QuantisationPlugin
from torch import nn

from helios.testing import TinyDataModule, TinyModel


def test_adapters_of_a_quantised_and_compiled_network_train_alone(make_trainer: Make) -> None:
    model, data, plain = TinyModel(), TinyDataModule(), TinyModel()
    make_trainer().test(plain, data)
    plugins = [CompilerPlugin("eager"), LoraPlugin(), QuantisationPlugin(bits=3)]
    make_trainer(plugins=plugins).fit(model, data)
    network = model.net._orig_mod  # type: ignore[union-attr]
    for number in (0, 2):
        adapted = network[number]  # type: ignore[index]
        assert isinstance(adapted, Adapted)
        steps = adapted.layer.weight / adapted.layer.weight.abs().max() * 3
        torch.testing.assert_close(steps, steps.round())
        exact = adapted.layer.parametrizations.weight.original  # type: ignore[union-attr]
        assert torch.equal(exact, plain.net[number].weight)  # type: ignore[arg-type, index]
        assert adapted.up.abs().sum() > 0


def test_a_single_layer_is_adapted(make_trainer: Make) -> None:
    class Single(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.net = self.prepare(nn.Linear(4, 2))

    model = Single()
    make_trainer(plugins=[LoraPlugin()]).fit(model, TinyDataModule())
    assert isinstance(model.net, Adapted)
