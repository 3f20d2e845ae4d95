"""The way from one process of a run to another: exceptions, jobs, and trained models."""

import functools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Named, notes_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helios import TrainingState
from helios.errors import ConfigurationError, UnknownNameError
from helios.testing import TinyDataModule, TinyModel
from helios.trainer.job import Job, Outcome
from helios.trainer.launch.transport import ShippedError, bring_back, pack_job, pack_model

Make = Callable[..., Any]


class OwnArguments(ValueError):
    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name}: {number}")
        self.number = number


class WithLock(OSError):
    def __init__(self, text: str) -> None:
        super().__init__(2, text)
        self.lock = threading.Lock()
        self.kept = "kept"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


ERRORS = [
    ValueError("plain"),
    KeyError("key"),
    UnknownNameError("no such name"),
    OwnArguments("seven", 7),
    WithLock("locked"),
    SystemExit(3),
    KeyboardInterrupt(),
    FileNotFoundError(2, "No such file", "there"),
    ExceptionGroup("several", [ValueError("one"), OwnArguments("two", 2)]),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions_keep_their_type(error: BaseException) -> None:
    error.add_note("a note")
    shipped = pickle.loads(pickle.dumps(ShippedError.pack(raised(error))))
    there = shipped.unpack()
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert notes_of(there) == ["a note"]
    assert "raise error" in shipped.trace
    for name in ("number", "kept", "code", "filename"):
        assert getattr(there, name, None) == getattr(error, name, None)


def test_class_that_cannot_be_imported_is_named() -> None:
    class Local(Exception): ...

    shipped = ShippedError.pack(raised(Local("here")))
    assert shipped.unpack() is None
    assert shipped.text == "Local: here"


class Holding(TinyModel):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.layers = {"first": [nn.ReLU(), value]}


class HoldingData(TinyDataModule):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.transform = value


class HoldingPlugin(Named):
    def __init__(self, value: Any) -> None:
        super().__init__("holding")
        self.value = value


def make_job(make: Make, model: Any = None, data: Any = None, plugins: Any = ()) -> Job:
    model, data = model or TinyModel(), data or TinyDataModule()
    return Job.create("fit", make(plugins=list(plugins)), model, data, TrainingState())


def nothing(job: Job) -> None: ...


def test_objects_that_cannot_be_sent_are_named(make_trainer: Make) -> None:
    function = lambda x: x  # noqa: E731 - as users write it
    jobs = {
        r"Holding\.layers\['first'\]\[1\]": make_job(make_trainer, Holding(function)),
        r"HoldingData\.transform": make_job(make_trainer, data=HoldingData(threading.Lock())),
        r"plugin 'holding'\.value".replace("plugin", "plug-in"): make_job(
            make_trainer, plugins=[HoldingPlugin(x for x in [])]
        ),
    }
    for name, job in jobs.items():
        with pytest.raises(ConfigurationError, match=rf"^Trainer\(devices=2\).* but {name} cannot"):
            pack_job(functools.partial(nothing, job), job, "Trainer(devices=2)")
    right = make_job(make_trainer)
    assert pickle.loads(pack_job(functools.partial(nothing, right), right, "")).func is nothing


def test_model_comes_back(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(make_trainer)
    trained = TinyModel()
    job.trainer.fit(trained, TinyDataModule())
    trained.others = [job.trainer, job.datamodule, trained]
    # What DistributedDataParallel holds cannot exist in the parent.
    parallel = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(parallel)
    parallel.module = trained.net
    trained.wrapped = parallel
    there = Job.create("fit", job.trainer, trained, job.datamodule, TrainingState())
    data = pack_model(there)
    assert isinstance(data, bytes)
    here = make_job(make_trainer)
    assert bring_back(Outcome(model=data), here).model is None
    assert isinstance(here.model, TinyModel)
    assert here.model.wrapped is here.model.net
    assert here.model.others == [here.trainer, here.datamodule, here.model]
    for one, other in zip(here.model.net.parameters(), trained.net.parameters(), strict=True):
        assert torch.equal(one, other)
    group = here.model.optimizer.param_groups[0]
    assert group["params"][0] is next(here.model.net.parameters())


def test_model_that_cannot_come_back_is_named(make_trainer: Make) -> None:
    job = make_job(make_trainer)
    job.model.hook = lambda x: x
    reason = pack_model(job)
    assert isinstance(reason, str)
    assert reason.startswith("TinyModel['hook'] cannot be sent back: ")
