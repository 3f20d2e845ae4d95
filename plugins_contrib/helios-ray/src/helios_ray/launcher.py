"""The plug-in that starts the processes of a run as the workers of Ray Train."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.train.torch

import helios


class RayLauncher(helios.Plugin):
    """Runs ``fit`` and ``test`` in the workers of a Ray cluster, with Ray Train's TorchTrainer.

    Ray starts the workers and their process group, and starts them again after a failure. Helios
    does the rest: its own folder holds the checkpoints, and a worker that is started again resumes
    from them. Ray's reports contain the metrics of each validation, and no checkpoint.

    Args:
        num_workers: the number of workers, each of which is a rank of the run.
        use_gpu: ``True`` to give each worker a GPU.
        resources_per_worker: the resources of each worker, as Ray names them, for example
            ``{"CPU": 4}``. By default, one CPU or one GPU.
        storage_path: the folder for Ray's own files. By default, the folder of Ray.
        max_failures: how often Ray starts all workers again after one has failed. Without
            checkpoints, training begins again.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    autoload = False
    summary = "trains in the workers of a Ray cluster"

    def __init__(
        self,
        num_workers: int = 1,
        *,
        use_gpu: bool = False,
        resources_per_worker: Mapping[str, float] | None = None,
        storage_path: str | None = None,
        max_failures: int = 0,
    ) -> None:
        super().__init__("ray")
        _check_count("num_workers", num_workers, 1)
        _check_count("max_failures", max_failures, 0)
        self._scaling = ray.train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            resources_per_worker=dict(resources_per_worker) if resources_per_worker else None,
        )
        self._storage_path = storage_path
        self._max_failures = max_failures

    def setup(self) -> None:
        """Do nothing: the workers need no set-up of the plug-in."""

    @helios.hookimpl
    def launch(self, trainer: "helios.Trainer", target: Callable[[], Any]) -> Any:
        """Run a job in the workers, and return the outcome of the worker with rank 0.

        Args:
            trainer: the trainer.
            target: the work of one process.
        """
        with _cluster():
            actor: Any = ray.remote(num_cpus=0)(_Box)
            box = actor.remote()
            run = ray.train.RunConfig(
                storage_path=self._storage_path,
                failure_config=ray.train.FailureConfig(max_failures=self._max_failures),
            )
            work = functools.partial(_work, target, box, os.getcwd())
            fit = ray.train.torch.TorchTrainer(work, scaling_config=self._scaling, run_config=run)
            try:
                fit.fit()
            except ray.train.TrainingFailedError as error:
                raise _error_of_user(error) from error  # whose text has the traceback
            return ray.get(box.take.remote())

    @helios.hookimpl
    def on_validation_results(
        self, metrics: dict[str, Any], improved: bool | None, validation_cycle: int
    ) -> None:
        """Report the metrics of a validation to Ray, from every worker."""
        plain = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        ray.train.report({**plain, "validation_cycle": validation_cycle})


class _Box:
    """An actor that keeps an outcome for the driver."""

    def __init__(self) -> None:
        self._content: Any = None

    def put(self, content: Any) -> None:
        self._content = content

    def take(self) -> Any:
        return self._content


def _work(target: Callable[[], Any], box: Any, folder: str) -> None:
    """Do the work of one worker; Ray has moved it to a folder of its own."""
    with contextlib.suppress(FileNotFoundError):  # another host
        os.chdir(folder)
    outcome = target()
    if ray.train.get_context().get_world_rank() == 0:
        ray.get(box.put.remote(outcome))


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """Connect to the cluster that Ray finds, or start one here for as long as the run."""
    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=True)
    try:
        yield
    finally:
        ray.shutdown()


def _error_of_user(error: ray.train.TrainingFailedError) -> BaseException:
    """Return the error of the worker that failed, as it was raised there, or Ray's own."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for rank, failure in sorted(failures.items()):
        if not isinstance(failure, ray.exceptions.RayError):  # a worker that was killed
            failure.add_note(f"raised in the worker of Ray with rank {rank}")
            return failure
    return error


def _check_count(name: str, value: object, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise helios.errors.ConfigurationError(
            f"RayLauncher({name}={value!r}): write a whole number of at least {smallest}."
        )
