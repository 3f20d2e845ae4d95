"""The arguments, datasets and methods that a run will not use, although somebody wrote them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from helios.data import DataModule
from helios.model import Model
from helios.model.model import overrides
from helios.plugins.calls.callers import HookCallers
from helios.trainer.arguments.methods import find_unused
from helios.trainer.best import has_own_judge

if TYPE_CHECKING:
    from helios.trainer import Trainer

_MODE_MATTERS = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)  # noqa: SLF001 - torch has no public name


def unused_names(model: Model, datamodule: DataModule) -> Iterator[str]:
    """Iterate over warnings about names; called before set-up, which may fail because of one."""
    yield from find_unused(model)
    yield from find_unused(datamodule)


def unused_in_training(
    trainer: "Trainer", model: Model, datamodule: DataModule, hooks: HookCallers
) -> Iterator[str]:
    """Iterate over warnings about what training will not use; called after set-up."""
    yield from _validation(trainer, model, datamodule, hooks)
    yield from _verdicts(trainer, model)
    yield from _modes(model)
    if trainer.async_checkpoints and trainer.chkpt_root is None:
        yield "Trainer(async_checkpoints=True) has no effect without run_root=... or chkpt_root=..."
    if trainer.import_prefix and trainer.src_root is None:
        yield f"Trainer(import_prefix={trainer.import_prefix!r}) has no effect without src_root=..."


def unused_in_evaluation(
    model: Model, datamodule: DataModule, hooks: HookCallers, kind: Literal["valid", "test"]
) -> Iterator[str]:
    """Iterate over warnings about what an evaluation will not use; called after set-up."""
    verb, phase, noun = {
        "valid": ("validated", "validation", "validation"),
        "test": ("tested", "testing", "test"),
    }[kind]
    if not _has_set(datamodule, kind):
        yield (
            f"nothing is {verb}, because {type(datamodule).__name__} has no {noun} set: assign"
            f" self._{kind}_dataset = self._create_dataset(...) in setup()."
        )
    elif not _uses(model, hooks, f"{kind}_step", phase):
        yield (
            f"nothing is {verb}, because {type(model).__name__} has no {kind}_step: write"
            f" def {kind}_step(self, batch, step)."
        )


def _validation(
    trainer: "Trainer", model: Model, datamodule: DataModule, hooks: HookCallers
) -> Iterator[str]:
    frequency, unit = trainer.valid_frequency, trainer.train_unit.value
    label, given = type(model).__name__, f"Trainer(valid_frequency={frequency})"
    if frequency is None:
        if overrides(model, "valid_step") and not trainer.valid_first:
            yield (
                f"{label}.valid_step() is never called in this run: pass"
                f" Trainer(valid_frequency=...), the number of {unit}s between validations."
            )
    elif not _has_set(datamodule, "valid"):
        if overrides(model, "valid_step") or not has_own_judge(model):
            yield (
                f"{given} validates nothing, because {type(datamodule).__name__} has no validation"
                " set: assign self._valid_dataset = self._create_dataset(...) in setup()."
            )
    elif frequency > trainer.total_steps:
        yield (
            f"{given} is more than total_steps={trainer.total_steps}, so this run never validates:"
            " pass a smaller valid_frequency."
        )
    elif not _uses(model, hooks, "valid_step", "validation") and not has_own_judge(model):
        yield (
            f"{given} computes nothing, because {label} has no valid_step: write"
            " def valid_step(self, batch, step)."
        )


def _verdicts(trainer: "Trainer", model: Model) -> Iterator[str]:
    """Find arguments that need validations and somebody who judges them."""
    needs = {"early_stop_cycles": trainer.early_stop_cycles, "keep_best": trainer.keep_best}
    for name, value in needs.items():
        if value is not None and trainer.valid_frequency is None:
            yield (
                f"Trainer({name}={value}) has no effect without validations: pass"
                " valid_frequency=..., too."
            )
        elif value is not None and trainer.best is None and not has_own_judge(model):
            yield (
                f"Trainer({name}={value}) has no effect, because nothing says which validation is"
                ' the best: pass best=("loss", "min") with the name of a logged metric, or write'
                f" {type(model).__name__}.have_metrics_improved()."
            )


def _modes(model: Model) -> Iterator[str]:
    """Find whole networks that are trained in evaluation mode, as some libraries load them."""
    for name, network in model.networks():
        modules = list(network.modules())
        is_trained = any(parameter.requires_grad for parameter in network.parameters())
        matters = any(isinstance(each, _MODE_MATTERS) for each in modules)
        if is_trained and matters and not any(each.training for each in modules):
            yield (
                f"{type(model).__name__}.{name} is trained in evaluation mode, so its dropout and"
                f" batch normalization stay off: call self.{name}.train() in setup() if you do not"
                " mean this."
            )


def _has_set(datamodule: DataModule, kind: str) -> bool:
    return _has_own_loader(datamodule, kind) or getattr(datamodule, f"{kind}_dataset") is not None


def _has_own_loader(datamodule: DataModule, kind: str) -> bool:
    method = f"{kind}_dataloader"
    own = getattr(type(datamodule), method) is not getattr(DataModule, method)
    return own or method in vars(datamodule)


def _uses(model: Model, hooks: HookCallers, step: str, phase: str) -> bool:
    """Return whether the model or a plug-in has any use for the batches of an evaluation."""
    moments = ("start", "batch_start", "batch_end", "end")
    if any(overrides(model, name) for name in (step, *(f"on_{phase}_{each}" for each in moments))):
        return True
    names = (f"process_{phase}_batch", *(f"on_{phase}_{each}" for each in moments))
    return any(getattr(hooks, name, None) is not None for name in names)


class FirstSteps:
    """Notices that the first steps of training change no weights.

    Args:
        model: the model, which is set up.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._versions = [(each, _version(each)) for each in _trainable(model)]

    def problem(self, outputs: Any, *, has_optimized: bool, is_over: bool) -> str | None:
        """Return what is wrong, or ``None``.

        Args:
            outputs: the value that ``train_step`` has returned.
            has_optimized: ``True`` if the model has called ``optimize()``.
            is_over: ``True`` if training is over, so that no step can follow.
        """
        label = f"{type(self._model).__name__}.train_step()"
        if has_optimized or not self._versions or self._has_trained():
            return None
        if _holds_loss(outputs):
            return (
                f"{label} returns a loss, but nothing has been trained: Helios does not use the"
                " returned value. Call self.optimize(loss, optimizer) in train_step."
            )
        if is_over:
            return (
                f"nothing has been trained: no weights have changed, and {label} has not called"
                " self.optimize(loss, optimizer)."
            )
        return None

    def _has_trained(self) -> bool:
        return any(
            parameter.grad is not None or _version(parameter) != version
            for parameter, version in self._versions
        )


def _trainable(model: Model) -> Iterator[torch.Tensor]:
    for _, network in model.networks():
        for parameter in network.parameters():
            is_lazy = nn.parameter.is_lazy(parameter)
            if parameter.requires_grad and not is_lazy and not parameter.is_inference():
                yield parameter


def _version(parameter: torch.Tensor) -> int:
    return parameter._version  # noqa: SLF001 - torch documents it, but has no public name


def _holds_loss(outputs: Any) -> bool:
    if isinstance(outputs, torch.Tensor):
        return outputs.requires_grad
    values = outputs.values() if isinstance(outputs, dict) else outputs
    is_container = isinstance(outputs, dict | list | tuple)
    return is_container and any(_holds_loss(each) for each in values)
