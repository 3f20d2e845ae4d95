"""Train low-rank adapters of linear layers, with the layers themselves frozen."""

import torch
from torch import nn

from helios import Model, Plugin


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank addition that is zero at first."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        weight = layer.weight
        self.down = nn.Parameter(torch.randn(rank, layer.in_features).to(weight) / rank)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank).to(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layer plus that of the adapter."""
        output: torch.Tensor = self.layer(x) + x @ self.down.T @ self.up.T
        return output


class LoraPlugin(Plugin):
    """Adapts every linear layer of the model, and trains the adapters alone.

    Args:
        dimension: the rank of the adapters; ``rank`` is the number of the process.
    """

    changes_results = True

    def __init__(self, dimension: int = 2) -> None:
        super().__init__("lora")
        self.dimension = dimension

    def setup(self) -> None:
        """Do nothing."""

    def on_model_ready(self, model: Model) -> None:
        """Replace the layers, and give the optimizer the adapters."""
        added: list[nn.Parameter] = []
        for _, network in model.networks():
            for parent in list(network.modules()):
                for name, layer in list(parent.named_children()):
                    if isinstance(layer, nn.Linear):
                        adapted = Adapted(layer, self.dimension)
                        setattr(parent, name, adapted)
                        added += [adapted.down, adapted.up]
        optimizer: torch.optim.Optimizer = model.optimizer  # type: ignore[attr-defined]
        optimizer.param_groups[0]["params"] = added
