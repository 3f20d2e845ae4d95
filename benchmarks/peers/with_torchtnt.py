"""torchtnt beside the raw loop."""

from collections.abc import Iterator
from typing import Any

from alternate import Alternation, loss_of, network, optimizer_of, raw_loader
from common import Fit, report
from torchtnt.framework.callback import Callback
from torchtnt.framework.state import State
from torchtnt.framework.train import train
from torchtnt.framework.unit import TrainUnit


class Unit(TrainUnit[Iterator[Any]]):
    """The step, written by hand, as torchtnt wants it."""

    def __init__(self, alternation: Alternation) -> None:
        super().__init__()
        self.alternation = alternation
        self.net = network()
        self.optimizer = optimizer_of(self.net)

    def train_step(self, state: State, data: Iterator[Any]) -> None:
        """Take a step."""
        self.alternation.tick()
        loss_of(self.net, next(data)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Busy(Callback):
    """Is called at the end of each step."""

    def on_train_step_end(self, state: State, unit: Any) -> None:
        """Do nothing."""


class Idle(Callback):
    """Is not called in a step."""

    def on_train_end(self, state: State, unit: Any) -> None:
        """Do nothing."""


def fit(callbacks: int = 0, kind: type[Callback] = Busy) -> Fit:
    def run(steps: int) -> Alternation:
        alternation = Alternation()
        train(
            Unit(alternation),
            raw_loader(),
            max_epochs=1,
            max_steps_per_epoch=steps,
            callbacks=[kind() for _ in range(callbacks)],
        )
        return alternation

    return run


report(
    "torchtnt",
    "torchtnt.framework.train",
    fit(),
    {
        "10 plug-ins at each batch's end": fit(10),
        "100 plug-ins at each batch's end": fit(100),
        "100 idle plug-ins": fit(100, Idle),
    },
)
