"""Changes of a model that no ``state_dict`` holds: attributes, modes, groups and gradients."""

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from helios.errors import CheckpointError
from helios.model import decoder, digests, groups, stateful, values
from helios.model.optimizers import Optimizers

if TYPE_CHECKING:
    from helios.model.model import Model

_logger = logging.getLogger(__name__)
_DEPTH = 2  # objects of users inside objects of users
_TABLES = ("_loss_items", "_val_scores", "_test_scores")


class Changes:
    """Saves and restores what differs from the end of set-up.

    These are the public attributes of the model and of its modules, the non-persistent buffers, the
    ``requires_grad`` of parameters, the modes of modules, the groups of optimizers, and gradients
    that wait for steps by hand.

    Args:
        model: the model.
        optimizers: the optimizers of the model.
    """

    def __init__(self, model: "Model", optimizers: Optimizers) -> None:
        self._model = model
        self._optimizers = optimizers
        self._known = values.Known()
        self._reference: dict[str, dict[str, values.Node]] = {}
        self._trainable: dict[str, bool] = {}
        self._modes: dict[str, bool] = {}
        self._groups: dict[str, groups.Names] = {}
        self._tied: set[str] = set()
        self._content: dict[str, list[values.Node]] = {}
        self._ended: dict[tuple[str, str], values.Node] | None = None
        self._loaded: dict[str, Any] = {}
        self._held: dict[str, Any] = {}
        self._held_objects = values.Known()
        self._kept: dict[str, set[str]] = {}  # attributes that a checkpoint held: state for ever
        self._is_told = False

    # The moments of a run.

    def set_up(self) -> None:
        """Remember everything as it is at the end of set-up."""
        weights = self._weights()
        for owner, path in _owners(self._model):
            images = self._reference[path] = {}
            for name, value in _attributes(owner):
                encoder = self._encoder(weights, enroll=True, depth=0 if path else _DEPTH)
                images[name] = encoder.encode(value, _join(path, name))
                self._content |= encoder.content
                for node in (*encoder.tensors, *encoder.tensors_inside):
                    digests.keep(node)
        self._trainable = self._all_trainable()
        self._groups = self._all_groups()
        parts = stateful.stateful_attributes(self._model)
        self._tied = {name for name, part in parts if self._is_tied(part)}
        self._modes = self._all_modes()

    def hold(self) -> None:
        """Remember what was restored, because the start of training may change it again."""
        if self._loaded:
            trainable = self._all_trainable()
            names = self._loaded["requires_grad"].keys() & trainable.keys()
            self._held = {
                "attributes": self._held_attributes(),
                "requires_grad": {name: trainable[name] for name in names},
            }

    def start(self) -> None:
        """Remember the modes as training starts, and restore what its start has changed.

        Called after ``on_training_start`` and ``train()``, which run in each process.
        """
        self._modes = self._all_modes()
        if self._loaded:
            self._restore(self._held, self._held_objects)
            modules = {path: owner for owner, path in _owners(self._model)}
            for path, mode in self._loaded["modes"].items():
                if path in modules:
                    modules[path].training = mode
            self._loaded, self._held, self._held_objects = {}, {}, values.Known()

    def end(self) -> None:
        """Remember what the run has changed, and how it leaves it."""
        now = self._present()
        before = {
            (path, name): node
            for path, nodes in self._reference.items()
            for name, node in nodes.items()
            if not _is_stateful(node)
        }
        if self._ended is None:
            names = before.keys() | now.keys()
            names = {name for name in names if not digests.same(before.get(name), now.get(name))}
        else:
            names = set(self._ended)  # a test changes nothing else
        self._ended = {name: now.get(name) for name in names}

    def undo(self) -> None:
        """Set what the run has changed to what it was, unless somebody has changed it since.

        Called before the next run sets the model up.
        """
        now, owners = self._present(), {path: owner for owner, path in _owners(self._model)}
        device = self._model.device
        decode = decoder.Decoder(self._known, self._weights(), device, renew=True).decode
        for (path, name), node in (self._ended or {}).items():
            if path not in owners or not digests.same(node, now.get((path, name))):
                continue
            before = self._reference[path]
            if name in before:
                with contextlib.suppress(decoder.MissingError):
                    setattr(owners[path], name, decode(before[name]))
            elif name in vars(owners[path]):
                delattr(owners[path], name)

    # A part of checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Return what differs, and name once what differs and cannot be saved."""
        trainable, modes = self._all_trainable(), self._all_modes()
        grouped = self._all_groups()
        state = {
            "attributes": self._changed_attributes(),
            "requires_grad": _differing(trainable, self._trainable),
            "modes": _differing(modes, self._modes),
            "groups": _differing(grouped, self._groups),
            "gradients": self._gradients(),
        }
        self._is_told = True
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; :meth:`start` restores the modes."""
        if state:
            self._loaded = state
            self._restore(state, self._known)
            gradients = state.get("gradients", {})  # older files have none
            for name, parameter in _parameters(self._model):
                if name in gradients:
                    parameter.grad = gradients[name].to(parameter.device, copy=True)

    def copy(self) -> dict[str, Any]:
        """Return a copy of the state for a test in this process, which still has all objects."""
        self._is_told = True
        return copy.deepcopy(self.state_dict())

    def load_for_test(self, state: dict[str, Any]) -> None:
        """Restore attributes alone, as far as set-up has created what they need."""
        if state:
            self._restore(state, self._known, is_lenient=True)

    def regroup(self, name: str, part: object) -> None:
        """Give an optimizer the groups that it had when the loaded checkpoint was saved."""
        saved = self._loaded.get("groups", {}).get(name)
        if saved is not None and isinstance(part, Optimizer):
            found = dict(_parameters(self._model))
            names = {id(parameter): label for label, parameter in found.items()}
            if groups.named_groups(part, lambda each: names.get(id(each), "")) != saved:
                groups.regroup(part, saved, found, name)

    def _gradients(self) -> dict[str, torch.Tensor]:
        waiting = {id(each): each.grad for each in self._optimizers.waiting_by_hand()}
        named = _parameters(self._model) if waiting else ()
        found = {name: waiting.get(id(parameter)) for name, parameter in named}
        return {name: each.detach() for name, each in found.items() if each is not None}

    # Attributes.

    def _changed_attributes(self) -> dict[str, Any]:
        weights, unsaved = self._weights(), []
        encoder = self._encoder(weights)
        state: dict[str, Any] = {}
        for owner, path in _owners(self._model):
            before = self._reference.get(path, {})
            kept = self._kept.get(path, set())
            now = dict(_attributes(owner))
            changed = {}
            for name, value in now.items():
                where = _join(path, name)
                alone = self._encoder(weights, depth=0 if path or self._is_told else _DEPTH)
                node = alone.encode(value, where)
                unsaved += [*self._changed_content(alone), *alone.iterators]
                if _is_stateful(node):
                    # The model's own state_dict holds the state, but not the type.
                    known = before.get(name)
                    if known is None and not self._loads_itself():
                        unsaved.append((where, "created after setup(), where resuming needs it"))
                    elif isinstance(known, dict) and known.get("type") != node["type"]:
                        unsaved += alone.unsaved[:1]
                    unsaved += self._lost_ties(where, value)
                    continue
                if name not in kept and name in before and digests.same(before[name], node):
                    continue
                if alone.unsaved:
                    unsaved += alone.unsaved[:1]
                else:
                    changed[name] = encoder.encode(value, where)
            deleted = sorted((before.keys() | kept) - now.keys())
            if changed or deleted:
                state[path] = {"changed": changed, "deleted": deleted}
        values.trim(encoder.tensors)
        self._tell(unsaved)
        return state

    def _loads_itself(self) -> bool:
        return not type(self._model).load_state_dict.__module__.startswith("helios.model.")

    def _changed_content(self, encoder: values.Encoder) -> list[tuple[str, str]]:
        """Return the objects whose content has changed, though the objects are the same."""
        return [
            (path, "its attributes")
            for path, nodes in encoder.content.items()
            if path in self._content and not digests.same(self._content[path], nodes)
        ]

    def _lost_ties(self, path: str, value: Any) -> Iterator[tuple[str, str]]:
        """Find objects that use what the model has replaced; a resumed run ties them anew."""
        if path in self._tied and not self._is_tied(value):
            yield path, "tied to an optimizer that the model has replaced: create it anew, too"
        if isinstance(value, Optimizer):
            before = self._groups.get(path, [])
            known = {id(each) for _, each in _parameters(self._model)}
            is_lost = any(
                id(each) not in known for group in value.param_groups for each in group["params"]
            )
            if is_lost and not any("" in names for names in before):
                yield path, "steps parameters that the model has replaced: create it anew, too"

    def _is_tied(self, part: Any) -> bool:
        """Return whether a scheduler, for example, belongs to an optimizer of the model."""
        used = getattr(part, "optimizer", None)
        return isinstance(used, Optimizer) and bool(stateful.name_of(self._model, used))

    def _held_attributes(self) -> dict[str, Any]:
        weights = self._weights()
        encoder = values.Encoder(self._held_objects, weights, self._model.device, enroll=True)
        state: dict[str, Any] = {}
        for owner, path in _owners(self._model):
            if path in self._kept:
                now = {name: each for name, each in _attributes(owner) if name in self._kept[path]}
                changed = {n: encoder.encode(each, _join(path, n)) for n, each in now.items()}
                deleted = sorted(self._kept[path] - now.keys())
                state[path] = {"changed": changed, "deleted": deleted}
        for node in encoder.tensors:
            node["value"] = node["value"].clone()
        return state

    def _restore(
        self, state: dict[str, Any], known: values.Known, *, is_lenient: bool = False
    ) -> None:
        owners = {path: owner for owner, path in _owners(self._model)}
        decode = decoder.Decoder(known, self._weights(), self._model.device).decode
        for path, saved in state["attributes"].items():
            if path not in owners:
                continue  # loading its network says more
            owner = owners[path]
            self._kept.setdefault(path, set()).update(saved["changed"], saved["deleted"])
            for name in saved["deleted"]:
                if name in vars(owner):
                    delattr(owner, name)
            for name, node in saved["changed"].items():
                try:
                    value = decode(node, getattr(owner, name, None))
                except decoder.MissingError as error:
                    if not is_lenient:
                        raise self._missing(_join(path, name), error) from error
                else:
                    if getattr(owner, name, None) is not value or name not in vars(owner):
                        setattr(owner, name, value)
        for name, parameter in _parameters(self._model):
            if name in state["requires_grad"]:
                parameter.requires_grad_(state["requires_grad"][name])

    def _missing(self, path: str, error: decoder.MissingError) -> CheckpointError:
        label = type(self._model).__name__
        return CheckpointError(
            f"the checkpoint holds {label}.{path} with the object {label}.{error} in it, which the"
            f" model does not have after setup(). Create the object in setup(), or begin the name"
            f" of the attribute with an underscore."
        )

    def _tell(self, unsaved: list[tuple[str, str]]) -> None:
        if unsaved and not self._is_told:
            label = type(self._model).__name__
            lines = "".join(f"\n  {label}.{path}: {kind}" for path, kind in unsaved)
            _logger.warning(
                "training has changed attributes that a checkpoint cannot hold, so a resumed run"
                " will not have their values:%s\nGive the object state_dict() and"
                " load_state_dict(), keep plain values and tensors instead, or begin the"
                " attribute's name with an underscore if it is only a cache.",
                lines,
            )

    # The present.

    def _present(self) -> dict[tuple[str, str], values.Node]:
        """Return the attributes that the model has, with digests of tensors."""
        weights, found = self._weights(), {}
        for owner, path in _owners(self._model):
            for name, value in _attributes(owner) if path in self._reference else ():
                encoder = self._encoder(weights)
                node = encoder.encode(value, _join(path, name))
                if not _is_stateful(node):
                    for each in encoder.tensors:
                        digests.reduce(each)
                    found[path, name] = node
        return found

    def _encoder(
        self, weights: values.Weights, *, enroll: bool = False, depth: int = 0
    ) -> values.Encoder:
        device = self._model.device
        return values.Encoder(self._known, weights, device, enroll=enroll, depth=depth)

    def _weights(self) -> values.Weights:
        by_name = dict(_parameters(self._model))
        for owner, path in _owners(self._model):
            if isinstance(owner, nn.Module):
                unsaved = owner._non_persistent_buffers_set  # noqa: SLF001 - no public name
                buffers = owner.named_buffers(recurse=False)
                by_name |= {_join(path, n): each for n, each in buffers if n not in unsaved}
        by_memory = {values.memory_of(tensor): (n, tensor) for n, tensor in by_name.items()}
        by_memory.pop(0, None)
        return values.Weights(by_memory, by_name)

    def _all_trainable(self) -> dict[str, bool]:
        return {name: each.requires_grad for name, each in _parameters(self._model)}

    def _all_modes(self) -> dict[str, bool]:
        return {p: o.training for o, p in _owners(self._model) if isinstance(o, nn.Module)}

    def _all_groups(self) -> dict[str, groups.Names]:
        names = {id(parameter): name for name, parameter in _parameters(self._model)}
        return {
            name: groups.named_groups(part, lambda each: names.get(id(each), ""))
            for name, part in stateful.stateful_attributes(self._model)
            if isinstance(part, Optimizer)
        }


def _owners(model: "Model") -> Iterator[tuple[Any, str]]:
    """Iterate over the model and its modules, each once, with their paths."""
    yield model, ""
    seen: set[int] = set()
    for name, network in model.networks():
        for label, module in network.named_modules():
            if id(module) not in seen:
                seen.add(id(module))
                yield module, _join(name, label)


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """Iterate over the attributes that count: public ones, and buffers that are not saved."""
    if isinstance(owner, nn.Module):
        for name in owner._non_persistent_buffers_set:  # noqa: SLF001 - torch has no public name
            yield name, getattr(owner, name)
    for name, value in vars(owner).items():
        if name in _TABLES or not (name.startswith("_") or name == "training"):
            yield name, value


def _parameters(model: "Model") -> Iterator[tuple[str, torch.Tensor]]:
    """Iterate over the parameters of a model by name, those outside of modules included."""
    seen: set[int] = set()
    for name, part in stateful.stateful_attributes(model):
        if isinstance(part, nn.Module):
            for label, parameter in part.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{name}.{label}", parameter
        elif isinstance(part, stateful.ParameterState):
            yield name, part.parameter


def _is_stateful(node: values.Node) -> bool:
    """Return whether a node stands for an object that the model's own ``state_dict`` holds."""
    return isinstance(node, dict) and node["kind"] == "stateful"


def _differing(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in now.items() if before.get(name) != value}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
