"""Helpers for CUDA."""

import contextlib
from collections.abc import Iterator

import torch


def requires_cuda_support() -> None:
    """Raise ``RuntimeError`` if PyTorch cannot use CUDA in this process."""
    if not torch.cuda.is_available():
        raise RuntimeError(
            "this needs CUDA, and PyTorch finds no CUDA device here"
            f" (torch {torch.__version__}). Use a machine with a GPU and a CUDA build of PyTorch."
        )


@contextlib.contextmanager
def DisableCuDNNBenchmarkContext() -> Iterator[None]:  # noqa: N802 - founding name
    """Switch cuDNN's benchmark mode off inside the block, and restore it after the block."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
