"""Attempts what it is told on standard input, and tells on standard output what became of it."""

import contextlib
import io
import json
import logging
import os
import pathlib
import signal
import sys
import traceback
import warnings

import torch

import helios
from helios.testing import TinyDataModule, TinyModel


def main():
    attempts = json.load(sys.stdin)
    report = {name: attempt(**arguments) for name, arguments in attempts.items()}
    json.dump(report, sys.stdout)


def attempt(environ=None, plugins=(), register=(), **arguments):
    """Construct a trainer, train with it for two steps, and return what happened."""
    for module in our_modules():
        del sys.modules[module]  # whatever an earlier attempt has imported
    plugins = [tuple(plugin) if isinstance(plugin, list) else plugin for plugin in plugins]
    printed, log = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(log)
    error, trainer, refused = None, None, []
    before = surroundings()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        logging.getLogger("helios").addHandler(handler)
        try:
            with environment(environ or {}):
                trainer = helios.Trainer(
                    train_unit="iteration",
                    total_steps=2,
                    use_cpu=True,
                    plugins=plugins,
                    **arguments,
                )
                refused = [refusal(trainer, name) for name in register]
                trainer.fit(TinyModel(), TinyDataModule(valid_size=0))
        except Exception as raised:
            error = raised
        finally:
            logging.getLogger("helios").removeHandler(handler)
    after = surroundings()
    return {
        "printed": printed.getvalue(),
        "log": log.getvalue(),
        "warnings": [(w.category.__name__, str(w.message), w.filename) for w in caught],
        "error": describe(error),
        "refused": [describe(refused_with) for refused_with in refused],
        "active": list(trainer.plugins) if trainer else [],
        "imported": our_modules(),
        "leftovers": [what for what in before if before[what] != after[what]],
    }


def refusal(trainer, name):
    """Return the error that registering one more plug-in ends in, if it does."""
    try:
        trainer.register_plugin(helios.create_plugin(name))
    except helios.errors.PluginError as error:
        return error


@contextlib.contextmanager
def environment(variables):
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def our_modules():
    return sorted(name for name in sys.modules if name.startswith("sample_"))


def surroundings():
    """Return what an attempt must leave as it has found it."""
    loggers = [logging.getLogger(name) for name in ("", "helios")]
    return {
        # PyTorch settles on a cache folder at the first optimizer step.
        "environment variables": {k: v for k, v in os.environ.items() if "TORCH" not in k},
        "import path": list(sys.path),
        "current folder": os.getcwd(),
        "files": sorted(map(str, pathlib.Path().rglob("*"))),
        "log handlers": [list(logger.handlers) for logger in loggers],
        "log levels": [logger.level for logger in loggers],
        "signal handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "switches": (
            torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
        ),
    }


def describe(error):
    if error is None:
        return None
    return {
        "types": [kind.__name__ for kind in type(error).__mro__],
        "message": str(error),
        "notes": getattr(error, "__notes__", []),
        "files": [frame.filename for frame in traceback.extract_tb(error.__traceback__)],
        "cause": describe(error.__cause__),
    }


if __name__ == "__main__":
    main()
