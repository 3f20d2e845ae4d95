"""Exceptions, jobs and models on their way between the processes of a run."""

import contextlib
import dataclasses
import io
import logging
import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from helios.errors import ConfigurationError, describe, notes_of
from helios.trainer.job import Job, Outcome

_logger = logging.getLogger("helios")
_DEEPEST = 12
_MARK = "helios_has_shipped_it"


# Exceptions.


@dataclasses.dataclass(frozen=True)
class ShippedError:
    """An exception that keeps its type on the way to another process.

    Attributes:
        pickled: the exception, if it can be pickled; otherwise its type, arguments and attributes.
        is_whole: ``True`` if ``pickled`` is the exception.
        text: its type and message.
        trace: its traceback, with those of its causes.
        notes: its notes.
    """

    pickled: bytes | None
    is_whole: bool
    text: str
    trace: str
    notes: tuple[str, ...]

    @classmethod
    def pack(cls, error: BaseException) -> "ShippedError":
        """Return an exception for another process."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        notes = tuple(notes_of(error))
        pickled = _tried(lambda: pickle.dumps(error))
        is_whole = pickled is not None and type(_tried(lambda: pickle.loads(pickled))) is type(
            error
        )
        if not is_whole:
            # Its __init__ may take other arguments than it passes on, or an attribute is a lock.
            parts = type(error), _portable(error.args), _portable(vars(error))
            pickled = _tried(lambda: pickle.dumps(parts))
        return cls(pickled, is_whole, describe(error), trace, notes)

    def unpack(self) -> BaseException | None:
        """Return the exception; ``None`` if its class cannot be imported here."""
        if self.pickled is None:
            return None
        value = _tried(lambda: pickle.loads(self.pickled or b""))
        if isinstance(value, tuple):
            value = _tried(lambda: _rebuilt(*value))
        if not isinstance(value, BaseException):
            return None
        with contextlib.suppress(AttributeError):  # its class allows no attributes
            setattr(value, _MARK, True)
        if not notes_of(value):
            for note in self.notes:
                value.add_note(note)
        return value


def is_shipped(error: BaseException) -> bool:
    """Return whether another process has raised an error, and has reported it."""
    return hasattr(error, _MARK)


def _rebuilt(
    kind: type[BaseException], arguments: tuple[Any, ...], attributes: Mapping[str, Any]
) -> BaseException:
    """Return an exception without a call of its own ``__init__``."""
    arguments = _restored(arguments)
    error = kind.__new__(kind, *arguments)
    base: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    base.__init__(error, *arguments)
    vars(error).update(_restored(attributes))
    return error


def _portable(value: Any) -> Any:
    """Return what can be pickled of a value: exceptions in it keep their types."""
    if isinstance(value, BaseException):
        return ShippedError.pack(value)
    if type(value) in (list, tuple):
        return type(value)(map(_portable, value))
    if type(value) is dict:
        found = {name: _portable(each) for name, each in value.items()}
        return {name: each for name, each in found.items() if each is not None}
    return value if _tried(lambda: pickle.dumps(value)) is not None else None


def _restored(value: Any) -> Any:
    if isinstance(value, ShippedError):
        return value.unpack() or RuntimeError(value.text)
    if type(value) in (list, tuple):
        return type(value)(map(_restored, value))
    if type(value) is dict:
        return {name: _restored(each) for name, each in value.items()}
    return value


def _tried(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception:
        return None


# Jobs.


def pack_job(target: Callable[[], Any], job: Job, argument: str) -> bytes:
    """Return the target of a launch for other processes.

    Raises:
        ConfigurationError: an object of the user cannot be pickled; the message names it.
    """
    try:
        return pickle.dumps(target)
    except Exception as error:
        name, reason = _unpicklable(job) or ("the job", error)
        raise ConfigurationError(
            f"{argument} starts processes, but {name} cannot be sent to them:"
            f" {describe(reason)}. Create it in setup(), which each process calls, or define it on"
            " the level of a module."
        ) from error


def _unpicklable(job: Job) -> tuple[str, Exception] | None:
    """Return the name of the first object that cannot be pickled, and the reason."""
    manager = job.trainer.plugin_manager
    roots: list[tuple[str, object]] = [
        (type(job.model).__name__, job.model),
        (type(job.datamodule).__name__, job.datamodule),
        *((f"plug-in {row.id!r}", row.plugin) for row in manager.rows.values()),
        ("Trainer", job.trainer),
    ]
    known = {id(value): name for name, value in roots}
    for name, value in roots:
        found = _find(value, name, known, _DEEPEST)
        if found is not None:
            return found
    return None


def _find(
    value: Any,
    name: str,
    known: Mapping[int, str],
    depth: int,
    whole: Mapping[int, torch.Tensor] | None = None,
) -> tuple[str, Exception] | None:
    """Return the innermost part of a value that cannot be pickled, and the reason."""
    others = {key: v for key, v in known.items() if key != id(value)}
    try:
        _Pickler(io.BytesIO(), others, whole).dump(value)
    except Exception as error:
        parts = _parts(value) if depth else {}
        for part, inner in parts.items():
            if id(inner) not in known:
                found = _find(inner, f"{name}{part}", known, depth - 1, whole)
                if found is not None:
                    return found
        return name, error
    return None


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {f"[{key!r}]": each for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return {f"[{number}]": each for number, each in enumerate(value)}
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, type):
        return {f".{name}": each for name, each in attributes.items()}
    return {}


# Models.


class _Pickler(pickle.Pickler):
    """Pickles a part of a job: the other parts by their names, networks without parallelism."""

    def __init__(
        self,
        file: io.BytesIO,
        known: Mapping[int, str],
        whole: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(file)
        self._known = known
        self._whole = whole or {}

    def persistent_id(self, value: Any) -> str | None:
        return self._known.get(id(value))

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, DistributedDataParallel):
            return _same, (value.module,)
        if isinstance(value, torch.Tensor) and hasattr(value, "device_mesh"):  # DTensor
            if id(value) not in self._whole:
                raise TypeError("it is sharded among the processes")
            return _same, (self._whole[id(value)],)
        if self._whole and isinstance(value, torch.nn.Module):
            from helios.model import shards  # imports much of torch.distributed

            if shards.is_divided(value):
                kind, attributes = shards.undivided(value)
                return _created, (kind,), attributes
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, known: Mapping[str, object]) -> None:
        super().__init__(file)
        self._known = known

    def persistent_load(self, name: str) -> object:
        return self._known[name]


def _same(module: Any) -> Any:
    return module


def _created(kind: Any) -> Any:
    return kind.__new__(kind)


def whole_tensors(job: Job) -> dict[int, torch.Tensor]:
    """Return the tensors that ranks have divided as whole ones; all ranks must call this."""
    if job.trainer.parallel != "fsdp" or not job.place.is_distributed:
        return {}
    from helios.model import shards  # imports much of torch.distributed

    return shards.whole_tensors(job.model, keeps=job.place.rank == 0)


def pack_model(job: Job, whole: Mapping[int, torch.Tensor] | None = None) -> bytes | str:
    """Return the attributes of the trained model for the parent, or why it cannot have them.

    Args:
        job: the job.
        whole: the whole tensors to send in place of divided ones, by the identity of these.
    """
    known = {id(value): name for name, value in _others(job).items()}
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, known, whole).dump(vars(job.model))
    except Exception:
        found = _find(vars(job.model), type(job.model).__name__, known, _DEEPEST, whole)
        name, reason = found or (type(job.model).__name__, "it cannot be pickled")
        return f"{name} cannot be sent back: {reason}"
    return buffer.getvalue()


def bring_back(outcome: Outcome, job: Job) -> Outcome:
    """Give the model of this process the attributes of the trained one, or say why it cannot.

    Returns:
        The outcome without them.
    """
    reason = outcome.model
    if isinstance(outcome.model, bytes):
        try:
            _unpack_model(outcome.model, job)
            reason = None
        except Exception as error:
            reason = f"it cannot be unpickled here: {describe(error)}"
    if reason is not None:
        _logger.warning(
            "the model of this process has not been trained, because %s. Load the weights from a"
            " checkpoint.",
            reason,
        )
    return dataclasses.replace(outcome, model=None)


def _unpack_model(data: bytes, job: Job) -> None:
    attributes = _Unpickler(io.BytesIO(data), _others(job)).load()
    vars(job.model).clear()
    vars(job.model).update(attributes)


def _others(job: Job) -> dict[str, object]:
    """Return the objects of a job that a model may refer to, by name."""
    plugins = {f"plug-in {row.id}": row.plugin for row in job.trainer.plugin_manager.rows.values()}
    return {"trainer": job.trainer, "model": job.model, "datamodule": job.datamodule, **plugins}
