"""A plug-in that compiles the networks of a model."""

from typing import Any

import torch
from torch import nn

from helios.core import rules
from helios.plugins.markers import hookimpl
from helios.plugins.plugin import Plugin


class CompilePlugin(Plugin):
    """Compiles each network that the model prepares, as ``prepare(..., compile=True)`` does.

    The compiled code computes slightly other values than the network itself. Checkpoints do not
    depend on it: a run may resume with or without the plug-in.

    Args:
        mode: the mode of :func:`torch.compile`, such as ``"reduce-overhead"`` or
            ``"max-autotune"``.
        backend: the backend of :func:`torch.compile`.
        fullgraph: ``True`` to refuse a network that cannot be compiled as a whole.
        dynamic: ``True`` to compile for any shape. By default, each shape has its own code,
            because otherwise it would depend on earlier shapes, which differ in a resumed run.

    Example:
        .. code-block:: python

            Trainer(..., plugins=["compile"])
    """

    autoload = False
    changes_results = True
    summary = "compiles the networks"

    def __init__(
        self,
        mode: str | None = None,
        backend: str = "inductor",
        fullgraph: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__("compile")
        self._options: dict[str, Any] = {
            "mode": mode,
            "backend": backend,
            "fullgraph": fullgraph,
            "dynamic": dynamic,
        }
        rules.check(self._options, _RULES, "compile")

    def setup(self) -> None:
        """Do nothing; the networks exist later."""

    @hookimpl(trylast=True)
    def prepare_module(self, module: nn.Module) -> nn.Module:
        """Compile a network, after the plug-ins that change it."""
        if hasattr(module, "_orig_mod"):  # compiled already
            return module
        compiled: Any = torch.compile(module, **self._options)
        prepared: nn.Module = compiled
        return prepared


_RULES: dict[str, rules.Rule] = {
    "mode": rules.optional(rules.text),
    "backend": rules.text,
    "fullgraph": rules.switch,
    "dynamic": rules.switch,
}
