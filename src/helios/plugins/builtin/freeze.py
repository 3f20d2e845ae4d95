"""A plug-in that freezes parts of a model, for the whole training or its first epochs."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from helios.core import TrainingState, rules
from helios.plugins.builtin.names import (
    PATTERNS,
    matches,
    named_modules,
    named_parameters,
    require_matches,
)
from helios.plugins.plugin import Plugin


class FreezePlugin(Plugin):
    """Keeps the weights of some parts of the model as they are.

    The parameters get ``requires_grad = False``, so they have no gradients, and optimizers skip
    them. The layers are in evaluation mode in training, too, so dropout is off and the statistics
    of batch normalization do not change. From epoch ``until`` on, both are as in the rest of the
    model. The optimizer may have the parameters from the beginning.

    Args:
        parts: the names of layers or parameters, with the attribute of the model at the front, and
            perhaps with wildcards: ``["net.encoder", "net.*.norm"]``.
        until: the number of epochs to freeze; ``None`` for the whole training.
        evaluate: ``False`` to leave the modes of the layers as they are.

    Raises:
        ConfigurationError: an argument is invalid, or the model has no such part.

    Example:
        .. code-block:: python

            Trainer(..., plugins=[("freeze", {"parts": ["net.backbone"], "until": 3})])
    """

    autoload = False
    changes_results = True
    summary = "freezes parts of the model"

    def __init__(
        self, parts: Sequence[str], until: int | None = None, evaluate: bool = True
    ) -> None:
        super().__init__("freeze")
        rules.check({"parts": parts, "until": until, "evaluate": evaluate}, _RULES, "freeze")
        self.parts = tuple(parts)
        self.until = until
        self.evaluate = evaluate
        self._frozen: list[nn.Parameter] = []
        self._evaluated: list[nn.Module] = []

    def setup(self) -> None:
        """Begin each run with nothing frozen."""
        self._frozen, self._evaluated = [], []

    def on_model_ready(self, model: Any) -> None:
        """Freeze the parts, unless the run resumes after their epochs."""
        parameters = dict(named_parameters(model))
        require_matches(self.parts, list(parameters), "parameter", self.plug_id, model)
        is_over = self.until is not None and self.trainer.state.global_epoch >= self.until
        if is_over or not model.session.is_training:
            return
        for name, parameter in parameters.items():
            if matches(name, self.parts) and parameter.requires_grad:
                parameter.requires_grad_(False)
                self._frozen.append(parameter)
        for name, module in named_modules(model):
            if self.evaluate and matches(name, self.parts) and module.training:
                module.training = False
                self._evaluated.append(module)

    def on_training_epoch_start(self, state: TrainingState) -> None:
        """Train the parts from epoch ``until`` on."""
        if state.global_epoch == self.until:
            for parameter in self._frozen:
                parameter.requires_grad_(True)
            for module in self._evaluated:
                module.training = True
            self._frozen, self._evaluated = [], []


_RULES: dict[str, rules.Rule] = {
    "parts": PATTERNS,
    "until": rules.optional(rules.whole("write the number of epochs to freeze, from 1 up.", 1)),
    "evaluate": rules.switch,
}
