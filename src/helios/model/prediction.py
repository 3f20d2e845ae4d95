"""The predictions of a model that has no ``predict_step`` of its own."""

from typing import TYPE_CHECKING, Any

import torch

from helios.errors import ConfigurationError, kind_of

if TYPE_CHECKING:
    from helios.model.model import Model


def predict(model: "Model", batch: Any) -> Any:
    """Return the outputs of the model's only network for the inputs in a batch.

    Args:
        model: the model.
        batch: the inputs, or a list or tuple whose first part they are.

    Raises:
        ConfigurationError: the model has no network or several, or the inputs are not a tensor.
    """
    networks = [pair for pair in model.networks() if next(pair[1].parameters(), None) is not None]
    inputs = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if len(networks) != 1:
        names = ", ".join(name for name, _ in networks) or "none"
        problem = f"has {len(networks)} networks ({names})"
    elif not isinstance(inputs, torch.Tensor):
        problem = f"receives batches of type {kind_of(batch)}"
    else:
        return networks[0][1](inputs.to(model.device))
    raise ConfigurationError(
        f"{type(model).__name__} {problem}, so Helios does not know how it predicts: write"
        " def predict_step(self, batch, step), which returns the predictions for a batch."
    )
