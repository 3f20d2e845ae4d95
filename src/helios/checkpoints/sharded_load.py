"""Sharded checkpoints, which are folders: verified, and read by any number of ranks.

:mod:`helios.checkpoints.sharded_save` writes them.
"""

import pathlib
import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as records
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard
from torch.distributed.tensor import empty as empty_shards

from helios.checkpoints import storage
from helios.checkpoints.checksum import of_file
from helios.checkpoints.naming import CONTENT
from helios.checkpoints.shards import filled
from helios.errors import CheckpointError, DamagedCheckpointError, describe

Pieces = Mapping[str, Mapping[str, Any]]
"""The ``bytes`` and the ``sha256`` of each file of a folder but the one of Helios, by name."""


def verify(path: pathlib.Path, pieces: Pieces, names: Iterable[str] | None = None) -> None:
    """Verify files of a folder by their sizes and checksums.

    Args:
        path: the path of the folder.
        pieces: what they must hold.
        names: the names of the files; all by default.

    Raises:
        DamagedCheckpointError: a file is missing, truncated or changed.
    """
    for name in pieces if names is None else names:
        if problem := problem_of(path, name, pieces[name]):
            raise DamagedCheckpointError(f"the checkpoint {path} is damaged: {problem}.")


def problem_of(folder: pathlib.Path, name: str, piece: Mapping[str, Any]) -> str:
    """Return what is wrong with a file; ``""`` if it is as it was written."""
    file = folder / name
    if not file.is_file():
        return f"its file {name} is missing"
    if file.stat().st_size != piece["bytes"]:
        return f"its file {name} has {file.stat().st_size:,} bytes instead of {piece['bytes']:,}"
    is_same = of_file(file, piece["bytes"]) == piece["sha256"].encode()
    return "" if is_same else f"the checksum of its file {name} is wrong"


def read(path: pathlib.Path, check: Callable[[pathlib.Path, Pieces], None]) -> dict[str, Any]:
    """Verify a folder, and return its content with tensors without values for divided ones.

    Args:
        path: the path of the folder.
        check: the function that verifies the other files.

    Raises:
        DamagedCheckpointError: the content of the folder has changed.
        CheckpointError: the folder holds more than plain data.
    """
    payload = _open(path, storage.load)
    check(path, payload["shards"]["files"])
    return payload


def peek(path: pathlib.Path) -> dict[str, Any]:
    """Read a folder without verifying it, as :func:`read` does.

    Raises:
        CheckpointError: the folder cannot be read, or is not a checkpoint.
    """
    return _open(path, storage.peek)


def _open(path: pathlib.Path, load: Callable[[pathlib.Path], dict[str, Any]]) -> dict[str, Any]:
    if not (path / CONTENT).is_file():
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: it has no file {CONTENT}.")
    payload = load(path / CONTENT)
    shards = payload.get("shards")
    if not isinstance(shards, dict) or not {"files", "tensors"} <= shards.keys():
        raise CheckpointError(
            f"{path / CONTENT} is not the file of a sharded checkpoint: it does not say which"
            " tensors are divided. Remove the folder, or pass another one as chkpt_root."
        )
    return payload


def fill(path: pathlib.Path, payload: dict[str, Any], mesh: DeviceMesh | None) -> dict[str, Any]:
    """Return the content of a folder with its divided tensors.

    Args:
        path: the path of the folder.
        payload: the result of :func:`read`.
        mesh: the ranks among which the tensors are divided anew; ``None`` for whole tensors.

    Raises:
        CheckpointError: the folder holds more than plain data.
        DamagedCheckpointError: the files do not hold the tensors.
    """
    shards = payload["shards"]
    try:
        reader = _Reader(path, shards["files"])
        targets = {
            each["name"]: _empty(reader.metadata.state_dict_metadata[each["name"]], each, mesh)
            for each in shards["tensors"]
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load_shards(targets, storage_reader=reader, no_dist=True)
        tensors = {tuple(each["path"]): targets[each["name"]] for each in shards["tensors"]}
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"the checkpoint {path} is refused: it holds more than plain data, which could run"
            f" code: {error}\nHelios did not write it. Remove it to resume from the previous"
            " checkpoint."
        ) from error
    except (Exception, CheckpointException) as error:
        raise DamagedCheckpointError(
            f"the checkpoint {path} is damaged: {describe(error)}."
        ) from error
    content = filled(payload, tensors)
    del content["shards"]
    return content


def _empty(record: object, entry: Mapping[str, Any], mesh: DeviceMesh | None) -> torch.Tensor:
    """Return memory for a tensor, or for the part of this rank."""
    if not isinstance(record, records.TensorStorageMetadata):
        raise TypeError(f"{entry['name']} is not a tensor")
    size, dtype = record.size, record.properties.dtype
    if mesh is None or entry["dim"] is None:
        return torch.empty(size, dtype=dtype)
    placements = [Shard(entry["dim"])]
    return empty_shards(*size, dtype=dtype, device_mesh=mesh, placements=placements)


class _Reader(FileSystemReader):
    """Reads the files of a folder, and no others.

    Attributes:
        metadata: the tensors in the folder.
    """

    def __init__(self, folder: pathlib.Path, pieces: Pieces) -> None:
        super().__init__(folder)
        with open(folder / ".metadata", "rb") as file:
            self.metadata: records.Metadata = _Unpickler(file).load()
        places = {each.relative_path for each in self.metadata.storage_data.values()}
        if others := places - pieces.keys():
            raise ValueError(f"it refers to the file {min(others)}")

    def read_metadata(self, *args: Any, **kwargs: Any) -> records.Metadata:
        return self.metadata


class _Unpickler(pickle.Unpickler):
    """Reads the tables of :mod:`torch.distributed.checkpoint`, which are pickled, and nothing else.

    The classes are tables without behaviour, so no content of a file can run code.
    """

    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or name in _TABLES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


_TABLES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
}
