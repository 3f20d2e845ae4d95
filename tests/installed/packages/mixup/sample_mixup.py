"""Claims the training batch; its entry point is spelt in an unusual way."""

import helios


class MixUp(helios.Plugin):
    def __init__(self):
        super().__init__("mix-up")

    def setup(self):
        print("called mix-up.setup")

    def process_training_batch(self, batch, state):
        print("called mix-up.process_training_batch")
        return batch
