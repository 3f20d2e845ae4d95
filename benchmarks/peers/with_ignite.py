"""Ignite beside the raw loop."""

from typing import Any

from alternate import Alternation, loss_of, network, optimizer_of, raw_loader
from common import Fit, report
from ignite.engine import Engine, Events


def fit(callbacks: int = 0, event: Any = Events.ITERATION_COMPLETED) -> Fit:
    def run(steps: int) -> Alternation:
        alternation, net = Alternation(), network()
        optimizer = optimizer_of(net)

        def step(engine: Engine, batch: Any) -> None:
            alternation.tick()
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            optimizer.step()

        engine = Engine(step)
        for _ in range(callbacks):
            engine.add_event_handler(event, lambda engine: None)
        engine.run(raw_loader(), max_epochs=1, epoch_length=steps)
        return alternation

    return run


report(
    "pytorch-ignite",
    "ignite.engine",
    fit(),
    {
        "10 plug-ins at each batch's end": fit(10),
        "100 plug-ins at each batch's end": fit(100),
        "100 idle plug-ins": fit(100, Events.COMPLETED),
    },
)
