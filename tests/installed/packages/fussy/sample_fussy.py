"""Takes arguments."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Fussy(helios.Plugin):
    """Counts with some precision.

    Args:
        decay: how fast it forgets.
        names: what it counts.
    """

    before = ("recorder",)
    after = ("progress",)
    critical = False
    exclusives = ("counting",)

    def __init__(self, decay: float = 0.9, *, names: tuple[str, ...] = ()) -> None:
        super().__init__("fussy")
        self.unique_overrides.should_training_stop = True

    def setup(self):
        print("called fussy.setup")

    def on_training_end(self):
        print("called fussy.on_training_end")
