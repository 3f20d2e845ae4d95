"""Its METADATA asks for another Python after the installation."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Antique(helios.Plugin):
    def __init__(self):
        super().__init__("antique")

    def setup(self):
        print("called antique.setup")
