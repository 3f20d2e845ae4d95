"""The parts of a checkpoint: one ordered table for saving and restoring.

Add a line to the table to add a state to checkpoints.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from helios.checkpoints.shards import PER_RANK, Shards
from helios.core import Alone, Group, Place, TrainingState, rng
from helios.data import DataModule
from helios.errors import CheckpointError, HeliosError
from helios.model import Model
from helios.model.optimizer_record import OptimizerRecord
from helios.model.releases import call_with_flag
from helios.model.session import Session
from helios.model.window import Window
from helios.plugins import PluginManager
from helios.trainer.best import Validations
from helios.trainer.control import Control
from helios.trainer.hyper_parameters import HyperParameters
from helios.trainer.inputs.batches import Batches
from helios.trainer.run_folder import RunFolder
from helios.trainer.virtual.batches import VirtualBatches
from helios.trainer.virtual.state import VirtualState


class Part(NamedTuple):
    """A line of the table.

    Attributes:
        name: the key in a checkpoint.
        save: the function that returns the state, which must be plain.
        load: the function that restores what ``save`` returned.
        per_rank: ``True`` if each rank has its own state; a checkpoint then holds a list.
        is_early: ``True`` if it is restored before plug-ins may change the model.
        is_private: ``True`` if a rank without a saved state begins with its own; otherwise, it
            gets the state of rank 0.
    """

    name: str
    save: Callable[[], Any]
    load: Callable[[Any], None]
    per_rank: bool = False
    is_early: bool = False
    is_private: bool = False


def parts_of_training(
    *,
    state: TrainingState,
    model: Model,
    optimizers: OptimizerRecord,
    session: Session,
    window: Window,
    datamodule: DataModule,
    batches: Batches | VirtualBatches,
    control: Control,
    plugins: "PluginStates",
    generators: "Generators",
    validations: Validations,
    folder: RunFolder,
    hyper_parameters: HyperParameters,
    group: Group,
    place: Place,
) -> list[Part]:
    """Return the parts of a checkpoint of training.

    They are restored in this order, but the early ones first.

    ==================  =====================================================================
    ``virtual_ranks``   the number of virtual ranks, and that of PyTorch's threads
    ``training_state``  the counters
    ``epoch``           the size of an epoch, which a resumed run compares, or the position of a
                        stream
    ``window``          the ``accumulation_steps`` that a plug-in has set
    ``optimizers``      the class of each optimizer, and its hyper-parameters after ``setup()``
    ``changes``         a list: what training changed in the model of each rank, if no
                        ``state_dict`` holds it
    ``model``           ``Model.state_dict()``
    ``validation_due``  ``True`` if a stop interrupted the validation that is due
    ``stop_reasons``    the reasons of the stops below
    ``stops``           the authors of stops that a resumed run repeats
    ``scalers``         the scalers of fp16 losses, by the names of their optimizers
    ``metrics``         logged values not yet read, sums of losses, and the newest results
    ``virtual_logs``    a list: logged values and sums of losses of each virtual rank
    ``rng``             a list: the states of each rank's random number generators
    ``plugin_versions`` the versions of the plug-ins' states, by id, if above 1
    ``plugins``         a list: the states of each rank's plug-ins, by id
    ``datamodule``      ``DataModule.state_dict()``
    ``validated``       the newest validation and the best one
    ``run``             the key by which the run finds its files in ``run_root``
    ``hyper_parameters``  the arguments of model and data module
    ==================  =====================================================================
    """
    precision, virtual = session.precision, VirtualState(session)
    if virtual.is_active:  # all processes have the same logs
        group, place = Alone(), dataclasses.replace(place, rank=0, world_size=1)
    changes, metrics = session.changes, _Metrics(model, session, group, place)
    return [
        Part("virtual_ranks", virtual.save, virtual.load, is_early=True),
        Part("training_state", state.dict, state.load_dict, is_early=True),
        Part("epoch", batches.state_dict, batches.load_state_dict),
        Part("window", window.state_dict, window.load_state_dict),
        Part("optimizers", optimizers.state_dict, optimizers.load_state_dict),
        # Before the model, whose own load_state_dict() may know better.
        Part("changes", changes.state_dict, changes.load_state_dict, per_rank=True),
        Part("model", model.state_dict, model.load_state_dict),
        Part("validation_due", lambda: control.validation_due, control.load_validation_due),
        Part("stop_reasons", control.reasons, control.load_reasons),
        Part("stops", control.decisions, control.load_decisions),
        Part("scalers", precision.state_dict, precision.load_state_dict),
        Part("metrics", metrics.save, metrics.load),
        Part("virtual_logs", virtual.save_logs, virtual.load_logs),
        Part("rng", generators.save, generators.load, per_rank=True, is_private=True),
        Part("plugin_versions", plugins.save_versions, plugins.load_versions, is_early=True),
        Part("plugins", plugins.save, plugins.load, per_rank=True, is_early=True),
        Part("datamodule", datamodule.state_dict, datamodule.load_state_dict),
        Part("validated", validations.state_dict, validations.load_state_dict),
        Part("run", folder.state_dict, folder.load_state_dict),
        Part(
            "hyper_parameters",
            hyper_parameters.state_dict,
            hyper_parameters.load_state_dict,
            is_early=True,
        ),
    ]


def parts_of_test(
    *,
    state: TrainingState,
    model: Model,
    session: Session,
    plugins: "PluginStates",
    validations: Validations,
    folder: RunFolder,
    group: Group,
    place: Place,
) -> list[Part]:
    """Return the parts that a test restores from a checkpoint of training."""
    changes, metrics = session.changes, _Metrics(model, session, group, place)
    return [
        Part("training_state", state.dict, state.load_dict, is_early=True),
        Part("changes", changes.state_dict, changes.load_for_test, per_rank=True),
        Part(
            "model",
            model.state_dict,
            lambda saved: call_with_flag(model.load_state_dict, saved, fast_init=True),
        ),
        Part("metrics", metrics.save, metrics.load_newest),
        Part("plugin_versions", plugins.save_versions, plugins.load_versions, is_early=True),
        Part("plugins", plugins.save, plugins.load, per_rank=True, is_early=True),
        Part("validated", validations.state_dict, validations.load_state_dict),
        Part("run", folder.state_dict, folder.load_state_dict),
    ]


def save(parts: Sequence[Part], group: Group, shards: Shards) -> dict[str, Any]:
    """Return the states of all parts by name.

    The states per rank come last, so that the ranks wait for one another only once.

    Args:
        parts: the parts.
        group: the processes of the run.
        shards: the object that takes the tensors that ranks have divided.
    """
    states = {}
    for part in sorted(parts, key=lambda part: part.per_rank):
        path = (part.name, PER_RANK) if part.per_rank else (part.name,)
        state = shards.take(part.save(), *path)
        states[part.name] = group.gather(state) if part.per_rank else state
    return states


def restore(parts: Sequence[Part], states: dict[str, Any], place: Place) -> None:
    """Restore what :func:`save` returned, in the order of the table."""
    is_virtual = bool(states.get("virtual_ranks"))
    for part in parts:
        state = states[part.name]
        if part.per_rank:
            if not state:
                raise _unusable(part.name, "it holds no state")
            # Virtual ranks draw the same in all processes.
            own = place.rank if place.rank < len(state) and not is_virtual else 0
            if own < place.rank and part.is_private and not is_virtual:
                continue
            state = state[place.rank if len(state) == place.world_size else own]
        try:
            part.load(state)
        except Exception as error:
            if part.name in _OF_USERS or isinstance(error, HeliosError):
                raise
            raise _unusable(part.name, f"{type(error).__name__}: {error}") from error


_OF_USERS = ("model", "plugins", "datamodule")
"""The parts that code of users restores, whose errors stay as they are."""


def _unusable(part: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the part {part!r} of the checkpoint cannot be restored: {reason}. Helios writes it"
        " differently, so another program has changed the file: use another checkpoint."
    )


class Generators:
    """The random number generators: saved before anything else, and restored last.

    During a save, user code may draw random numbers: states, names and hooks. Each process also
    draws when it sets up and starts training. Neither may change the run.
    """

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}
        self._loaded: dict[str, Any] | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Restore the generators at the end of the block."""
        self._held = rng.get_rng_state_dict()
        try:
            yield
        finally:
            rng.load_rng_state_dict(self._held)

    def save(self) -> dict[str, Any]:
        """Return the state at the beginning of :meth:`held`."""
        return self._held

    def load(self, state: dict[str, Any]) -> None:
        """Store a state for :meth:`restore`."""
        self._loaded = state

    def restore(self) -> None:
        """Restore the generators, if a checkpoint was loaded."""
        if self._loaded is not None:
            try:
                rng.load_rng_state_dict(self._loaded)
            except Exception as error:
                raise _unusable("rng", f"{type(error).__name__}: {error}") from error


