"""The part of a run on Ray that the program does: it sends the run, waits, and reads the results.

This module imports Ray, which takes seconds, so the plug-in imports it only for a run.
"""

import concurrent.futures
import functools
import logging
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.train
import ray.train.torch

import helios
from helios.errors import ConfigurationError, RankFailedError, describe
from helios_ray import worker
from helios_ray.cluster import await_resources, connected
from helios_ray.mailbox import ABORT, STOP, Letter, open_mailbox

cloudpickle: Any = ray.cloudpickle  # it has no types
_failure_config: Any = ray.train.FailureConfig  # it has the types of an older version
_logger = logging.getLogger("helios.ray")
_STARTS = 30
"""How often Ray tries to start workers that die at once, or for which resources are missing after a
failure, with a minute each. Ray itself would try for ever."""
_PATIENCE = 60.0
"""The seconds in which the workers end after the order to do so."""


def run(
    target: Callable[[], Any],
    trainer: "helios.Trainer",
    *,
    num_workers: int,
    resources: Mapping[str, float],
    storage_path: str | None,
    max_failures: int,
) -> Any:
    """Run a job in the workers, and return the outcome of the worker with rank 0.

    Args:
        target: the work of one process.
        trainer: the trainer.
        num_workers: the number of workers.
        resources: the resources of each worker that the user has named.
        storage_path: the folder for Ray's own files.
        max_failures: how often Ray starts all workers again.
    """
    is_on_gpu = trainer.device.type == "cuda"
    wanted = dict(resources or {"GPU" if is_on_gpu else "CPU": 1.0})
    if is_on_gpu:
        wanted = {"GPU": 1.0, **wanted}
    order = worker.Order(_pack(target, trainer), os.getcwd(), list(sys.path))
    with connected(num_workers, wanted, not resources) as is_own:
        await_resources(num_workers, wanted, is_own)
        mailbox = open_mailbox()
        try:
            work = functools.partial(worker.main, order, mailbox)
            engine = create_engine(work, num_workers, wanted, storage_path, max_failures)
            failure = run_engine(engine, mailbox, trainer)
            return _result(ray.get(mailbox.read.remote()), failure, trainer)
        finally:
            ray.kill(mailbox)


def create_engine(
    work: Callable[[], None],
    num_workers: int,
    resources: dict[str, float],
    storage_path: str | None,
    max_failures: int,
) -> ray.train.torch.TorchTrainer:
    """Return the trainer of Ray for a run.

    Args:
        work: the work of each worker.
        num_workers: the number of workers.
        resources: the resources of each worker.
        storage_path: the folder for Ray's own files.
        max_failures: how often Ray starts all workers again.
    """
    return ray.train.torch.TorchTrainer(
        work,
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=bool(resources.get("GPU")),
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            storage_path=storage_path,
            failure_config=_failure_config(
                max_failures=max_failures, controller_failure_limit=_STARTS
            ),
        ),
    )


def run_engine(
    engine: ray.train.torch.TorchTrainer, mailbox: Any, trainer: "helios.Trainer"
) -> BaseException | None:
    """Run Ray's trainer, and return its error.

    Args:
        engine: the trainer of Ray.
        mailbox: the actor through which this process gives orders to the workers.
        trainer: the trainer of Helios.

    Ray's trainer runs in another thread. In the main thread, Ray would take Ctrl-C for itself, also
    after the run, and end the workers without a checkpoint.
    """
    done: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            engine.fit()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, name="helios-ray", daemon=True)
    presses = 0
    while True:
        try:
            if not presses:
                thread.start()
            else:
                _stop(mailbox, trainer)
            return done.exception()
        except KeyboardInterrupt:
            presses += 1
            if presses > 1:
                _logger.warning("Ctrl-C: the run ends at once.")
                ray.get(mailbox.give.remote(ABORT))
                concurrent.futures.wait([done], timeout=_PATIENCE)
                raise


def _stop(mailbox: Any, trainer: "helios.Trainer") -> None:
    """Let the workers end after a step and save.

    Raises:
        KeyboardInterrupt: no worker has begun, or the run saves nothing.
    """
    if trainer.chkpt_root is None or not ray.get(mailbox.has_begun.remote()):
        raise KeyboardInterrupt
    _logger.warning(
        "Ctrl-C: the run ends after this step and saves a checkpoint, so it can resume. Press"
        " Ctrl-C again to end it at once."
    )
    ray.get(mailbox.give.remote(STOP))


def _pack(target: Callable[[], Any], trainer: "helios.Trainer") -> bytes:
    """Return the run for the workers.

    Raises:
        ConfigurationError: an object of the user cannot be pickled; the message names it.
    """
    try:
        data: bytes = cloudpickle.dumps((target, trainer))
    except Exception as error:
        raise ConfigurationError(
            f"RayLauncher sends the model, the data and the plug-ins to the workers, but"
            f" {_unpicklable(trainer)} cannot be sent: {describe(error)}. Create it in setup(),"
            " which each worker calls."
        ) from error
    return data


def _unpicklable(trainer: "helios.Trainer") -> str:
    """Return the name of the attribute that cannot be pickled, if it is an object's own."""
    for value in (trainer.model, trainer.datamodule, *trainer.plugins.values()):
        for name, part in getattr(value, "__dict__", {}).items():
            try:
                if part is not trainer:
                    cloudpickle.dumps(part)
            except Exception:
                return f"{type(value).__name__}.{name}"
    return "a part of them"


def _result(
    letters: Sequence[Letter], failure: BaseException | None, trainer: "helios.Trainer"
) -> Any:
    """Return the outcome of rank 0, or raise the error that has ended the run."""
    failures = [(each.rank, pickle.loads(each.error)) for each in letters if each.error]
    # The ranks agree on both. Rank 0 cannot tell them if it was waiting for another rank.
    for _, each in sorted(failures, key=lambda found: -found[0]):
        if each.state is not None:
            trainer.state.load_dict(each.state)
            trainer.stop_requests[:] = each.stop_requests
    if failures:
        raise _error_of_user(failures) from failure
    if failure is not None:
        raise error_of_ray(failure) from failure
    return next(pickle.loads(each.outcome) for each in letters if each.outcome)


def _error_of_user(failures: Sequence[tuple[int, worker.Failure]]) -> BaseException:
    """Return the error of the worker that failed first, as it was raised there."""
    errors = [(rank, each, each.error.unpack()) for rank, each in failures]
    errors.sort(key=lambda found: isinstance(found[2], RankFailedError))
    rank, failed, error = errors[0]
    where = f"rank {rank} on {failed.host}"
    if error is None:
        error = RankFailedError(f"{where} failed: {failed.error.text}", rank)
        error.add_note(f"its type cannot be imported in this process: {failed.error.text}")
    if not failed.is_final:
        error.add_note(f"raised in the worker of Ray with {where}:\n{failed.error.trace}")
    return error


def error_of_ray(error: BaseException) -> BaseException:
    """Return the error of workers that could not begin, or could not say why they ended.

    Args:
        error: the error of Ray.
    """
    missing = re.search(r"No module named '([\w.]+)'", str(error))
    if missing is not None:
        return ConfigurationError(
            f"a worker of Ray cannot import {missing[1]!r}: install the packages of this program,"
            " helios-ray among them, on all hosts of the cluster, or let Ray install them with"
            " ray.init(runtime_env={'pip': [...]})."
        )
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        story = " ".join(str(failure).split())
        return RankFailedError(f"the worker of Ray with rank {rank} has ended: {story}", rank)
    return error
