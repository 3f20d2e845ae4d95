"""Is there a second time, in another version and another folder."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Doubled(helios.Plugin):
    def __init__(self):
        super().__init__("doubled")

    def setup(self):
        print("called doubled.setup")
