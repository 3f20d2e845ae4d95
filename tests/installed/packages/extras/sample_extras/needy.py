"""Needs what is not installed."""

import sample_module_that_nobody_has

import helios


class Needy(helios.Plugin):
    def setup(self):
        sample_module_that_nobody_has.prepare()
