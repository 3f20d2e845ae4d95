"""The generators of random numbers that samples draw from.

These are PyTorch's generator of the CPU, :mod:`random`, NumPy's global generator, and the
generator of :func:`helios.core.rng.get_default_numpy_rng`. Saving and restoring all four for each
batch would take longer than many training steps, so this module has a cheap way to see that a
generator has not moved: a copy of its memory.
"""

import abc
import ctypes
import random
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from helios.core import rng

_TWISTER = 624  # 32-bit words of a Mersenne Twister; Python and NumPy keep a position beside them
_Memory = ctypes.Array[ctypes.c_char]
_BYTES = ctypes.c_char * (4 * (_TWISTER + 1))


class CPUGenerator(abc.ABC):
    """One of the generators that samples draw from."""

    @abc.abstractmethod
    def seed(self, seed: int) -> None:
        """Seed the generator, as :func:`helios.core.rng.reseed_cpu_rngs` does."""

    @property
    def seeder(self) -> Callable[[int], Any]:
        """The fastest function that does what :meth:`seed` does."""
        return self.seed

    @abc.abstractmethod
    def mark(self) -> Any:
        """Return a value that differs after any draw; but see :meth:`may_move_unseen`."""

    @abc.abstractmethod
    def save(self, mark: Any) -> Any:
        """Return the state of the generator.

        Args:
            mark: the mark of the generator, taken just now.
        """

    @abc.abstractmethod
    def restore(self, state: Any) -> None:
        """Restore what :meth:`save` returned."""

    def may_move_unseen(self, state: Any) -> bool:
        """Return whether a draw in this state may leave the mark as it is."""
        return False


class _Torch(CPUGenerator):
    def __init__(self) -> None:
        self._seed = torch.default_generator.manual_seed
        self._get_state = torch.default_generator.get_state
        self._size = self._get_state().numel()

    def seed(self, seed: int) -> None:
        self._seed(seed)

    @property
    def seeder(self) -> Callable[[int], Any]:
        return self._seed

    def mark(self) -> bytes:
        state = self._get_state()  # alive until its memory is copied
        return ctypes.string_at(state.data_ptr(), self._size)

    def save(self, mark: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(mark), dtype=torch.uint8)

    def restore(self, state: torch.Tensor) -> None:
        torch.default_generator.set_state(state)


class _Python(CPUGenerator):
    def __init__(self) -> None:
        self._random: random.Random = random.random.__self__  # type: ignore[attr-defined]  # a bound method
        # Python's own method, which random.Random wraps for seeds of other types, at 1 us a call.
        self._seed = super(random.Random, self._random).seed  # type: ignore[misc]  # it is one
        self._get_state = self._random.getstate
        self._memory = self._find_memory()

    def _find_memory(self) -> _Memory | None:
        """Return the memory of the generator; ``None`` if this interpreter keeps it elsewhere.

        ``getstate`` takes 16 us, since it makes 625 numbers.
        """
        place, size = object.__basicsize__, ctypes.sizeof(_BYTES)
        kept_in_c: Any = random.Random.__base__
        if sys.implementation.name != "cpython" or kept_in_c.__basicsize__ < place + size:
            return None
        memory = _BYTES.from_address(id(self._random) + place)
        *words, position = self._get_state()[1]
        return memory if memory.raw == struct.pack(f"=i{_TWISTER}I", position, *words) else None

    def seed(self, seed: int) -> None:
        self._seed(seed)
        self._random.gauss_next = None  # type: ignore[attr-defined]  # gauss() keeps a second number

    def mark(self) -> Any:
        if self._memory is None:
            return self._get_state()
        return self._memory.raw, self._random.gauss_next  # type: ignore[attr-defined]  # see seed()

    def save(self, mark: Any) -> Any:
        return mark  # the whole state

    def restore(self, state: Any) -> None:
        if self._memory is None:
            self._random.setstate(state)
            return
        self._memory.raw, self._random.gauss_next = state  # type: ignore[attr-defined]  # see seed()


class _NumPy(CPUGenerator):
    def __init__(self) -> None:
        self._get_state = np.random.get_state
        self._bits: Any = None
        self._memory: _Memory | None = None

    def seed(self, seed: int) -> None:
        np.random.seed(seed >> 32)

    def _find_memory(self, bits: Any) -> None:
        """Find the memory of NumPy's bit generator, by the address that it publishes.

        ``get_state`` and ``set_state`` take 50 us each.
        """
        self._bits, self._memory = bits, None
        if isinstance(bits, np.random.MT19937):
            memory = _BYTES.from_address(bits.ctypes.state_address)
            inner = bits.state["state"]
            if memory.raw == inner["key"].astype(np.uint32).tobytes() + struct.pack(
                "=i", inner["pos"]
            ):
                self._memory = memory

    def mark(self) -> Any:
        bits = np.random.get_bit_generator()  # type: ignore[attr-defined]  # its stubs lack it
        if bits is not self._bits:
            self._find_memory(bits)
        if self._memory is None:
            return repr(self._get_state(legacy=True))
        return self._memory.raw

    def save(self, mark: Any) -> Any:
        return mark, self._get_state(legacy=True)

    def restore(self, state: Any) -> None:
        mark, full = state
        if self._memory is None or self.may_move_unseen(state):
            np.random.set_state(full)
            return
        np.random.seed(0)  # forgets the second number that randn() may have kept
        ctypes.memmove(self._memory, mark, len(mark))

    def may_move_unseen(self, state: Any) -> bool:
        """Return whether ``randn`` has kept a second number, which it returns without a move."""
        return bool(state[1][3])


