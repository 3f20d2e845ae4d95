"""The exponential moving average of one network."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class AveragedNetwork(AveragedModel):
    """A network whose weights are the exponential moving average of another network's.

    The average includes the parameters and the running statistics of normalisation layers, so the
    statistics match the averaged weights. All other buffers are copied. An average would truncate
    counters, and would turn a mask of ``-inf`` into a mask of NaN.

    Args:
        network: the network; this class copies it.
        decay: the fraction of the average that each update keeps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        # The averaging function is a closure, which cannot be pickled, so keep its argument.
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the weights of the network; the first update copies them.

        Args:
            model: the network.
        """
        # The method of the base class sends its counter to the device at each update, and the host
        # waits for it. It also averages either all buffers or none, so this method replaces it.
        (averages, copies), (weights, others) = split(self.module), split(model)
        if self.n_averaged == 0:
            averages, copies, weights, others = [], averages + copies, [], weights + others
        if averages:
            update = get_ema_multi_avg_fn(self._decay)  # type: ignore[no-untyped-call]  # torch does not annotate it
            update(averages, weights, self.n_averaged)
        for copy, original in zip(copies, others, strict=True):
            copy.copy_(original)
        self.n_averaged += 1


def split(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the averaged tensors of a network, and the copied ones, all detached.

    Args:
        network: the network with the parameters and buffers.
    """
    statistics = {
        id(tensor)
        for module in network.modules()
        if isinstance(module, _NormBase)
        for tensor in (module.running_mean, module.running_var)
    }
    averaged: list[Tensor] = []
    copied: list[Tensor] = []
    for tensor in (*network.parameters(), *network.buffers()):
        is_averaged = isinstance(tensor, nn.Parameter) or id(tensor) in statistics
        is_continuous = tensor.is_floating_point() or tensor.is_complex()
        (averaged if is_averaged and is_continuous else copied).append(tensor.detach())
    return averaged, copied
