"""The methods of a model and a data module that no trainer of Helios calls, and what was meant."""

import inspect
import re
import types
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from helios.data import DataModule
from helios.model import Model
from helios.plugins import HOOKS

_EVENT = re.compile(
    r"on_(.*_)?(train(ing)?|val(id(ation)?)?|eval|test(ing)?|fit|predict|epoch|batch|step|"
    r"backward|optimizer|checkpoint)(_.*)?"
)
"""The names of events in a run; ``on_gpu`` is none."""

_LIBRARIES = ("helios", "torch", "lightning", "pytorch_lightning", "transformers", "torchmetrics")
"""The packages whose classes have methods for other purposes."""

_STEP = "write def {}(self, batch, {})"
_BOTH = {
    "training_step": _STEP.format("train_step", "state"),
    **dict.fromkeys(
        ("validation_step", "val_step", "eval_step", "eval_forward"),
        _STEP.format("valid_step", "step"),
    ),
    "testing_step": _STEP.format("test_step", "step"),
    **dict.fromkeys(
        ("prediction_step", "predict_batch"),
        "write predict_step(self, batch, step), and call trainer.predict(model, datamodule)",
    ),
    **dict.fromkeys(
        ("predict_dataloader", "get_predict_dataloader"),
        "call trainer.predict(model, datamodule, split=...), which reads one of the sets",
    ),
    **dict.fromkeys(
        (
            *("configure_optimizers", "create_optimizer", "create_scheduler"),
            "create_optimizer_and_scheduler",
        ),
        "create optimizers and schedulers in setup(), and call self.optimize(loss, optimizer) in"
        " train_step",
    ),
    **dict.fromkeys(
        ("optimizer_step", "optimizer_zero_grad", "backward", "manual_backward", "create_scaler"),
        "call self.optimize(loss, optimizer) in train_step",
    ),
    "lr_scheduler_step": "pass the scheduler: self.optimize(loss, optimizer, scheduler=...)",
    **dict.fromkeys(
        ("configure_gradient_clipping", "clip_gradients"),
        "call self.optimize(loss, optimizer, clip_norm=...)",
    ),
    "configure_callbacks": "pass Trainer(plugins=[...])",
    "training_epoch_end": "write on_training_epoch_end(self, current_epoch)",
    "on_epoch_start": "write on_training_epoch_start(self, current_epoch)",
    "on_epoch_end": "write on_training_epoch_end(self, current_epoch)",
    **dict.fromkeys(
        ("on_batch_start", "on_batch_begin", "on_step_begin", "on_step_start"),
        "write on_training_batch_start(self, state)",
    ),
    **dict.fromkeys(
        ("on_batch_end", "on_step_end", "on_train_step_end"),
        "write on_training_batch_end(self, state, should_log)",
    ),
    "on_fit_start": "write on_training_start(self)",
    "on_fit_end": "write on_training_end(self)",
    "training_step_end": "write on_training_batch_end(self, state, should_log)",
    "validation_epoch_end": "write on_validation_end(self, validation_cycle)",
    "on_validation_epoch_start": "write on_validation_start(self, validation_cycle)",
    "on_validation_epoch_end": "write on_validation_end(self, validation_cycle)",
    "validation_step_end": "write on_validation_batch_end(self, step)",
    "test_step_end": "write on_testing_batch_end(self, step)",
    **dict.fromkeys(("test_epoch_end", "on_test_epoch_end"), "write on_testing_end(self)"),
    "on_test_epoch_start": "write on_testing_start(self)",
    "on_save_checkpoint": "write state_dict(self)",
    "user_state_dict": "write state_dict(self)",
    "on_load_checkpoint": "write load_state_dict(self, state_dict, fast_init)",
    "load_user_state_dict": "write load_state_dict(self, state_dict, fast_init)",
    "should_save_checkpoint": "pass Trainer(chkpt_frequency=...), keep_last or keep_best",
    **dict.fromkeys(
        (
            *("batch_to_device", "transfer_batch_to_device"),
            *("on_before_batch_transfer", "on_after_batch_transfer"),
        ),
        "move the batch in the step, or use the plug-in CUDAPlugin",
    ),
    **dict.fromkeys(
        ("train_loader", "get_train_dataloader", "get_train_loader"),
        "assign self._train_dataset = self._create_dataset(...) in setup()",
    ),
    **dict.fromkeys(
        ("val_dataloader", "val_loader", "eval_dataloader", "get_eval_dataloader"),
        "assign self._valid_dataset = self._create_dataset(...) in setup()",
    ),
    "collate_fn": "pass it in DataLoaderParams(collate_fn=...)",
}
"""Methods of other trainers and of other releases, with what to do instead."""


def find_unused(target: Model | DataModule) -> Iterator[str]:
    """Iterate over warnings about methods that look as if Helios called them, but it does not.

    A method that other methods of the object call is a helper, whatever its name.

    Args:
        target: a model or a data module.
    """
    base = Model if isinstance(target, Model) else DataModule
    label, helpers = type(target).__name__, _called_names(target)
    yield from _hidden(target, base)
    for name, owner in _own_methods(target, base).items():
        if name.startswith("_") or hasattr(base, name) or name in helpers:
            continue
        instead = _instead_of(name, base)
        if instead:
            yield f"{label}.{name}() is never called ({_source(owner, name)}): {instead}."


