"""Hyperparameter search with Optuna; needs ``pip install 'helios-trainer[optuna]'``."""

import importlib.util

if importlib.util.find_spec("optuna") is None:
    raise ImportError(
        "helios.plugins.optuna needs Optuna: pip install 'helios-trainer[optuna]'", name="optuna"
    )

from helios.plugins.optuna.plugin import OptunaPlugin

__all__ = ["OptunaPlugin"]
