"""Can be imported, but is not fit for use: each of its plug-ins in another way."""

import helios

ANSWER = 42


class Unbuildable(helios.Plugin):
    def __init__(self):
        raise LookupError("there is no licence file\nin any of the usual places")

    def setup(self):
        print("called stubborn-build.setup")


class Unanswerable(helios.Plugin):
    def __init__(self):
        super().__init__("stubborn-question")

    @classmethod
    def applies_to(cls, trainer):
        return trainer.an_attribute_of_another_release

    def setup(self):
        print("called stubborn-question.setup")


class Misspelt(helios.Plugin):
    def __init__(self):
        super().__init__("stubborn-hook")

    def setup(self):
        print("called stubborn-hook.setup")

    def on_train_start(self):
        print("called stubborn-hook.on_train_start")
