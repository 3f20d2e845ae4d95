"""Sharded checkpoints: folders to which each rank writes its own parts of divided tensors.

A folder holds the files of :mod:`torch.distributed.checkpoint`, and a file of Helios for everything
else, with the sizes and the checksums of the others. It gets its name when all of them are durable.
"""

import contextlib
import hashlib
import io
import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.distributed.checkpoint import metadata as records
from torch.distributed.checkpoint import planner as plans
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from helios.checkpoints import storage
from helios.checkpoints.naming import CONTENT, PREVIOUS, TEMPORARY
from helios.checkpoints.sharded_load import problem_of
from helios.checkpoints.shards import Shards
from helios.core import Ranks
from helios.errors import ConfigurationError, DamagedCheckpointError, HeliosError, describe

T = TypeVar("T")


def save(payload: dict[str, Any], path: pathlib.Path, shards: Shards, group: Ranks) -> None:
    """Write a sharded checkpoint, so that it is complete and durable, or absent.

    All ranks must call this. If one of them fails, all raise its error.

    Args:
        payload: the content, without the divided tensors; rank 0 writes its own.
        path: the path of the folder to create or replace.
        shards: the divided tensors.
        group: the processes of the run.

    Raises:
        CheckpointError: the payload holds a value that could not be loaded again.
        ConfigurationError: a rank does not see the folders of rank 0.
        OSError: a file cannot be written. A folder at ``path`` does not change.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        _in_rank_zero(group, lambda: _create(temporary))
        _together(group, lambda: _require_shared(temporary))
        files = _write(shards, temporary, group)
        found = _together(group, lambda: _verify_written(temporary, files))
        pieces = {name: piece for each in found for name, piece in each.items()}
        whole = {**payload, "shards": {"files": pieces, "tensors": shards.table}}
        _in_rank_zero(group, lambda: _complete(whole, temporary, path))
    except BaseException:
        if group.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def require_shared(folder: pathlib.Path, group: Ranks) -> None:
    """Raise an error if a rank does not see a folder of rank 0; all ranks must call this.

    Raises:
        ConfigurationError: a rank does not see it.
    """
    _together(group, lambda: _require_shared(folder))


def _create(temporary: pathlib.Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()


def _require_shared(folder: pathlib.Path) -> None:
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder} does not exist on {socket.gethostname()}, but rank 0 has created it, and"
            ' with parallel="fsdp" each rank writes its part of a checkpoint: pass a folder of a'
            " file system that all nodes share as run_root or chkpt_root."
        )


def _write(shards: Shards, folder: pathlib.Path, group: Ranks) -> "_Files":
    """Write the parts of this rank, and return the files with what they must hold."""
    writer = _Writer(folder)
    try:
        save_shards(
            shards.parts, storage_writer=writer, planner=_Planner(), process_group=group.channel
        )
    except CheckpointException as error:  # the same in all ranks
        rank, (first, _) = min(error.failures.items(), key=lambda item: item[0])
        first.add_note(f"rank {rank} could not write its part of the checkpoint {folder.stem}")
        raise first from None
    return writer.files


def _verify_written(folder: pathlib.Path, files: "_Files") -> dict[str, dict[str, Any]]:
    pieces = {name: {"bytes": n, "sha256": digest} for name, (n, digest) in files.written.items()}
    if any(problem_of(folder, name, piece) for name, piece in pieces.items()):
        raise DamagedCheckpointError(
            f"the checkpoint {folder.stem} is damaged: the disk returns other data than was"
            " written. The previous checkpoint is unchanged; check the disk."
        )
    return pieces


def _complete(payload: dict[str, Any], temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Write the last file of a folder, and give the folder its name."""
    storage.save(payload, temporary / CONTENT)  # this makes the names of all files durable, too
    previous = path.with_name(path.name + PREVIOUS)
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)  # found under this name, if this process is killed now
    temporary.rename(path)
    storage.sync_folder(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _in_rank_zero(group: Ranks, work: Callable[[], None]) -> None:
    _together(group, work if group.rank == 0 else lambda: None)


def _together(group: Ranks, work: Callable[[], T]) -> list[T]:
    """Let each rank work, and return all results; raise the first error in all ranks."""
    result, own = None, None
    try:
        result = work()
    except Exception as error:
        own = error
    sent: Exception | None = own
    if own is not None and not isinstance(own, OSError | HeliosError):
        sent = RuntimeError(describe(own))  # other ranks may not be able to unpickle it
    outcomes: list[tuple[Any, Exception | None]] = group.gather((result, sent))
    for rank, (_, raised) in enumerate(outcomes):
        if raised is not None:
            if rank == group.rank and own is not None:
                raise own
            raised.add_note(f"raised in rank {rank}")
            raise raised
    return [each for each, _ in outcomes]


class _Planner(DefaultSavePlanner):
    """Plans to write the parts of this rank, which need not be on a device of the mesh."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> plans.SavePlan:
        self.plan = plans.SavePlan([*self._items()])
        return self.plan

    def _items(self) -> Iterator[plans.WriteItem]:
        for name, part in self.state_dict.items():
            shape, local = torch.Size(part.shape), part.local
            if local.numel() == 0 and shape.numel() > 0:
                continue  # the tensor has fewer rows than there are ranks
            chunk = records.ChunkStorageMetadata(torch.Size(part.offsets), local.size())
            properties = records.TensorProperties.create_from_tensor(local)
            yield plans.WriteItem(
                records.MetadataIndex(name, chunk.offsets),
                plans.WriteItemType.SHARD,
                tensor_data=plans.TensorWriteData(chunk, properties, shape),
            )

    def resolve_data(self, write_item: plans.WriteItem) -> torch.Tensor:
        part: torch.Tensor = self.state_dict[write_item.index.fqn].local
        return part.detach()


class _Writer(FileSystemWriter):
    """Writes files, and remembers what they must hold."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        self.fs = self.files = _Files()

    def storage_meta(self) -> records.StorageMeta:
        return records.StorageMeta()  # the folder may move


class _Files(FileSystem):
    """A file system that remembers what was written.

    Attributes:
        written: size and checksum of each file, by name.
    """

    def __init__(self) -> None:
        self.written: dict[str, tuple[int, str]] = {}

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        with _File(path) as file:
            yield file
        self.written[pathlib.Path(path).name] = file.size, file.digest.hexdigest()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.written[pathlib.Path(new_path).name] = self.written.pop(pathlib.Path(path).name)


class _File(io.FileIO):
    """A new file, which is durable when it is closed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        super().__init__(path, "wb")

    def write(self, data: Any) -> int:
        whole = memoryview(data).cast("B")
        self.digest.update(whole)
        rest = whole
        while rest:
            rest = rest[super().write(rest) :]
        self.size += len(whole)
        return len(whole)

    def close(self) -> None:
        if not self.closed:
            try:
                os.fsync(self.fileno())
            finally:
                super().close()
