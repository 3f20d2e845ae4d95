"""Cannot be imported."""

import pathlib

import helios

pathlib.Path(__file__).with_suffix(".imported").touch()

import sample_module_that_nobody_has  # noqa: E402  # what fails comes after the mark


class Broken(helios.Plugin):
    def setup(self):
        sample_module_that_nobody_has.prepare()
