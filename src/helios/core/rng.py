"""Functions that seed, save and restore random number generators.

The state of a run covers PyTorch (CPU and every visible GPU), Python's :mod:`random`, NumPy's
global generator, and the NumPy generator that Helios offers to users.
"""

import contextlib
import operator
import random
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex, cast

import numpy as np
import torch

DEFAULT_SEED = 6691

LARGEST_SEED = 2**64 - 1
"""The largest seed; PyTorch's generators take 64 bits."""

_MASK = LARGEST_SEED
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: its multiples cover 64 bits evenly
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64
_ARRAY_GOLDEN, _ARRAY_MIX_1, _ARRAY_MIX_2 = map(np.uint64, (_GOLDEN, _MIX_1, _MIX_2))
_27, _30, _31 = map(np.uint64, (27, 30, 31))
_MANY = 16  # numbers: fewer take arrays longer than Python's own numbers
_PCG64_INCREMENT = 0x5851F42D4C957F2D14057B7EF767814F  # any odd number of 128 bits


class SeededGenerator(np.random.Generator):
    """The generator of NumPy that Helios seeds; an earlier release had a wrapper around it."""

    @property
    def generator(self) -> "SeededGenerator":
        """The generator itself."""
        return self


_generator: SeededGenerator | None = None


def get_default_seed() -> int:
    """Return the seed of runs without ``Trainer(random_seed=...)``."""
    return DEFAULT_SEED


def seed_rngs(seed: int | None = None, skip_torch: bool = False) -> None:
    """Seed every generator of this process.

    Args:
        seed: the seed, a non-negative number; 6691 by default.
        skip_torch: ``True`` to leave PyTorch's generators unchanged.
    """
    global _generator
    seed = DEFAULT_SEED if seed is None else seed
    if not skip_torch:
        torch.manual_seed(seed)  # the GPUs' generators, too, at their first use
    random.seed(seed)
    np.random.seed(seed % 2**32)
    _generator = SeededGenerator(np.random.PCG64(seed))


def get_default_numpy_rng() -> SeededGenerator:
    """Return the NumPy generator that Helios seeds, saves and restores with the run.

    Raises:
        RuntimeError: no generator has been seeded yet.
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
        A dictionary with the keys ``torch``, ``rand`` and ``numpy``, and ``cuda`` (one tensor per
        device) if CUDA has been used. It can be loaded with ``weights_only=True``.
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
            _generator = SeededGenerator(bits)
        else:
            _generator.bit_generator.state = bits.state
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def preserved_rng_state() -> Iterator[None]:
    """Restore every generator at the end of the block."""
    state = get_rng_state_dict()
    try:
        yield
    finally:
        load_rng_state_dict(state)


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Return ``seed + epoch``; after :data:`LARGEST_SEED`, the seeds begin again at 0.

    Args:
        seed: the seed of a run or of a loader.
        epoch: the number of the epoch.
    """
    return (seed + epoch) % (LARGEST_SEED + 1)


def derive_seed(seed: int, *numbers: int) -> int:
    """Mix whole numbers into a seed, one after the other.

    Each step is one output of splitmix64, so that neighbours (the next sample, the next epoch) get
    unrelated seeds. ``derive_seed(a, b, c)`` is
    ``derive_seed(derive_seed(a, b), c)``.

    Args:
        seed: the first seed; only its lowest 64 bits count.
        numbers: the numbers to mix in, such as an epoch and the number of a sample.

    Returns:
        A number of 64 bits. For one ``seed``, two different numbers never give the same result.
    """
    for number in numbers:
        seed = (seed + _GOLDEN * (number + 1)) & _MASK
        seed = ((seed ^ (seed >> 30)) * _MIX_1) & _MASK
        seed = ((seed ^ (seed >> 27)) * _MIX_2) & _MASK
        seed ^= seed >> 31
    return seed


def derive_seeds(seed: int, numbers: Sequence[SupportsIndex]) -> list[int]:
    """Return ``derive_seed(seed, number)`` for each of these numbers.

    Args:
        seed: the first seed.
        numbers: the numbers to mix in.
    """
    if len(numbers) >= _MANY:
        with contextlib.suppress(OverflowError):  # a number has more than 64 bits
            return _derive_with_arrays(seed, numbers)
    return [derive_seed(seed, operator.index(number)) for number in numbers]


def _derive_with_arrays(seed: int, numbers: Sequence[SupportsIndex]) -> list[int]:
    """Do the work of :func:`derive_seeds`: 32 numbers take 8 us in place of 18 us."""
    signed = np.fromiter(map(operator.index, numbers), np.int64, len(numbers))
    seeds = signed.view(np.uint64)  # modulo 2**64, as are the operations on arrays
    seeds *= _ARRAY_GOLDEN
    seeds += np.uint64((seed + _GOLDEN) & _MASK)
    seeds ^= seeds >> _30
    seeds *= _ARRAY_MIX_1
    seeds ^= seeds >> _27
    seeds *= _ARRAY_MIX_2
    seeds ^= seeds >> _31
    return cast(list[int], seeds.tolist())


def reseed_cpu_rngs(seed: int) -> None:
    """Seed the generators that samples draw from, as fast as possible.

    These are PyTorch's generator of the CPU, :mod:`random`, NumPy's global generator, and the
    generator of :func:`get_default_numpy_rng`. Unlike :func:`seed_rngs`, this function constructs
    no new objects and does not seed the GPUs.

    Args:
        seed: a seed of 64 well-mixed bits, as :func:`derive_seed` returns.
    """
    # PyTorch and NumPy use 32 bits and the same algorithm, so each gets its own half.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed >> 32)
    random.seed(seed)
    reseed_default_numpy_rng(seed)


def reseed_default_numpy_rng(seed: int) -> None:
    """Seed the generator of :func:`get_default_numpy_rng` alone, as :func:`reseed_cpu_rngs` does.

    Args:
        seed: a seed of 64 well-mixed bits.
    """
    global _generator
    if _generator is None:
        _generator = SeededGenerator(np.random.PCG64(0))
    _generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": seed << 64 | seed ^ _GOLDEN, "inc": _PCG64_INCREMENT},
        "has_uint32": 0,
        "uinteger": 0,
    }


def peek_default_numpy_rng() -> SeededGenerator | None:
    """Return the generator of :func:`get_default_numpy_rng`, or ``None`` if none was seeded."""
    return _generator


def replace_default_numpy_rng(generator: SeededGenerator | None) -> None:
    """Let :func:`get_default_numpy_rng` return this generator."""
    global _generator
    _generator = generator


@contextlib.contextmanager
def preserved_cpu_rng_state() -> Iterator[None]:
    """Restore, at the end of the block, the generators that :func:`reseed_cpu_rngs` seeds."""
    global _generator
    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    generator = _generator
    drawn_so_far = generator.bit_generator.state if generator is not None else {}
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        _generator = generator
        if generator is not None:
            generator.bit_generator.state = drawn_so_far
