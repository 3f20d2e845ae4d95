"""Compile the networks of a model."""

from typing import Any

import torch
from torch import nn

from helios import Plugin


class CompilerPlugin(Plugin):
    """Compiles what the plug-ins before it have made of a network.

    Args:
        backend: the backend of ``torch.compile``.
    """

    after = ("lora", "quantisation")

    def __init__(self, backend: str = "inductor") -> None:
        super().__init__("compiler")
        self.backend = backend

    def setup(self) -> None:
        """Do nothing."""

    def prepare_module(self, module: nn.Module) -> nn.Module:
        """Compile each shape apart, so that a resumed run computes the same."""
        compiled: Any = torch.compile(module, backend=self.backend, dynamic=False)
        return compiled  # type: ignore[no-any-return]
