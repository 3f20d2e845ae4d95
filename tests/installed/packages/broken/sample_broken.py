"""Cannot be imported."""

import sample_module_that_nobody_has

import helios


class Broken(helios.Plugin):
    def setup(self):
        sample_module_that_nobody_has.prepare()
