"""The metrics of torchmetrics that a model holds: what of them a checkpoint saves."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from helios.errors import ConfigurationError
from helios.model import metric_states
from helios.model.metrics import Metric

if TYPE_CHECKING:
    from helios.model.model import Model

_logger = logging.getLogger(__name__)


class MetricObjects:
    """The metrics in the attributes of a model, by their paths.

    Their states are in no ``state_dict()`` by default, because most users do not want them in the
    state of a trained model. A resumed run needs them, updated but not yet read.

    Args:
        model: the model.
    """

    def __init__(self, model: "Model") -> None:
        self._model = model
        self._found: dict[int, Metric] = {}

    def require(self, name: str, metric: Metric) -> None:
        """Make sure that checkpoints can save a metric. Called each time that it is logged.

        Args:
            name: the name under which it is logged, for the message.
            metric: the metric.

        Raises:
            ConfigurationError: no attribute of the model holds the metric.
        """
        if self._found.get(id(metric)) is not metric:
            self.path_of(name, metric)
            self._found[id(metric)] = metric

    def path_of(self, name: str, metric: Metric) -> str:
        """Return the path of a metric from the model; see :meth:`require`."""
        path = self.find(metric)
        if path is not None:
            return path
        raise ConfigurationError(
            f"log({name!r}) got a {type(metric).__name__} that no attribute of"
            f" {type(self._model).__name__} holds, so that no checkpoint could save it: assign it"
            " to an attribute in setup(), or use an nn.ModuleDict for several."
        )

    def find(self, metric: Metric) -> str | None:
        """Return the path of a metric from the model; ``None`` if no attribute holds it."""
        return next((path for path, module in self._modules() if module is metric), None)

    def at(self, path: str) -> Metric | None:
        """Return the metric at a path; ``None`` if the model has none there."""
        return dict(self._modules()).get(path)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all metrics by path."""
        modules = dict(self._modules())
        for module in modules.values():
            if hasattr(module, "compute_groups"):
                module.values()  # a collection lets its metrics share states until it is asked
        return {
            path: {"updates": module.update_count, "states": _copy(module.metric_state)}
            for path, module in modules.items()
            if _has_state(module)
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, of metrics that the model still has."""
        modules = dict(self._modules())
        for path, saved in state_dict.items():
            metric: Any = modules.get(path)
            if metric is not None and _has_state(metric):
                for name, state in _copy(saved["states"], metric.device).items():
                    setattr(metric, name, state)
                # torchmetrics saves no count of the updates, but means and compute() depend on it.
                vars(metric)["_update_count"] = saved["updates"]

    def add_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Add the updates of another process: what :meth:`state_dict` returned there.

        Args:
            state_dict: the states of all metrics by path.
        """
        modules = dict(self._modules())
        for path, saved in state_dict.items():
            metric: Any = modules.get(path)
            if metric is None or not _has_state(metric) or not saved["updates"]:
                continue
            states = _copy(saved["states"], metric.device)
            if not metric_states.add(metric, saved["updates"], states):
                _logger.warning(
                    "The checkpoint holds updates (%d) of the %s in %s from a rank that this run"
                    " does not have. They are lost, because its states cannot be added up: resume"
                    " with as many ranks as before to keep them.",
                    saved["updates"],
                    type(metric).__name__,
                    path,
                )

    def _modules(self) -> Iterator[tuple[str, Any]]:
        for name, part in vars(self._model).items():
            if isinstance(part, nn.Module):
                yield from part.named_modules(prefix=name)


def _has_state(module: Any) -> bool:
    return all(hasattr(module, name) for name in ("metric_state", "update_count", "device"))


def _copy(state: Any, device: torch.device | None = None) -> Any:
    if isinstance(state, dict):
        return {name: _copy(part, device) for name, part in state.items()}
    if isinstance(state, list):
        return [_copy(part, device) for part in state]
    return torch.clone(state.detach()).to(device) if isinstance(state, torch.Tensor) else state
