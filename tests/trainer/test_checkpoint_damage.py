"""Saves that fail and files that are damaged: a run resumes from the newest whole file."""

import logging
import pathlib
from typing import Any

import pytest
import torch
from helpers import Keeping, files, names, read

from helios.checkpoints import storage
from helios.errors import CheckpointError
from helios.testing import equal
from helios.trainer import find_last_checkpoint

# Whole files, or none.


class DiskFull(OSError):
    pass


@pytest.mark.parametrize("moment", ["writing", "syncing", "renaming"])
def test_failing_save_leaves_the_file_before(
    fit: Any, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    fit()
    (path,) = files(folder)
    before = path.read_bytes()
    real = torch.save

    def half(payload: Any, file: Any) -> None:
        real({"model": payload["model"]}, file)
        raise DiskFull("no space left")

    def fail(*arguments: Any) -> None:
        raise DiskFull("no space left")

    if moment == "writing":
        monkeypatch.setattr(torch, "save", half)
    else:
        monkeypatch.setattr(storage.os, {"syncing": "fsync", "renaming": "replace"}[moment], fail)
    with pytest.raises(DiskFull):
        fit(total_steps=2)
    monkeypatch.undo()
    assert names(folder) == [path.name]
    assert path.read_bytes() == before
    assert fit(total_steps=2)[1].state.running_iter == 6


def test_failing_save_in_place_of_a_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save({"x": 1}, path)
    real = torch.save

    def half(payload: Any, file: Any) -> None:
        real(payload, file)
        file.truncate(file.tell() // 2)
        raise DiskFull

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(DiskFull):
        storage.save({"x": 2}, path)
    assert names(tmp_path) == [path.name]
    assert storage.load(path) == {"x": 1}


@pytest.mark.parametrize("fault", ["cut", "changed"])
def test_save_that_does_not_read_back_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    real = torch.save

    def wrong(payload: Any, file: Any) -> None:
        real(payload, file)
        middle = file.tell() // 2  # inside of the tensor
        if fault == "cut":
            file.truncate(middle)
        else:
            file.seek(middle)
            file.write(b"?")
        file.seek(0, 2)

    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save({"x": 1}, path)
    monkeypatch.setattr(torch, "save", wrong)
    with pytest.raises(CheckpointError, match="is damaged"):
        storage.save({"x": torch.zeros(1000)}, path)
    assert storage.load(path) == {"x": 1}


def test_save_that_cannot_be_loaded_again_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save({"x": 1}, path)
    monkeypatch.setattr(storage.plain, "check", lambda payload: None)  # as if it missed a type
    with pytest.raises(CheckpointError):
        storage.save({"x": pathlib.Path("an object")}, path)
    assert storage.load(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_save_is_on_the_disk_before_it_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(storage.os, name)

        def call(*arguments: Any, name: str = name, real: Any = real) -> Any:
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(storage.os, name, call)
    storage.save({"x": 1}, tmp_path / "x.pth")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_leftovers_of_killed_saves_are_removed(fit: Any, folder: pathlib.Path) -> None:
    folder.mkdir()
    (folder / "tiny_epoch_9_iter_9.pth.tmp").write_bytes(b"half")
    (folder / "notes.tmp").write_text("the user's own")
    fit()
    assert names(folder) == ["notes.tmp", "tiny_epoch_1_iter_6.pth"]


# Damaged files.


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


DAMAGE = {
    "flipped in the middle": lambda content: flip(content, len(content) // 2),
    "flipped at the beginning": lambda content: flip(content, 1),
    "flipped at the end": lambda content: flip(content, len(content) - 12),
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "a tenth": lambda content: content[: len(content) // 10],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not a checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_is_skipped(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    fit(total_steps=2, chkpt_frequency=1)
    newest = folder / "tiny_epoch_2_iter_12.pth"
    whole = newest.read_bytes()
    newest.write_bytes(DAMAGE[damage](whole))
    caplog.clear()
    keeping = Keeping()
    _, trainer = fit(total_steps=2, plugins=[keeping])
    assert keeping.events == [("loaded", "tiny_epoch_1_iter_6.pth"), ("saved", newest.name)]
    assert trainer.state.running_iter == 6
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    skipped = [message for message in warnings if str(newest) in message]
    assert len(skipped) == 1
    assert "is damaged" in skipped[0]
    assert "skipped" in skipped[0]
    assert equal(read(newest)["model"], trainer.model.state_dict())  # it has been written again


def test_all_damaged_starts_anew(fit: Any, folder: pathlib.Path) -> None:
    fit()
    (path,) = files(folder)
    path.write_bytes(path.read_bytes()[:100])
    assert fit()[1].state.running_iter == 6


def test_any_damage_is_found_or_harmless(tmp_path: pathlib.Path) -> None:
    payload = {"x": torch.arange(5), "name": "a" * 20}
    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save(payload, path)
    content = path.read_bytes()
    faults = []
    found = 0
    directory = content.index(b"PK\x01\x02")  # where a byte can mean most
    for position in [*range(0, directory, 9), *range(directory, len(content))]:
        path.write_bytes(flip(content, position))
        try:
            usable = find_last_checkpoint(tmp_path) is not None
            if usable and not equal(storage.load(path), payload):
                faults.append((position, "other data than was saved, and no complaint"))
            found += not usable
        except CheckpointError:
            faults.append((position, "not skipped, but cannot be loaded"))
        except Exception as error:
            faults.append((position, repr(error)))
    assert faults == []
    assert found > 100


def test_any_cut_is_found(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save({"x": torch.arange(5)}, path)
    content = path.read_bytes()
    for length in [*range(0, len(content), 9), len(content) - 1]:
        path.write_bytes(content[:length])
        assert find_last_checkpoint(tmp_path) is None
