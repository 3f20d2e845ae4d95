"""The checks of a save: the file is compared with the memory that it was written from."""

import hashlib
import os
import pathlib
import threading
from typing import Any

import pytest
import torch
from helpers import names

from helios.checkpoints import checksum, storage
from helios.checkpoints.checksum import BLOCK, Checksum, Task
from helios.errors import CheckpointError
from helios.testing import equal


@pytest.fixture
def payload() -> dict[str, Any]:
    """Tensors that are smaller and larger than a block, that share memory, and that are views."""
    large = torch.randn(BLOCK // 4 * 2 + 10)
    return {
        "large": large,
        "part": large[7:100:3],
        "small": [torch.arange(3), torch.zeros(0), torch.tensor(1.5)],
        "text": "a" * 9000,
    }


def without_a_second_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_file(*arguments: Any) -> bytes:
        raise AssertionError("the file was digested a second time")

    monkeypatch.setattr(storage, "of_file", of_file)


def test_checksum_is_that_of_the_file(tmp_path: pathlib.Path, payload: Any) -> None:
    path = tmp_path / "x.pth"
    storage.save(payload, path)
    content = path.read_bytes()
    archive, _, digest = content.rpartition(b"\nhelios sha256 ")
    assert hashlib.sha256(archive).hexdigest().encode() == digest
    assert equal(storage.load(path), payload)
    assert equal(torch.load(path, weights_only=True), payload)


def test_save_serialises_and_digests_once(
    tmp_path: pathlib.Path, payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []
    real = torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: saves.append(real(*arguments)))
    without_a_second_checksum(monkeypatch)
    storage.save(payload, tmp_path / "x.pth")
    assert len(saves) == 1


@pytest.mark.parametrize("place", [3, 64, 3000, BLOCK, 2 * BLOCK, -500, -79, -1])
def test_any_change_on_the_disk_is_found(
    tmp_path: pathlib.Path, payload: Any, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    path = tmp_path / "x.pth"
    storage.save({"before": 1}, path)
    real, temporary = os.fsync, tmp_path / "x.pth.tmp"

    def fsync(descriptor: int) -> None:
        real(descriptor)
        with open(temporary, "r+b") as file:
            file.seek(place, 0 if place > 0 else 2)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError, match="is damaged"):
        storage.save(payload, path)
    monkeypatch.undo()
    assert names(tmp_path) == ["x.pth"]
    assert storage.load(path) == {"before": 1}


def test_memory_that_changes_meanwhile_is_no_damage(
    tmp_path: pathlib.Path, payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.save

    def save(value: Any, file: Any) -> None:
        real(value, file)
        value["large"].add_(1)  # as a thread of the user's may do

    before = payload["large"].clone()
    monkeypatch.setattr(torch, "save", save)
    storage.save(payload, tmp_path / "x.pth")
    assert torch.equal(storage.load(tmp_path / "x.pth")["large"], before)


class CopiedWhileSaved:
    """Saves tensors as PyTorch saves those of a GPU: from copies that exist for a moment."""

    def __init__(self) -> None:
        self._real = torch.save

    def __call__(self, value: Any, file: Any) -> None:
        self._real({name: tensor.clone() for name, tensor in value.items()}, file)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_tensors_of_a_device_are_verified_by_their_checksum(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    calls = []

    def of_file(path: pathlib.Path, size: int) -> bytes:
        calls.append(size)
        return b"another" if is_damaged else checksum.of_file(path, size)

    monkeypatch.setattr(torch, "save", CopiedWhileSaved())
    monkeypatch.setattr(storage, "of_file", of_file)
    path = tmp_path / "x.pth"
    value = {"x": torch.randn(5 * BLOCK)}
    if is_damaged:
        with pytest.raises(CheckpointError, match="the disk returns other data than was written"):
            storage.save(value, path)
    else:
        storage.save(value, path)
    assert len(calls) == 1
    assert names(tmp_path) == ([] if is_damaged else ["x.pth"])


def test_the_disk_works_while_data_is_digested(
    tmp_path: pathlib.Path, payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SYNCED", BLOCK)
    real, sizes = os.fsync, []

    def fsync(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "x.pth"
    storage.save(payload, path)
    early, whole, _ = sizes  # the last one is that of the folder
    assert BLOCK <= early < whole == path.stat().st_size
    assert equal(storage.load(path), payload)


def test_error_of_an_early_sync_ends_the_save(
    tmp_path: pathlib.Path, payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SYNCED", BLOCK)
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # as the system does, which reports it once
            raise OSError(5, "Input/output error")
        real(descriptor)

    before = threading.enumerate()
    path = tmp_path / "x.pth"
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error") as caught:
        storage.save(payload, path)
    assert "is not saved" in caught.value.__notes__[0]
    assert names(tmp_path) == []
    assert threading.enumerate() == before


@pytest.mark.parametrize("synced", [BLOCK, 100 * BLOCK])
def test_no_thread_outlives_a_failed_save(
    tmp_path: pathlib.Path, payload: Any, monkeypatch: pytest.MonkeyPatch, synced: int
) -> None:
    monkeypatch.setattr(storage, "_SYNCED", synced)
    real = torch.save

    def save(value: Any, file: Any) -> None:
        real(value, file)
        raise OSError(28, "No space left on device")

    before = threading.enumerate()
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space left"):
        storage.save(payload, tmp_path / "x.pth")
    assert threading.enumerate() == before


def test_damage_is_told_rather_than_what_it_leads_to(tmp_path: pathlib.Path, payload: Any) -> None:
    path = tmp_path / "x.pth"
    storage.save(payload, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\1\2", b"PK\1\7"))  # PyTorch cannot read it at all
    with pytest.raises(CheckpointError, match="its checksum is wrong") as caught:
        storage.load(path)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("sizes", [[], [1], [BLOCK], [BLOCK - 1, 2, 3 * BLOCK], [10] * 5])
def test_checksum_of_parts_is_that_of_the_whole(sizes: list[int]) -> None:
    parts = [os.urandom(size) for size in sizes]
    found = Checksum()
    for part in parts:
        found.update(part)
    assert found.digest().decode() == hashlib.sha256(b"".join(parts)).hexdigest()


def test_task_raises_the_error_of_its_thread() -> None:
    with pytest.raises(ZeroDivisionError):
        Task(lambda: 1 // 0).result()
