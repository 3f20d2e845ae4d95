"""Its METADATA is deleted after the installation."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Bare(helios.Plugin):
    def __init__(self):
        super().__init__("bare")

    def setup(self):
        print("called bare.setup")
