"""Needs what is not there, what is too new, and what only another Python needs."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()


class Demanding(helios.Plugin):
    def __init__(self):
        super().__init__("demanding")

    def setup(self):
        print("called demanding.setup")
