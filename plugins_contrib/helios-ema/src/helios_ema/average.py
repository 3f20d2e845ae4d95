"""The average of one network, and which of its tensors take part."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class AveragedNetwork(AveragedModel):
    """An exponential moving average of a network, itself a network of the same kind.

    Averaged are the parameters and the running statistics of normalisation layers, which would
    otherwise belong to other weights. All other buffers are copied: averaging would truncate
    counters, and make a mask of ``-inf`` a mask of NaN.

    Args:
        network: is copied.
        decay: the share of the average that an update keeps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        # The averaging function itself is a closure, which could not be pickled.
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the present weights of the network into the average; the first are copied.

        Args:
            model: the network.
        """
        # Not the method of the base class: it sends its counter to the device at each update, for
        # which the host waits, and it averages either none of the buffers or all of them.
        (averages, copies), (weights, others) = split(self.module), split(model)
        if self.n_averaged == 0:
            averages, copies, weights, others = [], averages + copies, [], weights + others
        if averages:
            update = get_ema_multi_avg_fn(self._decay)  # type: ignore[no-untyped-call]  # as torch has it
            update(averages, weights, self.n_averaged)
        for copy, original in zip(copies, others, strict=True):
            copy.copy_(original)
        self.n_averaged += 1


def split(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of a network that are averaged, and those that are copied.

    Args:
        network: its parameters and buffers are returned without their history of gradients.
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
        takes_part = isinstance(tensor, nn.Parameter) or id(tensor) in statistics
        is_continuous = tensor.is_floating_point() or tensor.is_complex()
        (averaged if takes_part and is_continuous else copied).append(tensor.detach())
    return averaged, copied
