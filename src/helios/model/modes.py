"""The modes of a model's modules: training or evaluation, each module on its own."""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import nn

if TYPE_CHECKING:
    from helios.model.model import Model


class Modes:
    """Switches a model to evaluation and back, so that a frozen part stays in evaluation mode.

    Args:
        model: the model.
    """

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._training: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
        self._is_evaluating = False

    def remember(self) -> None:
        """Remember the present modes as those of training."""
        self._is_evaluating = False
        self._training.clear()
        for _, network in self._model.networks():
            self._training.update({module: module.training for module in network.modules()})

    def eval(self) -> None:
        """Remember the modes of training, and switch all networks to evaluation."""
        if not self._is_evaluating:
            self.remember()
        self._is_evaluating = True
        for _, network in self._model.networks():
            network.eval()

    def train(self) -> None:
        """Give each module its mode of training; new modules train."""
        for _, network in self._model.networks():
            modules = list(network.modules())
            frozen = {each for each in modules if not self._training.get(each, True)}
            if len(frozen) == len(modules) and not any(each.training for each in modules):
                continue  # a switch there and back could have effects
            network.train()
            for module in modules:
                if module in frozen and module.training:
                    if all(each in frozen for each in module.modules()):
                        module.eval()
                    else:
                        module.training = False
        self._is_evaluating = False

    def of_training(self) -> WeakKeyDictionary[nn.Module, bool]:
        """Return the modes of training if the model is evaluating; otherwise nothing."""
        return self._training if self._is_evaluating else WeakKeyDictionary()