class _Helios(CPUGenerator):
    def __init__(self) -> None:
        self._generator: rng.SeededGenerator | None = None
        self._memory: tuple[_Memory, _Memory] | None = None

    def seed(self, seed: int) -> None:
        rng.reseed_default_numpy_rng(seed)

    def _find_memory(self, generator: rng.SeededGenerator) -> None:
        """Find the memory of the bit generator: a pointer to its numbers, and a kept half."""
        self._generator, self._memory = generator, None
        bits: Any = generator.bit_generator
        if isinstance(bits, np.random.PCG64):
            head = (ctypes.c_char * 16).from_address(bits.ctypes.state_address)
            words = (ctypes.c_char * 32).from_address(int.from_bytes(head.raw[:8], sys.byteorder))
            state = bits.state
            numbers = [
                state["state"][name].to_bytes(16, sys.byteorder) for name in ("state", "inc")
            ]
            half = struct.pack("=iI", state["has_uint32"], state["uinteger"])
            if words.raw == b"".join(numbers) and head.raw[8:] == half:
                self._memory = head, words

    def mark(self) -> Any:
        generator = rng.peek_default_numpy_rng()
        if generator is None:
            return None
        if generator is not self._generator:
            self._find_memory(generator)
        if self._memory is None:
            return generator, generator.bit_generator.state
        head, words = self._memory
        return generator, head.raw, words.raw

    def save(self, mark: Any) -> Any:
        return None if mark is None else (mark[0], mark[0].bit_generator.state)

    def restore(self, state: Any) -> None:
        generator, bits = (None, None) if state is None else state
        rng.replace_default_numpy_rng(generator)
        if generator is not None:
            generator.bit_generator.state = bits

    def may_move_unseen(self, state: Any) -> bool:
        """Return whether no generator exists: a sample can draw from it only after a seed."""
        return state is None


CPU_GENERATORS: tuple[CPUGenerator, ...] = (_Torch(), _Python(), _NumPy(), _Helios())
"""The generators that :func:`helios.core.rng.reseed_cpu_rngs` seeds."""


class KeptStates:
    """The states of the generators before samples are loaded.

    A state is saved again only if the generator has moved since.
    """

    def __init__(self) -> None:
        self._kept: dict[CPUGenerator, tuple[Any, Any, bool]] = {}

    def __reduce__(self) -> Any:
        return KeptStates, ()  # the states of this process mean nothing in another one

    def keep(self, generators: Iterable[CPUGenerator] = CPU_GENERATORS) -> list[CPUGenerator]:
        """Save the states of these generators, and return those that may move unseen."""
        unsure = []
        for generator in generators:
            mark = generator.mark()
            kept = self._kept.get(generator)
            if kept is None or kept[2] or kept[0] != mark:
                state = generator.save(mark)
                kept = mark, state, generator.may_move_unseen(state)
                self._kept[generator] = kept
            if kept[2]:
                unsure.append(generator)
        return unsure

    def have_moved(self, generators: Iterable[CPUGenerator]) -> bool:
        """Return whether any of these generators has moved since it was kept."""
        for generator in generators:  # noqa: SIM110 - any() takes twice as long
            if self._kept[generator][0] != generator.mark():
                return True
        return False

    def restore(self, generators: Iterable[CPUGenerator] = CPU_GENERATORS) -> None:
        """Restore the states of these generators, as they were kept."""
        for generator in generators:
            generator.restore(self._kept[generator][1])


class StateReads:
    """Counts the calls that read the state of a generator, between :meth:`begin` and :meth:`end`.

    A sample may draw inside ``torch.random.fork_rng()``, or derive a seed of its own from
    ``torch.initial_seed()``. It then depends on the generator, but leaves it as it was.
    """

    _FUNCTIONS = (
        (torch, "get_rng_state"),  # fork_rng() calls it
        (torch.random, "get_rng_state"),
        (torch, "initial_seed"),
        (torch.random, "initial_seed"),
        (random, "getstate"),
        (np.random, "get_state"),
    )

    def __init__(self) -> None:
        self.count = 0
        self._found: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._watches = [(vars(where), name, self._watch()) for where, name in self._FUNCTIONS]

    def _watch(self) -> Callable[..., Any]:
        def watch(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return self._found[watch](*args, **kwargs)

        return watch

    def begin(self) -> bool:
        """Count from now on; return whether nobody else has begun, so that the caller ends it."""
        has_begun = False
        for names, name, watch in self._watches:
            found = names[name]
            if found is not watch:
                self._found[watch] = found
                names[name] = watch
                has_begun = True
        return has_begun

    def end(self) -> None:
        """Put the functions back that :meth:`begin` replaced."""
        for names, name, watch in self._watches:
            if names[name] is watch:
                names[name] = self._found[watch]


STATE_READS = StateReads()
"""The one counter of this process."""
