"""Sums of tensors over the virtual ranks of several processes, in the order of a tree."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist

from helios.core.tree import Span, Sum, tree_of

# PyTorch 2.13 has renamed it.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_ALIGNMENT = 64  # bytes: no number lies in two chunks
_IDENTITY = -0.0  # x + -0.0 is x for each x, but -0.0 + 0.0 is 0.0

Sums = Mapping[Span, Sequence[torch.Tensor | None]]
"""The sums of the nodes that a process owns. Each is a list of tensors; ``None`` adds nothing."""


class Transport(Protocol):
    """The two collectives that an exchange needs, on tensors of bytes."""

    def scatter(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        """Send chunk ``i`` of a tensor to process ``i``, and receive one chunk from each."""

    def gather(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        """Receive the tensors of all processes, in the order of their ranks."""


class ProcessGroup:
    """The default process group of PyTorch."""

    def scatter(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        """Send chunk ``i`` of a tensor to process ``i``, and receive one chunk from each."""
        dist.all_to_all_single(received, sent)

    def gather(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        """Receive the tensors of all processes, in the order of their ranks."""
        _all_gather(received, sent)


class Exchange:
    """Adds up the tensors of all virtual ranks, each of which belongs to one process.

    A process adds up one chunk of all tensors, and receives the sums of the other chunks. This
    moves as many bytes as an all-reduce does.

    Args:
        terms: the number of virtual ranks, a multiple of the number of processes.
        rank: the rank of this process.
        world_size: the number of processes.
        transport: the collectives; those of PyTorch by default.
    """

    def __init__(
        self, terms: int, rank: int, world_size: int, transport: Transport | None = None
    ) -> None:
        self._tree = tree_of(terms)
        self._rank = rank
        self._world_size = world_size
        self._transport = ProcessGroup() if transport is None else transport
        own = terms // world_size
        blocks = [(first, first + own) for first in range(0, terms, own)]
        self._nodes = [self._tree.nodes(block) for block in blocks]
        self._layout: _Layout | None = None

    def total(self, sums: Sums, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the sums over all virtual ranks, the same in all processes.

        All processes call this method at the same point.

        Args:
            sums: the sums of the nodes of this process.
            like: tensors with the shapes, types and device of each sum.

        Returns:
            Tensors that are valid until the next call.
        """
        rows = max(map(len, self._nodes))
        if self._layout is None or not self._layout.fits(like):
            self._layout = _Layout(like, self._world_size, rows)
        layout = self._layout
        for row, node in enumerate(self._nodes[self._rank]):
            layout.fill(row, sums[node])
        sent = layout.rows
        if rows > 1:
            sent = sent.view(rows, self._world_size, -1).transpose(0, 1).contiguous()
        self._transport.scatter(sent.view(-1), layout.received.view(-1))
        for dtype, start, stop in layout.regions_of(self._rank):
            layout.chunk[start:stop].view(dtype).copy_(self._add_up(layout, dtype, start, stop))
        self._transport.gather(layout.chunk, layout.result)
        return layout.views

    def _add_up(self, layout: "_Layout", dtype: torch.dtype, start: int, stop: int) -> torch.Tensor:
        whole: Sum[torch.Tensor] = Sum(self._tree, self._tree.root, torch.Tensor.add_)
        for process, nodes in enumerate(self._nodes):
            for row, node in enumerate(nodes):
                whole.add(node, layout.received[process, row, start:stop].view(dtype))
        return whole.nodes[self._tree.root]


class _Layout:
    """The places of tensors in a buffer of bytes, which is divided into a chunk per process."""

    def __init__(self, like: Sequence[torch.Tensor], world_size: int, rows: int) -> None:
        self._like = list(like)
        self._regions: list[tuple[torch.dtype, int, int]] = []
        places: dict[int, int] = {}
        end = 0
        for dtype in dict.fromkeys(tensor.dtype for tensor in like):
            start = end
            for number, tensor in enumerate(like):
                if tensor.dtype is dtype:
                    places[number] = end
                    end += _aligned(tensor.numel() * tensor.element_size())
            self._regions.append((dtype, start, end))
        self._size = _aligned(math.ceil(end / world_size))
        device = like[0].device

        def bytes_of(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.uint8, device=device)

        self.rows = bytes_of(rows, self._size * world_size)
        self.received = bytes_of(world_size, rows, self._size)
        self.chunk = bytes_of(self._size)
        self.result = bytes_of(self._size * world_size)
        self._sent = [self._views_in(row, places) for row in self.rows]
        self.views = self._views_in(self.result, places)

    def _views_in(self, buffer: torch.Tensor, places: dict[int, int]) -> list[torch.Tensor]:
        views = []
        for number, tensor in enumerate(self._like):
            start = places[number]
            part = buffer[start : start + tensor.numel() * tensor.element_size()]
            views.append(part.view(tensor.dtype).view(tensor.shape))
        return views

    def fits(self, like: Sequence[torch.Tensor]) -> bool:
        return len(like) == len(self._like) and all(map(_is_alike, like, self._like))

    def fill(self, row: int, tensors: Sequence[torch.Tensor | None]) -> None:
        views: list[torch.Tensor] = []
        present: list[torch.Tensor] = []
        for view, tensor in zip(self._sent[row], tensors, strict=True):
            if tensor is None:
                view.fill_(_IDENTITY if view.is_floating_point() or view.is_complex() else 0)
            else:
                views.append(view)
                present.append(tensor)
        if present:
            torch._foreach_copy_(views, present)

    def regions_of(self, rank: int) -> list[tuple[torch.dtype, int, int]]:
        """Return the type, start and end of the numbers in the chunk of a process."""
        first = rank * self._size
        found = []
        for dtype, start, stop in self._regions:
            start, stop = max(start, first), min(stop, first + self._size)
            if start < stop:
                found.append((dtype, start - first, stop - first))
        return found


def _is_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (one.shape == other.shape and one.dtype is other.dtype)


def _aligned(size: int) -> int:
    return math.ceil(size / _ALIGNMENT) * _ALIGNMENT
