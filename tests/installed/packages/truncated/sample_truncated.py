"""Its entry points are cut off after the installation."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Truncated(helios.Plugin):
    def __init__(self):
        super().__init__("truncated")

    def setup(self):
        print("called truncated.setup")
