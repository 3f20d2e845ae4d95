"""Short training runs of copies, which leave no trace in the objects that were copied."""

import contextlib
import copy
import gc
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed

from helios.core import rng
from helios.data import DataModule
from helios.errors import ConfigurationError
from helios.model import Model
from helios.plugins import Plugin
from helios.trainer import Trainer
from helios.trainer.launch.environment import Environment

_FORMING = (
    "process_training_batch",
    "prepare_module",
    "wrap_batches",
    "step_context",
    "on_model_ready",
    "configure_model",
)
"""Hooks by which a plug-in determines what a step computes."""


class Trials:
    """Trains copies of a model on copies of its data.

    Args:
        trainer: the trainer whose device, precision and seed the trials use.
        model: the model.
        datamodule: its data.
        plugins: the plug-ins of the trials; ``None`` for copies of those of the trainer that
            determine what a step computes.
        name: the function that makes the trials, for messages.

    Raises:
        TypeError: an argument is of another class.
        ConfigurationError: the process is one of several, or is in the middle of a run.
    """

    def __init__(
        self,
        trainer: Trainer,
        model: Model,
        datamodule: DataModule,
        plugins: Iterable[Any] | None,
        name: str,
    ) -> None:
        _check_kinds(trainer, model, datamodule, name)
        is_started = torch.distributed.is_available() and torch.distributed.is_initialized()
        if is_started or Environment.read() is not None:
            raise ConfigurationError(
                f"{name}() works in a single process: run it in a program of its own, and pass its"
                " result to the program that torchrun starts."
            )
        self._trainer = trainer
        self._model = model
        self._datamodule = datamodule
        self._plugins = _forming(trainer) if plugins is None else list(plugins)
        self._name = name

    def run(
        self, steps: int, plugin: Plugin, attributes: dict[str, Any], expected: list[Any]
    ) -> None:
        """Train copies for some optimizer steps.

        Args:
            steps: the number of steps.
            plugin: a plug-in of the trial itself.
            attributes: attributes to set in the copy of the data module.
            expected: exceptions that are no faults.
        """
        with _no_trace():
            model, datamodule, plugins = self._copies()
            for name, value in attributes.items():
                setattr(datamodule, name, value)
            trainer = self._trial_trainer(steps, [*plugins, plugin])
            trainer.train_exceptions.extend(expected)
            trainer.fit(model, datamodule)

    def _copies(self) -> tuple[Model, DataModule, list[Any]]:
        known: dict[int, Any] = {id(self._trainer): self._trainer}
        for each in (self._model, self._datamodule):
            with contextlib.suppress(AssertionError):  # no run has started yet
                known[id(each.trainer)] = each.trainer
        try:
            return copy.deepcopy((self._model, self._datamodule, self._plugins), known)
        except Exception as error:
            raise ConfigurationError(
                f"{self._name}() trains copies, but copy.deepcopy cannot copy the model, its data"
                f" or a plug-in ({type(error).__name__}: {error}): create in setup() what cannot be"
                " copied, such as an open file."
            ) from error

    def _trial_trainer(self, steps: int, plugins: list[Any]) -> Trainer:
        trainer, is_cpu = self._trainer, self._trainer.device.type == "cpu"
        return Trainer(
            train_unit="iteration",
            total_steps=steps,
            accumulation_steps=trainer.accumulation_steps,
            enable_cudnn_benchmark=trainer.enable_cudnn_benchmark,
            enable_deterministic=trainer.enable_deterministic,
            use_cpu=is_cpu,
            gpus=None if is_cpu else [trainer.device.index or 0],
            random_seed=trainer.random_seed,
            src_root=trainer.src_root,
            import_prefix=trainer.import_prefix,
            precision=trainer.precision,
            print_banner=False,
            plugins=plugins,
            autoload=False,
        )


def _check_kinds(trainer: object, model: object, datamodule: object, name: str) -> None:
    given = {"trainer": (trainer, Trainer), "model": (model, Model)}
    given["datamodule"] = (datamodule, DataModule)
    for argument, (value, kind) in given.items():
        if not isinstance(value, kind):
            raise TypeError(
                f"{name}(trainer, model, datamodule) got a {type(value).__name__} as {argument}:"
                f" pass a {kind.__name__}."
            )


def _forming(trainer: Trainer) -> list[Any]:
    """Return the plug-ins that determine what a step computes; others judge, log or write."""
    rows = trainer.plugin_manager.rows.values()
    return [
        row.plugin
        for row in rows
        if any(hook in row.hooks for hook in _FORMING) and "on_validation_results" not in row.hooks
    ]


@contextlib.contextmanager
def _no_trace() -> Iterator[None]:
    """Restore the generators, log only errors, and free the memory of the copies."""
    generator, level = rng.peek_default_numpy_rng(), logging.root.manager.disable
    logging.disable(max(level, logging.ERROR))
    _free_memory()  # what the error of an earlier trial has kept alive
    try:
        with rng.preserved_rng_state():
            yield
    finally:
        logging.disable(level)
        rng.replace_default_numpy_rng(generator)
        _free_memory()


def _free_memory() -> None:
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
