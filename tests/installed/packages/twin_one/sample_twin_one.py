"""Offers the same name as another distribution."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Twin(helios.Plugin):
    def __init__(self):
        super().__init__("twin")

    def setup(self):
        print("called twin-one.setup")
