"""Claims the training batch too; its id is not the name of its entry point."""

import helios


class PatchMix(helios.Plugin):
    def __init__(self):
        super().__init__("patchmix-2d")

    def setup(self):
        print("called patchmix-2d.setup")

    def process_training_batch(self, batch, state):
        print("called patchmix-2d.process_training_batch")
        return batch
