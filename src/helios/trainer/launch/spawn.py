"""Spawned processes on this node: one for each device."""

import contextlib
import logging
import multiprocessing
import os
import pathlib
import pickle
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public

from helios.errors import ConfigurationError, RankFailedError
from helios.trainer.job import Job, Outcome
from helios.trainer.launch.child import Result, main
from helios.trainer.launch.failure import Failure
from helios.trainer.launch.rendezvous import NEWEST
from helios.trainer.launch.transport import bring_back, pack_job

_logger = logging.getLogger("helios")

_PATIENCE = 30.0
"""The seconds in which the other processes end by themselves after one has failed."""


def spawn(job: Job, target: Callable[[], Outcome], count: int) -> Outcome:
    """Run a job in new processes of this node, and return the outcome of rank 0.

    The model of this process then has the attributes of the trained one.

    Args:
        job: the job.
        target: the function that does the work of one process.
        count: the number of processes.

    Raises:
        ConfigurationError: an object of the user cannot be sent to another process.
        RankFailedError: a process has ended without an exception, or stopped.
    """
    trainer = job.trainer
    argument = f"Trainer(devices={count})" if trainer.devices else f"Trainer(gpus={trainer.gpus})"
    _require_program(job, argument)
    data = pack_job(target, job, argument)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="helios-") as folder:
        payload = pathlib.Path(folder, "job")
        payload.write_bytes(data)
        context = multiprocessing.get_context("spawn")
        processes: list[BaseProcess] = []
        paths = [str(pathlib.Path(folder, f"result-{rank}")) for rank in range(count)]
        try:
            with _signals_passed_on(processes) as received:
                for rank, path in enumerate(paths):
                    environment = _environment(rank, count, store.port)
                    process = context.Process(
                        target=main,
                        args=(environment, str(payload), path),
                        name=f"helios-rank-{rank}",
                    )
                    process.start()
                    processes.append(process)
                _wait(processes)
        finally:
            _end(processes)
        results = [_result(pathlib.Path(path)) for path in paths]
    return _outcome(job, processes, results, store, received)


def _require_program(job: Job, argument: str) -> None:
    """Refuse to spawn processes that could not import what the user has written."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigurationError(
            f"{argument} starts processes that import this program again, and they have come to"
            ' fit() or test(), too: call them under if __name__ == "__main__":'
        )
    main_module = sys.modules["__main__"]
    if getattr(main_module, "__file__", None) or getattr(main_module, "__spec__", None):
        return
    plugins = [row.plugin for row in job.trainer.plugin_manager.rows.values()]
    for value in (job.model, job.datamodule, *plugins):
        if type(value).__module__ == "__main__":
            raise ConfigurationError(
                f"{argument} starts processes, and they cannot import {type(value).__name__},"
                " because it is defined in an interactive session or a notebook: define it in a"
                " file, and import it."
            )


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    return {
        **{name: str(value) for name, value in place.items()},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this process serves the store
    }


def _wait(processes: Sequence[BaseProcess]) -> None:
    """Wait for all processes; after a failure, only as long as a teardown may take."""
    failed_at: float | None = None
    while running := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in running], timeout=1)
        if failed_at is None and any(process.exitcode for process in processes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _PATIENCE:
            return


def _end(processes: Sequence[BaseProcess]) -> None:
    """End processes that still run."""
    for end in (BaseProcess.terminate, BaseProcess.kill):
        for process in processes:
            if process.is_alive():
                end(process)
        for process in processes:
            process.join(timeout=5)


@contextlib.contextmanager
def _signals_passed_on(processes: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Pass Ctrl-C and SIGTERM on to processes; yield the list of received signals.

    Handlers of users stay.
    """
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            with contextlib.suppress(ProcessLookupError, TypeError):  # it has ended, or not begun
                if process.is_alive():
                    os.kill(process.pid or 0, number)

    usual: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    replaced: dict[int, Any] = {}
    try:
        with contextlib.suppress(ValueError):  # Python allows handlers only in the main thread
            for number, handler in usual.items():
                if signal.getsignal(number) == handler:
                    replaced[number] = signal.signal(number, pass_on)
        yield received
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def _result(path: pathlib.Path) -> Result | None:
    if not path.exists():
        return None
    result: Result = pickle.loads(path.read_bytes())
    return result


def _outcome(
    job: Job,
    processes: Sequence[BaseProcess],
    results: Sequence[Result | None],
    store: TCPStore,
    received: Sequence[int],
) -> Outcome:
    """Return the outcome of rank 0, or raise the error that has ended the run."""
    first = results[0]
    if first is not None and first.outcome is not None:
        job.take(first.outcome)
    if all(result is not None and result.error is None for result in results):
        assert first is not None
        assert first.outcome is not None
        return bring_back(first.outcome, job)
    failure = _failure(store)
    error = _error(results, failure)
    if error is not None:
        job.reporter.accept(error)
        raise error
    if received and not any(process.exitcode == -signal.SIGKILL for process in processes):
        if received[0] == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # as it would have ended this process
        raise KeyboardInterrupt
    story = _story_of_end(processes, results, failure)
    raise RankFailedError(story, None if failure is None else failure.rank)


def _failure(store: TCPStore) -> Failure | None:
    if not store.check([NEWEST]):
        return None
    guard = PrefixStore(f"{store.get(NEWEST).decode()}/guard", store)
    return Failure.from_json(guard.get("failure").decode()) if guard.check(["failure"]) else None


def _error(results: Sequence[Result | None], failure: Failure | None) -> BaseException | None:
    """Return the exception of the rank that failed first, with notes on where it comes from."""
    errors = {rank: each for rank, each in enumerate(results) if each is not None and each.error}
    causes = [rank for rank, each in errors.items() if each.is_cause or each.is_final]
    if failure is not None and failure.rank is not None:
        causes = [rank for rank in causes if rank == failure.rank]
    if not causes:
        return None
    rank = causes[0]
    shipped = errors[rank].error
    assert shipped is not None
    error = shipped.unpack()
    is_alone = len(errors) < len(results) or not all(each.is_cause for each in errors.values())
    if isinstance(error, SystemExit) and is_alone and not errors[rank].is_final:
        return RankFailedError(str(failure) if failure else shipped.trace, rank)
    where = f"rank {rank} on {socket.gethostname()}"
    if error is None:
        error = RankFailedError(f"{where} failed: {shipped.text}", rank)
        error.add_note(f"its type cannot be imported in this process: {shipped.text}")
    if not errors[rank].is_final:
        error.add_note(f"raised on {where}:\n{shipped.trace}")
    return error


def _story_of_end(
    processes: Sequence[BaseProcess],
    results: Sequence[Result | None],
    failure: Failure | None,
) -> str:
    """Return which process has ended without a result, and how; the guard ends others with 1."""
    host = socket.gethostname()
    lines: list[str] = []
    for rank, (process, result) in enumerate(zip(processes, results, strict=True)):
        code = process.exitcode
        is_known = failure is not None and failure.rank is not None
        if result is not None or (is_known and failure is not None and failure.rank != rank):
            continue
        if code is not None and code < 0 and code != -signal.SIGTERM:
            lines.insert(0, f"rank {rank} on {host} was killed by {signal.Signals(-code).name}")
        elif code not in (None, 1, -signal.SIGTERM) or (code == 1 and failure is None):
            lines.append(f"rank {rank} on {host} ended with exit code {code}")
    known = [str(failure)] if failure is not None else []
    return "\n".join([*lines[:1], *known]) or "the processes of the run have ended"
