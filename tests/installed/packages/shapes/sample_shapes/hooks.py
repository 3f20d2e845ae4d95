"""A plug-in that is a module."""

import os

import helios


@helios.hookimpl
def configure_trainer(trainer):
    print("called shape-module.configure_trainer")


@helios.hookimpl
def setup():
    print("called shape-module.setup")


@helios.hookimpl
def on_training_start():
    print("called shape-module.on_training_start")
    if "SHAPE_MODULE_FAILS" in os.environ:
        raise ZeroDivisionError("the module was told to fail")


@helios.hookimpl
def teardown():
    print("called shape-module.teardown")
