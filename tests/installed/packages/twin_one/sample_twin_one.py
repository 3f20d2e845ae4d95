"""Offers the same name as another distribution."""

import helios


class Twin(helios.Plugin):
    def __init__(self):
        super().__init__("twin")

    def setup(self):
        print("called twin-one.setup")
