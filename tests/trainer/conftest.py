"""Fixtures of the trainer's tests: one thread, runs that save checkpoints, transcripts."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make
from transcript import EveryMethod, Everything, Three, Transcript

from helios import Model, Trainer
from helios.testing import TinyDataModule, TinyModel


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Use one thread: the networks are too small for several threads to be faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder in which ``fit`` saves the checkpoints of a ``TinyModel``."""
    return tmp_path / "tiny"


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Callable[..., Any]:
    """Train in a new trainer that saves in ``tmp_path``; return model and trainer."""

    def run(
        model: Model | None = None, data: Any = None, **arguments: Any
    ) -> tuple[TinyModel, Trainer]:
        model = model or TinyModel()
        trainer = make_trainer(**{"chkpt_root": tmp_path, "total_steps": 1, **arguments})
        trainer.fit(model, data or TinyDataModule())
        return model, trainer  # type: ignore[return-value]  # TinyModel, or a subclass

    return run


@pytest.fixture
def parts(make_trainer: Make) -> Callable[..., tuple[Any, ...]]:
    """Make a trainer, a model and data that write into one new transcript."""

    def make(**arguments: Any) -> tuple[Any, ...]:
        transcript = Transcript()
        trainer = make_trainer(plugins=[Everything(transcript.of("plugin"))], **arguments)
        model, data = EveryMethod(transcript.of("model")), Three(transcript.of("data"))
        return trainer, model, data, transcript

    return make
