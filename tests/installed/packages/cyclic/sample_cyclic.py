"""Two plug-ins, each of which wants to come before the other."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class One(helios.Plugin):
    before = ("cyclic-two",)

    def __init__(self):
        super().__init__("cyclic-one")

    def setup(self):
        print("called cyclic-one.setup")


class Two(helios.Plugin):
    before = ("cyclic-one",)

    def __init__(self):
        super().__init__("cyclic-two")

    def setup(self):
        print("called cyclic-two.setup")
