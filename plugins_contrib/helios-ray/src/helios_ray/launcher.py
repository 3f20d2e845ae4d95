"""The plug-in that starts the processes of a run as the workers of Ray Train."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

import helios
from helios.errors import ConfigurationError


class RayLauncher(helios.Plugin):
    """Runs ``fit`` and ``test`` in the workers of a Ray cluster, with Ray Train's TorchTrainer.

    Ray starts the workers and their process group, and starts them again after a failure. Helios
    does the rest: its own folder holds the checkpoints, and a worker that is started again resumes
    from them. Ray's reports contain the metrics of each validation, and no checkpoint.

    Args:
        num_workers: the number of workers, each of which is a rank of the run.
        use_gpu: ``True`` to give each worker a GPU, also if the program runs on a host without one;
            by default, if the trainer uses GPUs.
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
        use_gpu: bool | None = None,
        resources_per_worker: Mapping[str, float] | None = None,
        storage_path: str | None = None,
        max_failures: int = 0,
    ) -> None:
        super().__init__("ray")
        _check_count("num_workers", num_workers, 1)
        _check_count("max_failures", max_failures, 0)
        self._num_workers = num_workers
        self._use_gpu = use_gpu
        self._resources = dict(resources_per_worker or {})
        self._storage_path = storage_path
        self._max_failures = max_failures

    def configure_trainer(self, trainer: "helios.Trainer") -> None:
        """Register the plug-in, and let the trainer use the GPUs of its workers.

        Args:
            trainer: the trainer.

        Raises:
            ConfigurationError: the trainer and the workers do not use the same devices.
        """
        self._register_in_trainer(trainer)
        uses_gpu = trainer.device.type == "cuda"
        if self._use_gpu and not uses_gpu:
            if torch.cuda.is_available():
                raise ConfigurationError(
                    "RayLauncher(use_gpu=True) gives GPUs to the workers, but"
                    " Trainer(use_cpu=True) uses none: remove one of the arguments."
                )
            trainer.device = torch.device("cuda")
        if self._use_gpu is False and uses_gpu:
            raise ConfigurationError(
                "RayLauncher(use_gpu=False) starts workers without GPUs, but the trainer uses GPUs:"
                " remove the argument, or pass Trainer(use_cpu=True)."
            )

    def setup(self) -> None:
        """Do nothing: the workers need no set-up of the plug-in."""

    @helios.hookimpl
    def launch(self, trainer: "helios.Trainer", target: Callable[[], Any]) -> Any:
        """Run a job in the workers, and return the outcome of the worker with rank 0.

        Args:
            trainer: the trainer.
            target: the work of one process.
        """
        from helios_ray import driver  # imports Ray, which takes seconds

        return driver.run(
            target,
            trainer,
            num_workers=self._num_workers,
            resources=self._resources,
            storage_path=self._storage_path,
            max_failures=self._max_failures,
        )

    @helios.hookimpl
    def on_validation_results(
        self, metrics: dict[str, Any], improved: bool | None, validation_cycle: int
    ) -> None:
        """Report the metrics of a validation to Ray, from every worker."""
        import ray.train

        plain = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        ray.train.report({**plain, "validation_cycle": validation_cycle})


def _check_count(name: str, value: object, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        raise ConfigurationError(
            f"RayLauncher({name}={value!r}): write a whole number of at least {smallest}."
        )
