"""Hyperparameter search with Optuna; needs ``pip install 'helios-trainer[optuna]'``."""

import importlib.util

if importlib.util.find_spec("optuna") is None:
    raise ImportError(
        "helios.plugins.optuna needs Optuna: pip install 'helios-trainer[optuna]'", name="optuna"
    )

from helios.plugins.optuna.plugin import OptunaPlugin
from helios.plugins.optuna.samplers import checkpoint_sampler, restore_sampler
from helios.plugins.optuna.search import tune
from helios.plugins.optuna.studies import create_or_load_study, create_study_starting_from_trial

__all__ = [
    "OptunaPlugin",
    "checkpoint_sampler",
    "create_or_load_study",
    "create_study_starting_from_trial",
    "restore_sampler",
    "tune",
]
