"""Its entry point is none."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Malformed(helios.Plugin):
    def __init__(self):
        super().__init__("malformed")

    def setup(self):
        print("called malformed.setup")
