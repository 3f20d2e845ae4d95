"""Its metadata is renamed as an interrupted removal leaves it."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Leftover(helios.Plugin):
    def __init__(self):
        super().__init__("leftover")

    def setup(self):
        print("called leftover.setup")
