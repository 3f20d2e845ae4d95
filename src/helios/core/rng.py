"""Random number generators: seeding, saving, restoring, and leaving them alone.

The state of a run covers PyTorch (CPU and every visible GPU), Python's :mod:`random`, NumPy's
global generator, and the NumPy generator that Helios offers to users.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

DEFAULT_SEED = 6691

_generator: np.random.Generator | None = None


def seed_rngs(seed: int | None = None, skip_torch: bool = False) -> None:
    """Seed every generator of this process.

    Args:
        seed: a non-negative number; 6691 by default.
        skip_torch: leave PyTorch's generators as they are.
    """
    global _generator
    seed = DEFAULT_SEED if seed is None else seed
    if not skip_torch:
        torch.manual_seed(seed)  # the GPUs too, lazily
    random.seed(seed)
    np.random.seed(seed % 2**32)
    _generator = np.random.Generator(np.random.PCG64(seed))


def get_default_numpy_rng() -> np.random.Generator:
    """Return the NumPy generator that is seeded, saved and restored with the run.

    Raises:
        RuntimeError: nothing has been seeded yet.
    """
    if _generator is None:
        raise RuntimeError(
            "the NumPy generator has not been seeded: call helios.core.rng.seed_rngs() first"
            " (Trainer.fit and Trainer.test do)."
        )
    return _generator


def get_rng_state_dict() -> dict[str, Any]:
    """Return the state of every generator as plain containers and tensors.

    Returns:
        A dictionary with the keys ``torch``, ``rand`` and ``numpy``, and ``cuda`` (one tensor a
        device) where CUDA has been used. It can be loaded with ``weights_only=True``.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "rand": random.getstate(),
        "numpy": {
            "global": (str(kind), torch.from_numpy(np.array(keys)), position, has_gauss, cached),
            "generator": None if _generator is None else _generator.bit_generator.state,
        },
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def load_rng_state_dict(state: dict[str, Any]) -> None:
    """Restore what :func:`get_rng_state_dict` returned.

    Args:
        state: the saved state. A ``cuda`` entry is ignored on a machine without CUDA.
    """
    global _generator
    torch.set_rng_state(state["torch"])
    random.setstate(state["rand"])
    kind, keys, position, has_gauss, cached = state["numpy"]["global"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, cached))
    if state["numpy"]["generator"] is not None:
        bits = np.random.PCG64()
        bits.state = state["numpy"]["generator"]
        if _generator is None:
            _generator = np.random.Generator(bits)
        else:
            _generator.bit_generator.state = bits.state
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def preserved_rng_state() -> Iterator[None]:
    """Restore every generator on the way out, whatever the block draws."""
    state = get_rng_state_dict()
    try:
        yield
    finally:
        load_rng_state_dict(state)
