"""The states of torchmetrics' metrics on several ranks, merged as if one process had all updates.

torchmetrics can exchange them itself, but then all ranks must have the same number of updates, and
the same types of values: a rank without a batch breaks the connection of all ranks.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from helios.core import Group

Reduction = Callable[[Any], Any] | None


@contextlib.contextmanager
def of_all_ranks(metric: nn.Module, group: Group) -> Iterator[None]:
    """Let a metric, and the metrics in it, compute their values from the updates of all ranks.

    Args:
        metric: the metric. If its user has changed how it is synchronised, it stays as it is.
        group: the processes of the run; all of them call this.
    """
    parts = _parts(metric)
    is_known = all(vars(part)["_computed"] is not None for part in parts.values())
    if not group.agree(not is_known):
        yield
        return
    own = {path: (part.update_count, dict(part.metric_state)) for path, part in parts.items()}
    ranks = group.gather(own)
    with contextlib.ExitStack() as stack:
        for path, part in parts.items():
            updated = [each[path] for each in ranks if each.get(path, (0,))[0] > 0]
            merged = _merged([states for _, states in updated], vars(part)["_reductions"])
            count = sum(updates for updates, _ in updated)
            stack.enter_context(_replaced(part, merged, count))
        yield


@contextlib.contextmanager
def alone(metric: nn.Module) -> Iterator[None]:
    """Let a metric, and the metrics in it, compute their values without the other ranks."""
    parts = [part for part in metric.modules() if "_to_sync" in vars(part)]
    before = [vars(part)["_to_sync"] for part in parts]
    for part in parts:
        vars(part)["_to_sync"] = False
    try:
        yield
    finally:
        for part, flag in zip(parts, before, strict=True):
            vars(part)["_to_sync"] = flag


def add(metric: Any, updates: int, states: Mapping[str, Any]) -> bool:
    """Add the updates of another process to a metric, which accumulates further ones.

    Args:
        metric: the metric.
        updates: the number of updates in the states.
        states: the states by name.

    Returns:
        ``False`` if its states cannot be added up; the metric is then unchanged.
    """
    reductions, own = vars(metric)["_reductions"], metric.metric_state
    sums: dict[str, Any] = {}
    for name, reduction in reductions.items():
        before, other = own[name], states[name]
        if metric.update_count == 0:
            sums[name] = other
        elif isinstance(before, list):
            sums[name] = [*before, *other]
        else:
            whole = reduction(torch.stack([before, other])) if callable(reduction) else None
            if whole is None or whole.shape != before.shape:
                return False
            sums[name] = whole
    for name, value in sums.items():
        setattr(metric, name, value)
    # torchmetrics has no public way to set it, but means and compute() depend on it.
    vars(metric)["_update_count"] = metric.update_count + updates
    return True


def _parts(metric: nn.Module) -> dict[str, Any]:
    """Return the metrics in a metric that torchmetrics would synchronise in its usual way."""
    for module in metric.modules():
        if hasattr(module, "compute_groups"):
            module.values()  # type: ignore[operator]  # its metrics share states until it is asked
    found: dict[str, Any] = {}
    for path, part in metric.named_modules():
        is_usual = getattr(part, "dist_sync_fn", "") is None and part.process_group is None
        if is_usual and vars(part).get("_reductions") and vars(part).get("_to_sync"):
            found[path] = part
    return found


def _merged(
    ranks: list[Mapping[str, Any]], reductions: Mapping[str, Reduction]
) -> dict[str, Any] | None:
    """Return the states of all ranks that have updates; ``None`` if none has."""
    if not ranks:
        return None
    merged: dict[str, Any] = {}
    for name, reduction in reductions.items():
        values = [states[name] for states in ranks]
        if len(values) == 1:
            merged[name] = values[0]
        elif any(isinstance(value, list) for value in values):
            items = [item for value in values for item in _items(value)]
            merged[name] = reduction(items) if reduction is not None and items else items
        else:
            stacked = torch.stack(values)
            merged[name] = stacked if reduction is None else reduction(stacked)
    return merged


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@contextlib.contextmanager
def _replaced(metric: Any, states: Mapping[str, Any] | None, updates: int) -> Iterator[None]:
    """Give a metric other states until the end of the block; it then keeps what it has computed."""
    own, attributes = dict(metric.metric_state), vars(metric)
    before = {name: attributes[name] for name in ("_update_count", "_to_sync")}
    attributes.update(_computed=None, _to_sync=False)
    if states is not None:
        attributes["_update_count"] = updates
        for name, value in states.items():
            setattr(metric, name, on_device(value, metric.device))
    try:
        yield
    finally:
        attributes.update(before)
        for name, value in own.items():
            setattr(metric, name, value)


def on_device(value: Any, device: torch.device) -> Any:
    """Return a state on a device; a list with each of its tensors there."""
    if isinstance(value, list | tuple):
        return type(value)(on_device(item, device) for item in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value
