"""The plug-ins that average weights compute what a plain loop would."""

from typing import Any

import pytest
import torch
from helpers import Make, UserError
from plugins_of_authors.ema import EMAPlugin
from plugins_of_authors.swa import SWAPlugin

from helios.testing import TinyDataModule, TinyModel


class Recorded(TinyModel):
    """Records its weights after each optimizer step, and at each step of an evaluation."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self._trained: list[torch.Tensor] = []
        self._rates: list[float] = []
        self._evaluated: list[torch.Tensor] = []
        self.optimizer.register_step_post_hook(self._record)

    def _record(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._trained.append(self._weights())
        self._rates.append(optimizer.param_groups[0]["lr"])

    def _weights(self) -> torch.Tensor:
        return torch.cat([each.detach().flatten() for each in self.net.parameters()])

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self._evaluated.append(self._weights())
        return super().valid_step(batch, step)


def _average(weights: list[torch.Tensor], decay: float) -> torch.Tensor:
    average, *later = weights
    for each in later:
        average = decay * average + (1 - decay) * each
    return average


def test_validations_and_tests_use_the_average(make_trainer: Make, tmp_path: Any) -> None:
    model, tested = Recorded(), Recorded()
    arguments: Any = {"valid_frequency": 1, "run_root": tmp_path}
    make_trainer(plugins=[EMAPlugin(0.7)], **arguments).fit(model, TinyDataModule())
    make_trainer(plugins=[EMAPlugin(0.7)], **arguments).test(tested, TinyDataModule())
    first, last = _average(model._trained[:6], 0.7), _average(model._trained, 0.7)
    torch.testing.assert_close(model._evaluated, [first] * 3 + [last] * 3)
    torch.testing.assert_close(tested._evaluated, [last] * 3)
    assert torch.equal(model._weights(), model._trained[-1])
    assert torch.equal(tested._weights(), model._trained[-1])


def test_a_failed_validation_leaves_the_trained_weights(make_trainer: Make) -> None:
    class Failing(Recorded):
        def valid_step(self, batch: Any, step: int) -> torch.Tensor:
            raise UserError

    model = Failing()
    with pytest.raises(UserError):
        make_trainer(plugins=[EMAPlugin()], valid_frequency=1).fit(model, TinyDataModule())
    assert torch.equal(model._weights(), model._trained[-1])


def test_a_test_uses_the_mean_of_the_last_epochs(make_trainer: Make, tmp_path: Any) -> None:
    model, tested = Recorded(), Recorded()
    arguments: Any = {"total_steps": 4, "run_root": tmp_path}
    make_trainer(plugins=[SWAPlugin(2, rate=0.3)], **arguments).fit(model, TinyDataModule())
    make_trainer(plugins=[SWAPlugin(2, rate=0.3)], **arguments).test(tested, TinyDataModule())
    assert torch.equal(model._weights(), model._trained[23])
    assert model._rates[12:] == [0.3] * 12
    assert 0.3 not in model._rates[:12]
    mean = (model._trained[17] + model._trained[23]) / 2
    torch.testing.assert_close(tested._evaluated, [mean] * 3)
