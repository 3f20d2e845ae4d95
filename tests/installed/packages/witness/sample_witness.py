"""Leaves a trace when it is imported."""

import os
import pathlib

import helios

if "SAMPLE_WITNESS" in os.environ:
    pathlib.Path(os.environ["SAMPLE_WITNESS"]).write_text("imported", encoding="utf-8")


class Witness(helios.Plugin):
    def __init__(self):
        super().__init__("witness")

    def setup(self):
        print("called witness.setup")
