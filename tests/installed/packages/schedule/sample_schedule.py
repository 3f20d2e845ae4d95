"""Takes arguments, wants to be called in a certain order, and fails where it is told to."""

import os
import pathlib
from typing import TYPE_CHECKING, Literal

import helios

if TYPE_CHECKING:
    from nowhere import Imagined


class WarmUp(helios.Plugin):
    after = ("observer",)

    def __init__(
        self,
        steps: int = 10,
        curve: Literal["linear", "cosine"] = "linear",
        betas: tuple[float, float] = (0.9, 0.999),
        folder: pathlib.Path | None = None,
        imagined: "Imagined | None" = None,
        plug_id: str = "warm-up",
    ):
        super().__init__(plug_id)
        self.steps, self.curve, self.betas = steps, curve, betas
        self.folder, self.imagined = folder, imagined
        self.seen = 0

    def setup(self):
        print(f"called {self.plug_id}.setup")

    def on_training_batch_end(self):
        self.seen += 1
        print(f"called {self.plug_id}.on_training_batch_end")

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state_dict):
        self.seen = state_dict["seen"]


class CoolDown(helios.Plugin):
    after = ("warm-up",)
    if "SCHEDULE_HAS_A_CYCLE" in os.environ:
        before = ("observer",)

    def __init__(self):
        super().__init__("cool-down")

    def setup(self):
        print("called cool-down.setup")


class Observer(helios.Plugin):
    critical = False

    def __init__(self):
        super().__init__("observer")

    def setup(self):
        print("called observer.setup")

    def on_training_batch_end(self):
        print("called observer.on_training_batch_end")
        if "OBSERVER_FAILS" in os.environ:
            raise ConnectionError("the dashboard does not answer")

    def teardown(self):
        print("called observer.teardown")
