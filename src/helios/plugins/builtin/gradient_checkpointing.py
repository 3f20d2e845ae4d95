"""A plug-in that saves memory: the backward pass computes activations a second time."""

import fnmatch
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from helios.core import rules
from helios.errors import ConfigurationError
from helios.plugins.builtin.names import PATTERNS, named_modules, require_matches
from helios.plugins.plugin import Plugin

_OWN = "gradient_checkpointing_enable"
"""The method by which networks of Hugging Face's transformers do this themselves."""


class GradientCheckpointingPlugin(Plugin):
    """Trains larger models in the same memory, at the cost of a second forward pass.

    The layers that you name do not keep their activations; the backward pass computes them again,
    with the same random numbers. Weights and gradients are the same, bit for bit.

    Args:
        layers: the names of layers, with the attribute of the model at the front, and perhaps with
            wildcards: ``["net.blocks.*"]``. A name means the layer itself, not those in it. By
            default, each network with a method ``gradient_checkpointing_enable()``, as those of
            Hugging Face's transformers have, chooses its layers.

    Raises:
        ConfigurationError: an argument is invalid, or the model has no such layer.

    Example:
        .. code-block:: python

            layers = ["net.blocks.*"]
            Trainer(..., plugins=[("gradient-checkpointing", {"layers": layers})])
    """

    autoload = False
    summary = "computes activations twice, to save memory"

    def __init__(self, layers: Sequence[str] | None = None) -> None:
        super().__init__("gradient-checkpointing")
        rule = {"layers": rules.optional(PATTERNS)}
        rules.check({"layers": layers}, rule, "gradient-checkpointing")
        self.layers = None if layers is None else tuple(layers)

    def setup(self) -> None:
        """Do nothing; the networks exist later."""

    def on_model_ready(self, model: Any) -> None:
        """Let the layers forget their activations."""
        if self.layers is None:
            self._enable(model)
            return
        modules = dict(named_modules(model))
        require_matches(self.layers, list(modules), "layer", self.plug_id, model)
        for name, module in modules.items():
            if _is_named(name, self.layers) and not isinstance(module.forward, functools.partial):
                module.forward = functools.partial(_twice, module.forward)

    def _enable(self, model: Any) -> None:
        networks = [network for _, network in model.networks() if hasattr(network, _OWN)]
        if not networks:
            raise ConfigurationError(
                f"plug-in 'gradient-checkpointing' finds no network in {type(model).__name__} with"
                f" a method {_OWN}(): name the layers, such as layers=['net.blocks.*']."
            )
        for network in networks:
            getattr(network, _OWN)()


def _twice(forward: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call a function; if gradients are needed, without keeping what its backward pass needs."""
    if not torch.is_grad_enabled():
        return forward(*arguments, **keywords)
    return checkpoint(forward, *arguments, use_reentrant=False, **keywords)


def _is_named(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a pattern means a layer itself, with as many parts as its name has."""
    return any(
        pattern.count(".") == name.count(".") and fnmatch.fnmatchcase(name, pattern)
        for pattern in patterns
    )
