"""The random numbers of virtual ranks: a function of seed, virtual rank and batch."""

import contextlib
from collections.abc import Iterator

import torch

from helios.core import rng
from helios.core.generators import KeptStates

_VIRTUAL_RANKS = 0x7669727475616C  # so that no sample of a loader gets the same seed


class Streams:
    """Seeds the generators of PyTorch, Python and NumPy for each batch of a virtual rank.

    So the random numbers do not depend on the process in which a virtual rank trains, nor on the
    batch at which a run was interrupted.

    Args:
        seed: the seed of the run.
        device: the device of this process.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = rng.derive_seed(seed, _VIRTUAL_RANKS)
        self._device = device if device.type == "cuda" else None

    def seed(self, *numbers: int) -> None:
        """Seed all generators by these numbers."""
        seed = rng.derive_seed(self._seed, *numbers)
        rng.reseed_cpu_rngs(seed)
        if self._device is not None:
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(seed)

    @contextlib.contextmanager
    def apart(self, kept: KeptStates) -> Iterator[None]:
        """Restore all generators at the end of the block.

        Args:
            kept: the states that the last such block has kept.
        """
        device = self._device
        kept.keep()
        of_device = None if device is None else torch.cuda.get_rng_state(device)
        try:
            yield
        finally:
            kept.restore()
            if device is not None and of_device is not None:
                torch.cuda.set_rng_state(of_device, device)
