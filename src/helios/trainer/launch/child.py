"""The main function of a process that Helios has spawned."""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import pickle
import signal
import sys
import threading
from collections.abc import Mapping

import torch

from helios.errors import RankFailedError
from helios.trainer.job import Job, Outcome
from helios.trainer.launch.transport import ShippedError


@dataclasses.dataclass(frozen=True)
class Result:
    """The result that a process brings back.

    Attributes:
        outcome: the outcome of its run, also of one that has failed; ``None`` if it did not begin.
        error: the exception that it has raised.
        is_cause: ``False`` if the exception says that another rank has failed.
        is_final: ``True`` if the exception was raised after a normal end.
    """

    outcome: Outcome | None
    error: ShippedError | None = None
    is_cause: bool = False
    is_final: bool = False


def main(environment: Mapping[str, str], payload: str, result: str) -> None:
    """Do the work of one rank, and write its result to a file.

    Args:
        environment: the variables that tell its place.
        payload: the path of the pickled target.
        result: the path for the result.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone, which passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" not in os.environ:  # as torchrun does, so that both compute the same
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    job: Job | None = None
    try:
        target = pickle.loads(pathlib.Path(payload).read_bytes())
        job = target.args[0]
        assert job is not None
        job.is_spawned = True
        outcome = target()
        if environment["RANK"] != "0":  # only the weights of rank 0 come back
            outcome = dataclasses.replace(outcome, trained=None)
        done = Result(outcome)
    except BaseException as error:
        done = _failed(job, error)
    temporary = pathlib.Path(result + ".tmp")
    temporary.write_bytes(pickle.dumps(done))
    temporary.rename(result)
    sys.exit(0 if done.error is None else 1)


def _failed(job: Job | None, error: BaseException) -> Result:
    if job is None:
        return Result(None, ShippedError.pack(error), is_cause=True)
    is_final = error is job.control.final_error
    is_cause = not isinstance(error, RankFailedError)
    return Result(job.outcome(), ShippedError.pack(error), is_cause, is_final)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            parent.join()
        os._exit(1)