def find_uncallable(target: Model | DataModule) -> Iterator[tuple[str, str]]:
    """Iterate over the methods of an object that Helios cannot call with its arguments.

    Args:
        target: a model or a data module.

    Yields:
        Pairs of a name and the signature to write.
    """
    base = Model if isinstance(target, Model) else DataModule
    for name, default in vars(base).items():
        is_checked_elsewhere = isinstance(target, Model) and name == "setup"
        is_own = _is_called(name, default) and _overrides(target, base, name)
        if is_checked_elsewhere or not is_own:
            continue
        expected = inspect.signature(default)
        arguments = [each for each in expected.parameters if each not in ("self", "should_log")]
        by_name = {"should_log": False} if "should_log" in expected.parameters else {}
        try:
            inspect.signature(getattr(target, name)).bind(*arguments, **by_name)
        except TypeError:
            yield name, f"def {name}({', '.join(expected.parameters)})"
        except ValueError:  # some functions in C have no signature
            continue


def overridden(target: Model | DataModule) -> Iterator[tuple[str, Any]]:
    """Iterate over the names and functions of the methods that Helios calls."""
    base = Model if isinstance(target, Model) else DataModule
    for name, default in vars(base).items():
        is_function = inspect.isfunction(default) and not inspect.isgeneratorfunction(default)
        if is_function and _overrides(target, base, name):
            yield name, getattr(target, name)


_BY_USERS = (
    *("load_state_dict", "trained_state_dict", "prepare", "log", "optimize", "rename"),
    *("networks", "run_setup", "get_train_steps_per_epoch"),
)
"""The methods that have a check of their own, or that only users call."""


def _is_called(name: str, default: object) -> bool:
    return inspect.isfunction(default) and not name.startswith("_") and name not in _BY_USERS


def _overrides(target: object, base: type, name: str) -> bool:
    value = inspect.getattr_static(target, name)
    return value is not vars(base)[name] and not isinstance(value, property)


def _instead_of(name: str, base: type) -> str:
    """Return what to do instead of writing a method; ``""`` if its name is harmless."""
    if name in _BOTH:
        return _BOTH[name]
    known = [each for each, default in vars(base).items() if _is_called(each, default)]
    known.append("load_state_dict")
    if name in HOOKS:
        return "it is a hook of plug-ins, so write it in a Plugin"
    is_event = _EVENT.fullmatch(name) is not None
    usual = re.sub("begin$", "start", name)
    meant = get_close_matches(usual, known, n=1, cutoff=0.75 if is_event else 0.8)
    if meant and (meant[0] not in name or name == f"{meant[0]}s"):  # pretrain_step is another name
        arguments = inspect.signature(getattr(base, meant[0])).parameters
        return f"write def {meant[0]}({', '.join(arguments)})"
    other = DataModule if base is Model else Model
    if is_event or ("_" in name and _is_called(name, vars(other).get(name))):
        return _elsewhere(name, base)
    return ""


def _elsewhere(name: str, base: type) -> str:
    """Return what to do about a method that the other class has, or that is an event."""
    other = DataModule if base is Model else Model
    if name in vars(other):
        return f"write it in the {other.__name__}"
    events = [each for each in vars(Model) if each.startswith("on_")]
    return f"a {Model.__name__} has {', '.join(events)}"


def _hidden(target: object, base: type) -> Iterator[str]:
    """Find methods of mixins that the defaults of the base class hide."""
    known = {name for name, default in vars(base).items() if _is_called(name, default)}
    for owner in _own_classes(target, base):
        for name in vars(owner).keys() & (known | {"load_state_dict"}):
            definer = next(each for each in type(target).__mro__ if name in vars(each))
            if definer in base.__mro__ and name not in vars(target):
                yield (
                    f"{owner.__name__}.{name}() is never called, because {base.__name__}.{name}()"
                    f" comes first among the bases of {type(target).__name__}: write class"
                    f" {type(target).__name__}({owner.__name__}, {base.__name__})."
                )


def _own_classes(target: object, base: type) -> list[type]:
    return [
        each
        for each in type(target).__mro__
        if each not in base.__mro__ and each.__module__.partition(".")[0] not in _LIBRARIES
    ]


def _own_methods(target: object, base: type) -> dict[str, type]:
    """Return the class that defines each method of an object, without those of libraries."""
    found: dict[str, type] = {}
    for owner in _own_classes(target, base):
        for name, value in vars(owner).items():
            if isinstance(value, types.FunctionType | classmethod | staticmethod):
                found.setdefault(name, owner)
    return found


def _called_names(target: object) -> set[str]:
    """Return the names that the methods of an object use, each except its own."""
    found: set[str] = set()
    for owner in type(target).__mro__:
        for name, value in vars(owner).items():
            function = getattr(value, "__func__", getattr(value, "fget", value))
            inner = inspect.unwrap(function) if callable(function) else None
            code = getattr(inner, "__code__", None)
            if code is not None:
                found |= set(_names_in(code)) - {name}
    return found


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _source(owner: type, name: str) -> str:
    code = getattr(inspect.unwrap(getattr(owner, name)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else owner.__module__
