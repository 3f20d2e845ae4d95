"""A test that every plug-in must pass, as one function call."""

import pathlib
import struct
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from helios import Trainer
from helios.errors import InvalidPluginError
from helios.plugins import hookimpl
from helios.testing.tiny import TinyDataModule, TinyModel


class ConformanceError(AssertionError):
    """Raised if a plug-in fails the conformance test."""


def check_conformance(create: Callable[[], Any], **trainer_arguments: Any) -> None:
    """Train a tiny model with a plug-in: uninterrupted, stopped and resumed, and with an error.

    The function checks that

    - the trainer can register the plug-in, and ``fit`` and ``test`` finish;
    - a run that stops and resumes in a new trainer ends with the same weights and the same state
      of the plug-in as an uninterrupted run;
    - the plug-in does not hide the error of a failing run.

    Args:
        create: a function that returns a new plug-in at each call.
        trainer_arguments: more arguments for each trainer.

    Raises:
        ConformanceError: one of these checks failed.

    Example:
        .. code-block:: python

            def test_conformance() -> None:
                check_conformance(lambda: EMAPlugin(decay=0.5))
    """
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        uninterrupted = _train(create(), root / "whole", None, trainer_arguments)
        for batches in (1, 4, 8):  # in the first and in the second epoch
            _train(create(), root / f"cut-{batches}", batches, trainer_arguments)
            resumed = _train(create(), root / f"cut-{batches}", None, trainer_arguments)
            for part in uninterrupted:
                if not equal(uninterrupted[part], resumed[part]):
                    raise ConformanceError(
                        f"a run that stops after {batches} batches and resumes ends with a"
                        f" different {part} than an uninterrupted run: return everything that"
                        " influences it from state_dict(), and restore it in load_state_dict()."
                    )
        _check_failure(create(), trainer_arguments)


def equal(left: Any, right: Any) -> bool:
    """Return whether two states, including their tensors, are equal bit for bit."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        same_kind = left.dtype == right.dtype and left.shape == right.shape
        return same_kind and torch.equal(_bytes(left), _bytes(right))
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    return bool(left == right)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor.

    Bytes compare exactly; values do not, since NaN differs from itself and -0.0 equals 0.0.
    """
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


class StopAfter:
    """A plug-in that requests a stop after a number of batches in this process.

    Args:
        batches: the number of batches; ``None`` to never request a stop.
    """

    def __init__(self, batches: int | None) -> None:
        self._batches = batches

    @hookimpl
    def on_training_batch_end(self, state: Any) -> None:
        """Request the stop after the last batch."""
        if state.running_iter == self._batches:
            self._trainer.request_stop("enough for this test")

    @hookimpl
    def configure_trainer(self, trainer: Trainer) -> None:
        """Store the trainer, which receives the request."""
        self._trainer = trainer


class _Failure(Exception):
    pass


class _FailingModel(TinyModel):
    def on_training_batch_end(self, state: Any, should_log: bool = False) -> None:
        raise _Failure


def _train(
    plugin: Any, root: pathlib.Path, stop_after: int | None, arguments: dict[str, Any]
) -> dict[str, Any]:
    trainer = Trainer(
        **{
            "total_steps": 3,
            "valid_frequency": 1,
            "print_frequency": 2,
            "run_root": root,
            "print_banner": False,
            "use_cpu": True,
            "autoload": False,
            "plugins": [plugin, StopAfter(stop_after)],
            **arguments,
        }
    )
    model = TinyModel()
    trainer.fit(model, TinyDataModule())
    state: dict[str, Any] = getattr(plugin, "state_dict", dict)()
    result = {"state of the model": model.state_dict(), "state of the plug-in": state}
    if stop_after is None:
        trainer.test(model, TinyDataModule())
    return result


def _check_failure(plugin: Any, arguments: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "total_steps": 1,
            "run_root": folder,
            "print_banner": False,
            "use_cpu": True,
        }
        options |= {"autoload": False, "plugins": [plugin], **arguments}
        try:
            Trainer(**options).fit(_FailingModel(), TinyDataModule())
        except _Failure:
            return
        except InvalidPluginError as error:  # its launch hook returned no result
            raise ConformanceError("the plug-in swallows the error of a run that fails") from error
        except Exception as error:
            raise ConformanceError("the plug-in hides the error of a run that fails") from error
    raise ConformanceError("the plug-in swallows the error of a run that fails")
