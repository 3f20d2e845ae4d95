"""The base class of plug-ins, their registry, and the plug-in that moves batches to a GPU."""

import abc
import dataclasses
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from helios.core import Placed, TrainingState, convert_to_list, requires_cuda_support
from helios.errors import (
    InvalidPluginError,
    kind_of,
)
from helios.plugins import once
from helios.plugins.discovery.registry import PluginRegistry
from helios.plugins.hookspecs import PluginSpec
from helios.plugins.plans import call_record
from helios.plugins.prefetch import SideStream, prefetch
from helios.plugins.run_properties import note_values

if TYPE_CHECKING:
    from helios.trainer import Trainer

PLUGIN_REGISTRY = PluginRegistry("plug-in")
"""The registry of plug-ins: decorated classes by class name, installed plug-ins by entry point.

Example:
    .. code-block:: python

        import helios.plugins as hlp

        @hlp.PLUGIN_REGISTRY
        class MyPlugin(hlp.Plugin): ...

        # or, with a call:
        hlp.PLUGIN_REGISTRY.register(MyPlugin)
"""


def create_plugin(type_name: str, *args: Any, **kwargs: Any) -> "Plugin":
    """Create the plug-in for the given type.

    Args:
        type_name: the name of a registered class, or of an installed plug-in.
        args: positional arguments to pass into the plug-in.
        kwargs: keyword arguments to pass into the plug-in.

    Returns:
        The plug-in; if its entry point names a module or an object, that module or object.

    Raises:
        UnknownNameError: no plug-in has this name.
        InvalidPluginError: the call has arguments, but the plug-in is a module or an object.
    """
    registered = PLUGIN_REGISTRY.get(type_name)
    if callable(registered):
        plugin: Plugin = registered(*args, **kwargs)
        return plugin
    if args or kwargs:
        raise InvalidPluginError(
            f"the plug-in {type_name!r} is {registered!r}, which is not callable, so it takes no"
            " arguments: remove them."
        )
    return registered  # type: ignore[no-any-return]  # a module or object with hookimpls


@dataclasses.dataclass
class UniquePluginOverrides:
    """Set of flags that determine the unique overrides a plug-in can have.

    Two plug-ins must not perform the same action. If both processed the training batch, for
    example, the result would depend on their order. If a plug-in sets a flag, no other active
    plug-in may have it. A plug-in that implements the method sets the flag too.

    Attributes:
        training_batch: the plug-in performs processing on the training batch.
        validation_batch: the plug-in performs processing on the validation batch.
        testing_batch: the plug-in performs processing on the testing batch.
        should_training_stop: the plug-in can arbitrarily stop training.
    """

    training_batch: bool = False
    validation_batch: bool = False
    testing_batch: bool = False
    should_training_stop: bool = False


