"""A record of the data that was written to a file, for a comparison with the file."""

import pathlib
from typing import Any

import numpy as np
import torch

from helios.checkpoints import plain
from helios.checkpoints.checksum import BLOCK

_MOST_COPIED = 16 << 20  # bytes


class Written:
    """Remembers the data of each write. A comparison takes a fraction of the time of a checksum.

    Memory of the tensors is remembered by its address, since it still exists when the file is
    complete. Other data is copied.

    Args:
        payload: the plain data that is written. It must exist as long as this object.
    """

    def __init__(self, payload: Any) -> None:
        storages = [
            tensor.untyped_storage()
            for tensor in plain.tensors(payload)
            if tensor.layout is torch.strided and tensor.device.type == "cpu"
        ]
        self._memory = {storage.data_ptr(): storage for storage in storages}
        self._pieces: list[bytearray | memoryview] = []
        self._copied = 0

    def append(self, data: Any) -> None:
        """Remember the next data in the file.

        Args:
            data: an object with contiguous memory, such as bytes.
        """
        size = memoryview(data).nbytes
        address = np.frombuffer(data, np.uint8).__array_interface__["data"][0] if size else 0
        storage = self._memory.get(address)
        if storage is not None and storage.nbytes() == size:
            self._pieces.append(_bytes(storage))
            return
        self._copied += size
        if self._copied > _MOST_COPIED:
            self._pieces.clear()  # the tensors are on another device
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += data
        else:
            self._pieces.append(bytearray(data))

    def is_content_of(self, path: pathlib.Path) -> bool:
        """Return whether a file holds the remembered data, and nothing else.

        The result is also ``False`` if this cannot be told, because tensors were not in the memory
        of the host, or have changed since.
        """
        return self._copied <= _MOST_COPIED and _is_content(self._pieces, path)


def _is_content(pieces: list[bytearray | memoryview], path: pathlib.Path) -> bool:
    found = bytearray(BLOCK)
    with open(path, "rb") as file:
        for piece in pieces:
            for start in range(0, len(piece), BLOCK):
                expected = memoryview(piece)[start : start + BLOCK]
                if len(found) != len(expected):
                    found = bytearray(len(expected))
                # A bytearray compares its memory at once; a memoryview, item by item.
                if file.readinto(found) != len(expected) or found != expected:
                    return False
        return not file.read(1)


def _bytes(storage: torch.UntypedStorage) -> memoryview:
    whole: Any = storage  # torch leaves it untyped
    array: Any = torch.empty(0, dtype=torch.uint8).set_(whole).numpy()  # so does NumPy, here
    return memoryview(array)
