"""The norm of gradients, and the search for the operation that computes NaN."""

import logging
import math
from typing import Any

import pytest
import torch
from helpers import Logs, Make
from torch import nn

from helios import Plugin
from helios.errors import ConfigurationError
from helios.plugins.builtin.anomaly_detection import AnomalyDetectionPlugin
from helios.plugins.builtin.gradient_norm import GradientNormPlugin
from helios.testing import TinyDataModule, TinyModel, check_conformance, equal

NORM = "gradient-norm/optimizer"


class Clipping(TinyModel):
    """Clips its gradients, and records their norm as PyTorch does."""

    norm_type = 2.0

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self._norms: list[float] = []

    def train_step(self, batch: Any, state: Any) -> Any:
        loss = self.loss(batch)
        parameters = list(self.net.parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        copies = [nn.Parameter(each.detach()) for each in parameters]
        for copy, gradient in zip(copies, gradients, strict=True):
            copy.grad = gradient.clone()
        total = nn.utils.clip_grad_norm_(copies, 1e9, norm_type=self.norm_type)
        self._norms.append(float(total))
        self.optimize(loss, self.optimizer, clip_norm=0.01)

    def loss(self, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("norm", [2.0, 1, math.inf])
def test_the_norm_is_the_one_of_pytorch_before_clipping(make_trainer: Make, norm: float) -> None:
    model, logs = Clipping(), Logs()
    model.norm_type = norm
    plugins = [GradientNormPlugin(norm), logs]
    make_trainer(plugins=plugins, print_frequency=1).fit(model, TinyDataModule())
    assert [metrics[NORM] for _, _, metrics in logs.calls if NORM in metrics] == model._norms
    assert len(model._norms) == 12


def test_loggers_receive_means(make_trainer: Make) -> None:
    model, logs = Clipping(), Logs()
    data = TinyDataModule(train_size=24)
    make_trainer(plugins=[GradientNormPlugin(), logs], total_steps=1).fit(model, data)
    (found,) = [metrics[NORM] for _, _, metrics in logs.calls]
    assert found == pytest.approx(sum(model._norms) / 6)


class Exploding(Clipping):
    """Has a gradient that is not finite in one step."""

    def loss(self, batch: Any) -> torch.Tensor:
        loss = super().loss(batch)
        if self.trainer.state.current_iteration == 3:
            loss = loss + (self.net[0].weight.sum() * 0).sqrt()
        return loss


def test_a_gradient_that_is_not_finite_is_told(
    make_trainer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "helios")
    settings = {"print_frequency": 2, "total_steps": 1}
    make_trainer(plugins=[GradientNormPlugin()], **settings).fit(Exploding(), TinyDataModule())
    warnings = [each.message for each in caplog.records if "gradients" in each.message]
    assert warnings[0] == (
        "the gradients of optimizer are not finite: their mean norm up to iteration 4 is nan. The"
        " plug-in 'anomaly-detection' finds the operation."
    )
    plugin = GradientNormPlugin(on_non_finite="raise")
    with pytest.raises(FloatingPointError, match="up to iteration 4 is nan"):
        make_trainer(plugins=[plugin], **settings).fit(Exploding(), TinyDataModule())


def test_a_step_that_is_skipped_does_not_count(make_trainer: Make) -> None:
    class Skip(Plugin):
        def setup(self) -> None: ...

        def on_gradients_ready(self, state: Any) -> None:
            if state.current_iteration == 3:
                self.trainer.skip_step("a test")

    logs = Logs()
    make_trainer(
        plugins=[GradientNormPlugin(), Skip("skip"), logs], print_frequency=1, total_steps=1
    ).fit(Exploding(), TinyDataModule())
    found = {step: metrics.get(NORM) for step, _, metrics in logs.calls}
    assert found.get(3) is None
    assert all(math.isfinite(found[step] or 0) for step in (1, 2, 4, 5, 6))


def test_sparse_gradients_have_a_norm(make_trainer: Make) -> None:
    class Sparse(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.net = nn.Embedding(3, 2, sparse=True)
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

        def train_step(self, batch: Any, state: Any) -> Any:
            self.optimize(self.net(torch.tensor([1, 1])).sum(), self.optimizer)

    logs = Logs()
    plugins = [GradientNormPlugin(), logs]
    make_trainer(plugins=plugins, total_steps=1).fit(Sparse(), TinyDataModule())
    assert logs.calls[0][2] == {NORM: pytest.approx(math.sqrt(8))}


@pytest.mark.filterwarnings("ignore:Error detected in")  # PyTorch shows the line in it
def test_the_operation_that_computes_nan_is_found(make_trainer: Make) -> None:
    trainer = make_trainer(plugins=[AnomalyDetectionPlugin()])
    with pytest.raises(RuntimeError, match="Function 'MulBackward0' returned nan values"):
        trainer.fit(Exploding(), TinyDataModule())
    assert not torch.is_anomaly_enabled()
    assert trainer.state.current_iteration == 3
    trainer = make_trainer(plugins=[AnomalyDetectionPlugin(check_nan=False)])
    trainer.fit(Exploding(), TinyDataModule())


def test_the_search_changes_nothing(make_trainer: Make) -> None:
    watched, free = TinyModel(), TinyModel()
    make_trainer(plugins=[AnomalyDetectionPlugin()]).fit(watched, TinyDataModule())
    make_trainer().fit(free, TinyDataModule())
    assert equal(watched.state_dict(), free.state_dict())


@pytest.mark.parametrize("create", [GradientNormPlugin, AnomalyDetectionPlugin])
def test_resumes_exactly(create: Any) -> None:
    check_conformance(create, print_frequency=3, accumulation_steps=2)


def test_a_wrong_argument_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="norm=0 of gradient-norm: write a positive numbe"):
        GradientNormPlugin(0)
    with pytest.raises(ConfigurationError, match="'stop' of gradient-norm: write 'warn' or 'raise"):
        GradientNormPlugin(on_non_finite="stop")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="check_nan=1 of anomaly-detection: write True or"):
        AnomalyDetectionPlugin(check_nan=1)  # type: ignore[arg-type]
