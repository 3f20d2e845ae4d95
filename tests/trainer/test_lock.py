"""One live run a folder of checkpoints."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from helpers import Make, files

from helios import Trainer
from helios.checkpoints import folder as folders
from helios.checkpoints.lock import FolderLock
from helios.errors import ConfigurationError
from helios.testing import TinyDataModule, TinyModel

HOLD = """
import pathlib, sys
from helios.checkpoints import folder
lock = folder.claim(pathlib.Path(sys.argv[1]))
(pathlib.Path(sys.argv[1]) / "tiny_epoch_9_iter_9.pth.tmp").write_bytes(b"half")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: pathlib.Path) -> Any:
    """Another process that is writing a checkpoint in the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "tiny")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_second_process_is_refused_and_deletes_nothing(
    other: Any, make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    trainer = make_trainer(chkpt_root=tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        trainer.fit(TinyModel(), TinyDataModule())
    message = str(caught.value)
    assert f"another run is saving checkpoints in {tmp_path / 'tiny'}" in message
    assert f"process {other.pid} on " in message
    assert "pass another folder as chkpt_root" in message
    assert (tmp_path / "tiny/tiny_epoch_9_iter_9.pth.tmp").read_bytes() == b"half"


def test_file_of_a_dead_writer_is_removed(
    other: Any, make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    other.kill()
    other.wait()
    make_trainer(chkpt_root=tmp_path).fit(TinyModel(), TinyDataModule())
    names = sorted(path.name for path in files(tmp_path / "tiny"))
    assert names == ["tiny_epoch_2_iter_12.pth"]


def test_second_run_of_the_same_process_is_refused(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    class Nesting(TinyModel):
        def on_training_start(self) -> None:
            make_trainer(chkpt_root=tmp_path).fit(TinyModel(), TinyDataModule())

    with pytest.raises(ConfigurationError, match=rf"process {os.getpid()}, this one"):
        make_trainer(chkpt_root=tmp_path).fit(Nesting(), TinyDataModule())
    assert list(files(tmp_path / "tiny")) == []  # the failed run has released it


def test_workers_do_not_inherit_the_lock(tmp_path: pathlib.Path) -> None:
    lock = folders.claim(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # a worker that outlives the run which has started it
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    lock.release()
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    result = subprocess.run(command, input="\n", capture_output=True, text=True)
    os.close(writing)
    os.waitpid(child, 0)
    assert result.returncode == 0, result.stderr


def test_lock_that_its_holder_deletes_while_another_one_opens_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, deleted = os.open, []

    def open_then_delete(path: Any, *rest: Any) -> int:
        file = real(path, *rest)
        if not deleted:  # between opening and locking, the other run ends
            os.unlink(path)
            deleted.append(path)
        return file

    monkeypatch.setattr(os, "open", open_then_delete)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert deleted
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_locked(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    trainer = Trainer(total_steps=1, use_cpu=True, print_banner=False, chkpt_root=tmp_path)
    trainer.fit(TinyModel(), TinyDataModule())
    assert f"{tmp_path / 'tiny'} cannot be locked: No locks available" in caplog.text
