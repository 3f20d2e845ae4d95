"""The main function of a worker."""

import contextlib
import dataclasses
import gc
import logging
import os
import pickle
import socket
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.exceptions
import ray.train

import helios
from helios.errors import ConfigurationError, RankFailedError, describe
from helios.trainer import ShippedError, StopRequest
from helios_ray.mailbox import STOP, Letter


@dataclasses.dataclass(frozen=True)
class Failure:
    """The error of a worker, and how far its run had come.

    Attributes:
        host: the host of the worker.
        error: the error.
        is_final: ``True`` if the run raised it after a normal end.
        state: the counters of the run; ``None`` if it had not begun.
        stop_requests: the requests to stop.
    """

    host: str
    error: ShippedError
    is_final: bool = False
    state: Mapping[str, Any] | None = None
    stop_requests: Sequence[StopRequest] = ()


@dataclasses.dataclass(frozen=True)
class Order:
    """The work of each worker.

    Attributes:
        run: the target of the run and its trainer, pickled.
        folder: the current folder of the program.
        path: where the program looks for modules.
    """

    run: bytes
    folder: str
    path: Sequence[str]


def main(order: Order, mailbox: Any) -> None:
    """Do the work of one worker, and send its result to the program.

    Args:
        order: the work.
        mailbox: the actor through which the program and the workers speak.

    Raises:
        RankFailedError: the worker has failed. Ray may start all workers again.
    """
    rank = ray.train.get_context().get_world_rank()
    if not ray.get(mailbox.arrive.remote(rank)):
        return  # another attempt cannot change the result
    _show_no_message_twice()
    try:
        target, trainer = _unpack(order, rank)
    except ConfigurationError as error:
        failure = Failure(socket.gethostname(), ShippedError.pack(error))
        _post(mailbox, Letter(rank, error=pickle.dumps(failure)), is_over=True)
        raise
    threading.Thread(target=_obey, args=(mailbox, trainer), daemon=True).start()
    try:
        outcome = target()
    except BaseException as error:
        failure = _failure(error, trainer, rank)
        _post(mailbox, Letter(rank, error=pickle.dumps(failure)), is_over=failure.is_final)
        if failure.is_final:
            return  # for Ray, this is a success: it must not start the workers again
        raise RankFailedError(failure.error.trace, rank) from None  # Ray can pickle this one
    if rank == 0:
        _post(mailbox, Letter(rank, outcome=pickle.dumps(outcome)))


def _post(mailbox: Any, letter: Letter, is_over: bool = False) -> None:
    ray.get(mailbox.post.remote(letter, is_over))


def _unpack(order: Order, rank: int) -> tuple[Callable[[], Any], "helios.Trainer"]:
    with contextlib.suppress(OSError):  # another host
        os.chdir(order.folder)  # Ray has moved the worker to a folder of its own
    sys.path.extend(each for each in order.path if each not in sys.path)
    try:
        target, trainer = pickle.loads(order.run)
    except Exception as error:
        raise ConfigurationError(
            f"the worker of Ray with rank {rank} on {socket.gethostname()} cannot load the model,"
            f" the data or a plug-in: {describe(error)}. It must be able to import each module that"
            " they come from: send your modules with ray.init(runtime_env={'working_dir': '.'}) or"
            " 'py_modules' before fit(), or install them on all hosts, in the same versions."
        ) from error
    _share_program()
    return target, trainer


def _share_program() -> None:
    """Let pickle find the classes of the program's script, as it does in the program itself.

    Ray sends them with their code; the main module of a worker is one of Ray.
    """
    main_module = sys.modules["__main__"]
    for value in gc.get_objects():
        if not issubclass(type(value), type | types.FunctionType):  # isinstance may run code of it
            continue
        if value.__module__ != "__main__":
            continue
        if value.__qualname__ == value.__name__ and not hasattr(main_module, value.__name__):
            setattr(main_module, value.__name__, value)


def _show_no_message_twice() -> None:
    """Show what Helios prints, and its warnings. Ray would show the log of each rank, too."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(
                lambda record: (
                    record.levelno >= logging.WARNING or not f"{record.name}.".startswith("helios.")
                )
            )


def _obey(mailbox: Any, trainer: "helios.Trainer") -> None:
    """Wait for orders of the program, and end this process if the program has gone."""
    with contextlib.suppress(ray.exceptions.RayError):
        if ray.get(mailbox.order.remote(0)) == STOP:
            trainer.raise_at_end(KeyboardInterrupt())
            trainer.request_stop("received SIGINT", "the user", urgent=True)
            ray.get(mailbox.order.remote(1))
    os._exit(1)


def _failure(error: BaseException, trainer: "helios.Trainer", rank: int) -> Failure:
    host, is_final = socket.gethostname(), error is trainer.final_error
    if isinstance(error, SystemExit) and not is_final:
        called = f"rank {rank} on {host} called exit({error.code!r})"
        error = RankFailedError(called, rank).with_traceback(error.__traceback__)
    shipped = ShippedError.pack(error)
    return Failure(host, shipped, is_final, trainer.state.dict(), list(trainer.stop_requests))
