"""Its module is deleted after the installation."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Vanished(helios.Plugin):
    def __init__(self):
        super().__init__("vanished")

    def setup(self):
        print("called vanished.setup")
