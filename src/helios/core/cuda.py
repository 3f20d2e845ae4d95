"""Facts and switches of CUDA."""

import contextlib
from collections.abc import Iterator

import torch


def requires_cuda_support() -> None:
    """Raise ``RuntimeError`` unless CUDA can be used here."""
    if not torch.cuda.is_available():
        raise RuntimeError(
            "this needs CUDA, and PyTorch finds no CUDA device here"
            f" (torch {torch.__version__}). Use a machine with a GPU and a CUDA build of PyTorch."
        )


@contextlib.contextmanager
def DisableCuDNNBenchmarkContext() -> Iterator[None]:  # noqa: N802 - founding name
    """Switch cuDNN's benchmark mode off inside the block, and back to what it was after it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
