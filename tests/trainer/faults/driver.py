"""Trains in children that the shim harms at their first call, their second, and so on to the last.

Children are forked, because importing torch takes far longer than a run. Prints, as JSON, how many
calls were harmed and in which cases the next start did not go as it should.

    LD_PRELOAD=shim.so python driver.py FOLDER (kill | kill-halfway | full) (sync | async) SAVES
"""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import sys
from typing import Any

import torch

from helios import Trainer
from helios.checkpoints import storage
from helios.errors import HeliosError
from helios.testing import TinyDataModule, TinyModel, equal

HARMS = {"kill": 0, "kill-halfway": 1, "full": 2}
SAVED = 2  # epochs, before the harm; the next save deletes the checkpoints of both
shim = ctypes.CDLL(None)
shim.arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long]


class Improving(TinyModel):
    """Improves in every other validation, so that both kinds of retention delete."""

    def have_metrics_improved(self) -> bool:
        return self.trainer.state.validation_cycles % 2 == 0


def train(root: pathlib.Path, epochs: int, is_async: bool) -> dict[str, Any]:
    model = Improving()
    Trainer(
        total_steps=epochs,
        chkpt_frequency=1,
        valid_frequency=1,
        keep_last=1,
        keep_best=1,
        async_checkpoints=is_async,
        chkpt_root=root,
        use_cpu=True,
        autoload=False,
        print_banner=False,
    ).fit(model, TinyDataModule())
    return model.state_dict()


def harmed(
    root: pathlib.Path, harm: str, call: int, epochs: int, is_async: bool
) -> tuple[int, str]:
    """Train with the harm; return the status of the process, and the error that it met."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        shim.arm(os.fsencode(root / "tiny"), HARMS[harm], call)
        try:
            train(root, epochs, is_async)
        except (OSError, HeliosError) as error:
            told = "\n".join([f"{type(error).__name__}: {error}", *error.__notes__])
            os.write(writer, told.encode())
            os._exit(1)
        except BaseException as error:
            os.write(writer, repr(error).encode())
            os._exit(2)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    return os.waitpid(child, 0)[1], told


def faults_after(
    root: pathlib.Path, before: set[str], epochs: int, whole: dict[str, Any]
) -> list[str]:
    """Start again, and return all that is not as it should be."""
    folder = root / "tiny"
    names = {path.name for path in folder.iterdir() if not path.is_symlink()}
    faults = []
    newest = max((name for name in names if name.endswith(".pth")), default="")
    if newest < max(before):
        faults.append(f"the newest checkpoint is lost: {sorted(names)}")
    for name in names:
        if name.endswith(".pth") and not storage.verify(folder / name):
            faults.append(f"{name} has no checksum")
    if not equal(train(root, epochs, False), whole):
        faults.append("the resumed run is another one")
    left = {path.name for path in folder.iterdir() if not path.is_symlink()}
    if any(name.endswith(".tmp") for name in left):
        faults.append(f"leftovers: {sorted(left)}")
    return faults


def main(work: pathlib.Path, harm: str, is_async: bool, saves: int) -> None:
    torch.set_num_threads(1)
    template, root = work / "template", work / "run"
    train(template, SAVED, is_async)
    before = {path.name for path in (template / "tiny").iterdir() if not path.is_symlink()}
    epochs = SAVED + saves
    whole = train(work / "whole", epochs, is_async)
    faults: list[Any] = []
    errors: list[str] = []
    call = 0
    while True:
        call += 1
        shutil.copytree(template, root)
        status, told = harmed(root, harm, call, epochs, is_async)
        if os.waitstatus_to_exitcode(status) == 0:
            break
        expected = 1 if harm == "full" else -signal.SIGKILL
        if os.waitstatus_to_exitcode(status) != expected:
            faults.append((call, f"ended with {status}: {told}"))
        errors.append(told)
        if harm == "full" and list((root / "tiny").glob("*.tmp")):
            faults.append((call, "the failed save has left something behind"))
        faults += [(call, fault) for fault in faults_after(root, before, epochs, whole)]
        shutil.rmtree(root)
    print(json.dumps({"calls": call - 1, "faults": faults, "errors": errors}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "async", int(sys.argv[4]))