class Plugin(Placed, PluginSpec, abc.ABC):
    """Base class for plug-ins that extend the functionality of the trainer.

    Override the hooks that you need, with the argument names of
    :class:`~helios.plugins.hookspecs.PluginSpec`. You can omit arguments that you do not need. The
    trainer calls plug-ins before the corresponding method of the model.

    Args:
        plug_id: the string with which the trainer registers the plug-in in its table.
    """

    autoload: ClassVar[bool] = True
    """True if the plug-in is active as soon as it is installed."""

    exclusives: ClassVar[tuple[str, ...]] = ()
    """Names of your choice for more capabilities that only one active plug-in may have."""

    before: ClassVar[tuple[str, ...]] = ()
    """The ids of plug-ins whose hooks Helios calls after those of this plug-in."""

    after: ClassVar[tuple[str, ...]] = ()
    """The ids of plug-ins whose hooks Helios calls before those of this plug-in."""

    requires: ClassVar[tuple[str, ...]] = ()
    """The ids of plug-ins that must be active too, with version specifiers: ``("ema>=0.1",)``."""

    hookspecs: ClassVar[Any] = ()
    """A class with functions marked ``@helios.hookspec``, or a tuple of such classes.

    The functions are hooks that this plug-in calls, for other plug-ins to implement.
    """

    former_ids: ClassVar[tuple[str, ...]] = ()
    """The ids that this plug-in had in earlier releases.

    If a checkpoint has a state under one of them, and none under the present id, it is restored.
    """

    state_version: ClassVar[int] = 1
    """The version of the form of the state. If a release changes the form, it increases this number
    and converts older states in :meth:`migrate_state`.
    """

    critical: ClassVar[bool] = True
    """True if an error of this plug-in ends the run.

    Set it to ``False`` for an observer that the run does not need. If one of its hooks fails,
    Helios logs the whole error. For the rest of the run, it calls only ``teardown`` of this
    plug-in. An error in a hook whose result the run needs always ends the run.
    """

    rank_zero_only: ClassVar[bool] = False
    """True to call the hooks in the process with global rank 0 alone, if a run has several.

    Set it for an observer that writes files or sends messages. It must not exchange values with
    other processes, or change the training.
    """

    summary: ClassVar[str] = ""
    """One line for the header of a run; by default, the first paragraph of the docstring."""

    changes_results: ClassVar[bool] = False
    """True if the trained weights or the logged metrics differ from those without the plug-in.

    The header of a run marks such a plug-in.
    """

    # The attributes of a subclass that does not call __init__.
    _plug_id = ""
    _overrides: UniquePluginOverrides | None = None
    _trainer: "Trainer | None" = None

    def __init__(self, plug_id: str) -> None:
        super().__init__()
        call_record.record_fields(self)
        self._plug_id = plug_id
        self._overrides = UniquePluginOverrides()
        self._trainer = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in once.HOOKS_WITH_TARGET:
            method = inspect.getattr_static(cls, name)  # perhaps from a mixin
            default = inspect.getattr_static(PluginSpec, name)
            is_own = method is not default and not hasattr(method, "applies_once")
            if is_own and once.takes_a_target(method):
                setattr(cls, name, once.once_per_target(method))
        init: Any = cls.__init__
        if init is not Plugin.__init__ and not hasattr(init, "records_arguments"):
            cls.__init__ = call_record.records_arguments(init, note_values)  # type: ignore[method-assign]

    @classmethod
    def applies_to(cls, trainer: "Trainer") -> bool:
        """Return whether the plug-in has any work in this trainer; called before autoloading."""
        return True

    @property
    def plug_id(self) -> str:
        """The string with which the trainer registers the plug-in."""
        return self._plug_id

    @property
    def trainer(self) -> "Trainer":
        """The trainer; raises an ``AssertionError`` before the first run."""
        assert self._trainer is not None, "trainer is known once fit() or test() has started"
        return self._trainer

    @trainer.setter
    def trainer(self, value: "Trainer") -> None:
        self._trainer = value

    @property
    def unique_overrides(self) -> UniquePluginOverrides:
        """The set of unique overrides the plug-in uses; set its fields in ``__init__``.

        Raises:
            InvalidPluginError: the subclass has not called ``super().__init__`` yet.
        """
        if self._overrides is None:
            raise InvalidPluginError(
                f"{kind_of(self)} has not called super().__init__: call"
                ' super().__init__("some-id") first in its __init__, or in __post_init__ of a'
                " dataclass."
            )
        return self._overrides

    @abc.abstractmethod
    def setup(self) -> None:
        """Construct all required state for the plug-in."""

    def log(self, name: str, value: Any) -> None:
        """Log a value as :meth:`Model.log <helios.Model.log>` does at this moment of the run.

        Args:
            name: the name of the quantity.
            value: a number, a tensor with one element, or a metric of torchmetrics.

        Raises:
            NoRunError: no run is in progress.
        """
        self.trainer.model.log(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for checkpoints: plain containers, numbers, strings and tensors."""
        return {}

    state_dict.is_default = True  # type: ignore[attr-defined]  # the manager need not save it

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from :meth:`state_dict`; called after ``setup`` of the model."""

    def migrate_state(self, state_dict: dict[str, Any], version: int) -> dict[str, Any]:
        """Return a state of an older :attr:`state_version` in the present form.

        Called before :meth:`load_state_dict`, if the checkpoint has an older state.

        Args:
            state_dict: the state in the checkpoint.
            version: its version; 1 if the plug-in declared none.
        """
        raise InvalidPluginError(
            f"{kind_of(self)} has no migrate_state(state_dict, version), so it cannot read a state"
            f" of version {version}: add the method."
        )

    def _register_in_trainer(self, trainer: "Trainer") -> None:
        """Register this plug-in in the trainer's table."""
        trainer.register_plugin(self)

    def _append_train_exceptions(
        self, exc: type[Exception] | list[type[Exception]], trainer: "Trainer"
    ) -> None:
        """Append the expected exception type(s) of training; they are not logged as errors."""
        trainer.train_exceptions.extend(convert_to_list(exc))

    def _append_test_exceptions(
        self, exc: type[Exception] | list[type[Exception]], trainer: "Trainer"
    ) -> None:
        """Append the expected exception type(s) of testing; they are not logged as errors."""
        trainer.test_exceptions.extend(convert_to_list(exc))


@PLUGIN_REGISTRY
class CUDAPlugin(Plugin):
    """Plug-in to move the batches of training, validation and testing to a GPU.

    The plug-in moves tensors, nested lists, tuples, named tuples and dictionaries, and any object
    with a ``to(device)`` method. Other elements stay as they are. It changes lists and
    dictionaries in place. To move your own types, override ``_move_collection_to_device(batch)``.
    Return the moved batch, or change it in place and return nothing.

    It claims all three batch overrides, so it is not autoloaded: name it to activate it.

    With ``prefetch``, the plug-in copies the next batches on a CUDA stream of its own while the
    model computes on the current one. It then claims ``batches``, too, and keeps ``prefetch`` more
    batches in the memory of the GPU. Copies overlap with computations only if the loader has
    ``pin_memory=True``, which is the default. With ``seeding="none"``, samples and model draw from
    one generator, and prefetching changes the order in which they draw.

    Args:
        prefetch: the number of batches to copy ahead.

    Raises:
        RuntimeError: no CUDA device is available.
        ValueError: ``prefetch`` is not a whole number from 0 on.

    Example:
        .. code-block:: python

            class MyCUDAPlugin(CUDAPlugin):
                def _move_collection_to_device(self, batch: MyBatch) -> MyBatch:
                    return batch.with_images(batch.images.to(self.device))
    """

    plugin_id = "cuda"
    autoload = False

    def __init__(self, prefetch: int = 0) -> None:
        if not isinstance(prefetch, int) or isinstance(prefetch, bool) or prefetch < 0:
            raise ValueError(
                f"CUDAPlugin(prefetch={prefetch!r}): write the number of batches to copy ahead, for"
                " example 2, or 0 to copy none."
            )
        requires_cuda_support()
        super().__init__(self.plugin_id)
        self.prefetch = prefetch
        if prefetch:  # otherwise another plug-in may wrap the batches
            self.wrap_batches = self._prefetched
        self.unique_overrides.training_batch = True
        self.unique_overrides.validation_batch = True
        self.unique_overrides.testing_batch = True

    def setup(self) -> None:
        """Do nothing."""

    def configure_trainer(self, trainer: "Trainer") -> None:
        """Register this plug-in in the trainer under the name ``cuda``."""
        self._register_in_trainer(trainer)

    def process_training_batch(self, batch: Any, state: TrainingState) -> Any:
        """Move the training batch to the GPU, unless it was copied ahead."""
        return self._on_device(batch)

    def process_validation_batch(self, batch: Any, step: int) -> Any:
        """Move the validation batch to the GPU, unless it was copied ahead."""
        return self._on_device(batch)

    def process_testing_batch(self, batch: Any, step: int) -> Any:
        """Move the testing batch to the GPU, unless it was copied ahead."""
        return self._on_device(batch)

    def process_prediction_batch(self, batch: Any, step: int) -> Any:
        """Move the batch of a prediction to the GPU, unless it was copied ahead."""
        return self._on_device(batch)

    def _prefetched(self, batches: Iterable[Any], phase: str) -> Iterable[Any]:
        return prefetch(batches, self.prefetch, self._moved, SideStream(self.device))

    def _on_device(self, batch: Any) -> Any:
        return batch if self.prefetch else self._moved(batch)

    def _moved(self, batch: Any) -> Any:
        moved = self._move_collection_to_device(batch)
        return batch if moved is None else moved

    def _move_collection_to_device(self, batch: Any) -> Any:
        """Move all elements that can be moved.

        Raises:
            RuntimeError: the batch has no element that can be moved.
        """
        moved, found = _move(batch, self.device)
        if not found and batch is not None:  # a loader may yield None for "no batch"
            raise RuntimeError(
                f"the CUDA plug-in found nothing to move in a batch of type"
                f" {kind_of(batch)}: no tensor, and nothing with a to(device) method."
                " Override CUDAPlugin._move_collection_to_device(batch) for your own types."
            )
        return moved


def _move(value: Any, device: torch.device) -> tuple[Any, bool]:
    """Return the value on the device, and True if any part of it could be moved."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True), True
    if callable(getattr(value, "to", None)):
        return value.to(device), True
    if isinstance(value, dict | list):
        found = False
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            value[key], item_found = _move(item, device)
            found = found or item_found
        return value, found
    if isinstance(value, tuple):
        items = [_move(item, device) for item in value]
        found = any(item_found for _, item_found in items)
        moved = [item for item, _ in items]
        is_named = hasattr(value, "_fields")
        return (type(value)(*moved) if is_named else tuple(moved)), found
    return value, False
