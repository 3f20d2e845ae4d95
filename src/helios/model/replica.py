"""PyTorch's wrapper around a network that several ranks train."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from helios.errors import ConfigurationError


class Replica(nn.parallel.DistributedDataParallel):
    """PyTorch's wrapper, which also has the methods and attributes of the network.

    The names of its parameters, buffers and modules are those of the network, and so are those in
    its state. So a program that selects parameters by name is the same as in one process. A copy,
    or what is pickled, is the network alone.

    Args:
        module: the network.
        device: the GPU that it is on; ``None`` on the CPU.
        is_eager: ``True`` if PyTorch computes the mean of the gradients during the backward pass;
            ``False`` if Helios does so before each step.

    Attributes:
        averaged: the ids of the parameters whose gradients the backward pass of the newest forward
            pass replaces by their means.
        is_closed: ``True`` after the run: the network then computes without the other ranks.
        has_buffers: ``True`` if the network has buffers.
    """

    def __init__(self, module: nn.Module, device: torch.device | None, *, is_eager: bool) -> None:
        trained = [each for each in module.parameters() if each.requires_grad]
        unused = nn.Parameter(trained[0].new_zeros(1))
        if is_eager:
            # The flag lets a network have parts that only some batches reach, as in one process. If
            # no part is unused, PyTorch advises to switch the flag off; so one parameter is.
            module.register_parameter("helios_unused", unused)
            try:
                super().__init__(
                    module, None if device is None else [device], find_unused_parameters=True
                )
            finally:
                del module.helios_unused
        else:
            # PyTorch gets another network, so that it neither watches this one's gradients nor
            # holds memory for them.
            other = nn.Module()
            other.register_parameter("helios_unused", unused)
            super().__init__(other)
            self.module = module
        self._managed = frozenset(map(id, trained)) if is_eager else frozenset()
        self.is_eager = is_eager
        self.averaged: frozenset[int] = frozenset()
        self.is_closed = False
        self.has_buffers = any(True for _ in module.buffers())
        self.register_state_dict_post_hook(_remove_prefix)  # type: ignore[no-untyped-call]  # torch
        self.register_load_state_dict_pre_hook(_add_prefix)  # type: ignore[no-untyped-call]  # torch

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Compute the network, as PyTorch's wrapper does."""
        if self.is_closed or not self.is_eager:
            return self.module(*inputs, **kwargs)
        is_synchronized = self.require_backward_grad_sync and torch.is_grad_enabled()
        self.averaged = self._managed if is_synchronized else frozenset()
        return super().forward(*inputs, **kwargs)  # type: ignore[no-untyped-call]  # torch leaves it

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters of the network, with their names in it."""
        yield from self.module.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over the buffers of the network, with their names in it."""
        yield from self.module.named_buffers(*args, **kwargs)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Iterate over the network and the modules in it, with their names in it."""
        yield from self.module.named_modules(*args, **kwargs)

    def register_comm_hook(self, state: object, hook: Any) -> None:
        """Let a function exchange the gradients, if PyTorch computes their means."""
        if not self.is_eager:
            raise ConfigurationError(
                "register_comm_hook() has no effect on the CPU, because Helios exchanges the"
                " gradients there, and not DDP: call it only if self.device is a GPU."
            )
        super().register_comm_hook(state, hook)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _same, (self.module,)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def __getitem__(self, key: Any) -> Any:
        return self.module[key]


def _same(module: nn.Module) -> nn.Module:
    return module


def _remove_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    inner = f"{prefix}module."
    for name in [each for each in state if each.startswith(inner)]:
        state[prefix + name.removeprefix(inner)] = state.pop(name)


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    for name in [each for each in state if each.startswith(prefix)]:
        state[f"{prefix}module.{name.removeprefix(prefix)}"] = state.pop(name)
