"""Everything that an entry point can name, apart from an ordinary class."""

import helios


class Shape(helios.Plugin):
    def setup(self):
        print(f"called {self.plug_id}.setup")


def make():
    return Shape("shape-factory")


class Observer:
    @helios.hookimpl
    def setup(self):
        print("called shape-object.setup")

    @helios.hookimpl
    def on_training_batch_end(self, state):
        print("called shape-object.on_training_batch_end")


observer = Observer()


class NeedsArguments(Shape):
    def __init__(self, rate):
        super().__init__("shape-arguments")
        self.rate = rate


class Manual(Shape):
    autoload = False

    def __init__(self):
        super().__init__("shape-manual")


class Elsewhere(Shape):
    def __init__(self):
        super().__init__("shape-elsewhere")

    @classmethod
    def applies_to(cls, trainer):
        return False