class PluginStates:
    """The states of the plug-ins. The states of absent plug-ins are kept for later runs."""

    def __init__(self, manager: PluginManager) -> None:
        self._manager = manager
        self._absent: dict[str, Any] = {}
        self._versions: dict[str, int] = {}

    def save_versions(self) -> dict[str, int]:
        """Return the versions of the states by id; a state of version 1 is not among them."""
        absent = {name: self._versions[name] for name in self._absent if name in self._versions}
        return {**absent, **self._manager.states.versions(self._manager.rows.values())}

    def load_versions(self, versions: dict[str, int]) -> None:
        """Store the versions of the states for :meth:`load`."""
        self._versions = versions

    def save(self) -> dict[str, Any]:
        """Return the states by id."""
        return {**self._absent, **self._manager.state_dict()}

    def load(self, states: dict[str, Any]) -> None:
        """Restore the states of active plug-ins."""
        rows = self._manager.rows.values()
        self._absent = self._manager.states.load(rows, states, self._versions)


class _Metrics:
    """The values that a model has logged, and its newest results."""

    def __init__(self, model: Model, session: Session, group: Group, place: Place) -> None:
        self._model = model
        self._session = session
        self._group = group
        self._place = place

    def save(self) -> dict[str, Any]:
        log, objects = self._session.training_log, self._session.metric_objects
        own = {
            "in_flight": {
                **log.state_dict(),
                "metrics": {name: objects.path_of(name, m) for name, m in log.metrics.items()},
            },
            "objects": objects.state_dict(),
            "running_losses": dict(self._session.running_losses),
        }
        others = self._group.gather(own)[1:]
        newest = {"newest": dict(self._model.metrics)}
        return {**own, **newest, **({"other_ranks": others} if others else {})}

    def load(self, state: dict[str, Any]) -> None:
        self.load_newest(state)
        each, rank = [state, *state.get("other_ranks", [])], self._place.rank
        if rank < len(each):
            self._load(each[rank])
        if rank == 0:  # this run may have fewer ranks
            for other in each[self._place.world_size :]:
                self._session.training_log.add_sums(other["in_flight"])
                self._session.metric_objects.add_state_dict(other.get("objects", {}))
                self._add_metrics(other)

    def _load(self, state: dict[str, Any]) -> None:
        log, objects = self._session.training_log, self._session.metric_objects
        log.load_state_dict(state["in_flight"])
        objects.load_state_dict(state.get("objects", {}))  # release 0.2 saved none
        self._add_metrics(state)
        self._session.running_losses.update(state["running_losses"])

    def _add_metrics(self, state: dict[str, Any]) -> None:
        for name, path in state["in_flight"].get("metrics", {}).items():
            metric = self._session.metric_objects.at(path)
            if metric is not None:  # the model may have dropped it
                self._session.training_log.add_metric(name, metric)

    def load_newest(self, state: dict[str, Any]) -> None:
        self._model.metrics.update(state["newest"])
