"""helios-ml, the earlier Helios, beside the raw loop."""

from typing import Any

import torch

# Beside a PyTorch for CPUs, torchvision may lack the operators that its import wants to describe.
_real, torch.library.register_fake = torch.library.register_fake, lambda *_, **__: lambda f: f

from alternate import (  # noqa: E402
    Alternation,
    Features,
    first,
    loss_of,
    network,
    optimizer_of,
)
from common import Fit, report  # noqa: E402

import helios.data as hld  # noqa: E402
import helios.model as hlm  # noqa: E402
import helios.plugins as hlp  # noqa: E402
import helios.trainer as hlt  # noqa: E402

torch.library.register_fake = _real


class Data(hld.DataModule):
    """Batches that exist already."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def setup(self) -> None:
        """Create the dataset."""
        params = hld.DataLoaderParams(batch_size=1, collate_fn=first)
        self._add_train_phase(Features(self._steps), params)


class Model(hlm.Model):
    """The step, written by hand, as helios-ml wants it."""

    def __init__(self, alternation: Alternation) -> None:
        super().__init__("bench")
        self.alternation = alternation

    def setup(self, for_inference: bool = False) -> None:
        """Create network and optimizer."""
        self.net = network()
        self.optimizer = optimizer_of(self.net)

    def train_step(self, batch: Any, state: Any) -> None:
        """Take a step."""
        self.alternation.tick()
        loss_of(self.net, batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Idle(hlp.Plugin):
    """Has no hook that is called per step."""

    def setup(self) -> None:
        """Do nothing."""


def fit(plugins: int = 0) -> Fit:
    def run(steps: int) -> Alternation:
        alternation = Alternation()
        trainer = hlt.Trainer(total_steps=1, use_cpu=True, print_banner=False)
        for number in range(plugins):
            trainer.register_plugin(Idle(f"idle-{number}"))
        trainer.fit(Model(alternation), Data(steps))
        return alternation

    return run


report("helios-ml", None, fit(), {"100 idle plug-ins": fit(100)})
