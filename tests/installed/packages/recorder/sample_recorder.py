"""Prints what it is called for, and fails where it is told to."""

import os

import helios


class Recorder(helios.Plugin):
    def __init__(self):
        super().__init__("recorder")

    def setup(self):
        called("setup")

    def on_training_start(self):
        called("on_training_start")

    def on_training_batch_end(self, outputs, state):
        called("on_training_batch_end")

    def on_training_end(self):
        called("on_training_end")

    def on_exception(self, error, state):
        called("on_exception")

    def teardown(self):
        called("teardown")


def called(hook):
    print(f"called recorder.{hook}")
    if os.environ.get("RECORDER_FAILS_IN") == hook:
        raise ZeroDivisionError("the recorder was told to fail")
