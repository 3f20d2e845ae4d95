"""Facts about a trial, whether it belongs to a study, is fixed, or is finished."""

import os
import secrets
import warnings
from collections.abc import Mapping
from typing import Any

from helios.core import Group, TrainingUnit
from helios.core.distributed import get_global_world_size
from helios.errors import ConfigurationError, UnknownNameError, nearest

# The functions import Optuna themselves: a user with a trial has imported it already, and a trainer
# that only looks at the class of the plug-in must not pay for the import.

_KEY = "helios.trial"


def check_trial(trial: Any) -> Any:
    """Return a trial, and refuse everything else.

    Raises:
        ConfigurationError: the object is not a trial.
    """
    import optuna

    if not isinstance(trial, optuna.trial.BaseTrial) and not hasattr(trial, "suggest_float"):
        hint = " Pass study.ask(), or the trial that Optuna passes to the objective."
        raise ConfigurationError(
            f"OptunaPlugin(trial={trial!r}) got a {type(trial).__name__}, which is not a trial."
            f"{hint if isinstance(trial, optuna.Study) else ''}"
        )
    return trial


def number_of(trial: Any) -> int:
    """Return the number of a trial; that of its first attempt if Optuna retries it."""
    import optuna

    frozen = _frozen(trial)
    if frozen is None:
        return int(trial.number)
    with warnings.catch_warnings():  # the only public function is experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        first = retry_callback().retried_trial_number(frozen)
    return int(trial.number if first is None else first)


def retry_callback() -> Any:
    """Return the class with which Optuna retries the trials of dead processes."""
    import optuna

    newer = getattr(optuna.storages, "RetryHeartbeatStaleTrialCallback", None)  # Optuna 4.9
    return newer or optuna.storages.RetryFailedTrialCallback


def states() -> Any:
    """Return the states of trials."""
    import optuna

    return optuna.trial.TrialState


def open_trial(study: Any, storage: Any, number: int) -> Any:
    """Return a running trial that another process may have begun."""
    import optuna

    study_id = storage.get_study_id_from_name(study.study_name)
    return optuna.trial.Trial(
        study, storage.get_trial_id_from_study_id_trial_number(study_id, number)
    )


def suggest(trial: Any, name: str, distribution: Any) -> Any:
    """Let a trial suggest a value from a distribution."""
    import optuna

    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    is_integer = isinstance(distribution, optuna.distributions.IntDistribution)
    method = trial.suggest_int if is_integer else trial.suggest_float
    step, log = distribution.step, distribution.log
    return method(name, distribution.low, distribution.high, step=step, log=log)


def requeue(storage: Any, study_name: str, number: int) -> None:
    """Let a trial whose process has died be the next one that is run."""
    study = storage.get_study_id_from_name(study_name)
    trial = storage.get_trial_id_from_study_id_trial_number(study, number)
    storage.set_trial_state_values(trial, states().WAITING)


def key_of(trial: Any) -> str:
    """Return a key that no other trial of any study has; a retried trial keeps it.

    A trial that belongs to no study and has no key is known by its parameters alone.
    """
    known = trial.user_attrs.get(_KEY)
    if known is not None:
        return str(known)
    if study_of(trial) is None:
        return "fixed"
    return renew_key(trial)


def renew_key(trial: Any) -> str:
    """Give a trial a new key, and return it."""
    key = secrets.token_hex(8)
    trial.set_user_attr(_KEY, key)
    return key


def is_finished(trial: Any) -> bool:
    """Return whether a trial is the record of a finished one, such as ``study.best_trial``."""
    import optuna

    return isinstance(trial, optuna.trial.FrozenTrial)


def study_of(trial: Any) -> Any:
    """Return the study of a trial; ``None`` for one that is fixed or finished."""
    return getattr(trial, "study", None)


def has_several_objectives(trial: Any) -> bool:
    """Return whether the study of a trial has several objectives, so that it has no reports."""
    study = study_of(trial)
    return study is not None and len(study.directions) > 1


def reported_steps(trial: Any) -> set[int]:
    """Return the steps whose values the study knows."""
    frozen = _frozen(trial)
    return set() if frozen is None else set(frozen.intermediate_values)


def plain_parameters(trial: Any) -> dict[str, Any]:
    """Return the parameters of a trial as plain values.

    A class or a function is replaced by its name, and any other choice by its position.
    """
    return {
        name: _plain(value, trial.distributions.get(name)) for name, value in trial.params.items()
    }


def differing(saved: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters that have two values."""
    both = sorted(saved.keys() & parameters.keys())
    return [name for name in both if not _equal(saved[name], parameters[name])]


def _frozen(trial: Any) -> Any:
    """Return what the study knows of a trial."""
    study = study_of(trial)
    if study is None:
        return trial if is_finished(trial) else None
    return study.get_trials(deepcopy=False)[trial.number]


def _plain(value: Any, distribution: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{value.__module__}.{name}"
    if distribution is None:
        return repr(value)
    return f"choices[{int(distribution.to_internal_repr(value))}]"


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) or (one != one and other != other)  # NaN equals NaN here


def is_at_end(trainer: Any, improved: bool) -> bool:
    """Return whether a run ends after its validation anyway, so that its trial is not pruned.

    Args:
        trainer: the trainer of the run, whose model has just been validated.
        improved: ``True`` if the validation is the best one.
    """
    state = trainer.state
    in_epochs = trainer.train_unit is TrainingUnit.EPOCH
    done = state.global_epoch + 1 if in_epochs else state.current_iteration
    stale_cycles = 0 if improved else state.early_stop_count + 1
    patience = trainer.early_stop_cycles
    is_stale = patience is not None and stale_cycles >= patience
    return bool(done >= trainer.total_steps or is_stale)


def number_in(metrics: Mapping[str, Any], name: str) -> float:
    """Return the metric to report.

    Args:
        metrics: the metrics of the model after a validation.
        name: the name of the metric.

    Raises:
        UnknownNameError: the model does not have this metric.
        TypeError: the metric is not a number.
    """
    if name not in metrics:
        raise UnknownNameError(
            f"the Optuna plug-in should report {name!r}, but model.metrics has no such entry after"
            f" validation.{nearest(name, metrics)} Log it with self.log({name!r}, ...) in"
            " valid_step, or set it in on_validation_end."
        )
    try:
        return float(metrics[name])
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"the Optuna plug-in should report {name!r}, but model.metrics holds"
            f" {metrics[name]!r}, which is not a number."
        ) from error


def stored_attributes(trial: Any) -> Mapping[str, Any]:
    """Return the user attributes of a trial as its storage has them, also from other processes."""
    study = study_of(trial)
    if study is None:
        return {}
    return study.get_trials(deepcopy=False)[trial.number].user_attrs  # type: ignore[no-any-return]


def require_shared(trial: Any) -> None:
    """Refuse a trial whose study other processes cannot reach.

    Raises:
        ConfigurationError: the study is in the memory of a process.
    """
    import optuna

    if isinstance(getattr(trial, "storage", None), optuna.storages.InMemoryStorage):
        raise ConfigurationError(
            "a distributed run needs a study in a database that all processes can reach:"
            " optuna.create_study(storage='sqlite:///study.db')."
        )


def is_one_of_several() -> bool:
    """Return whether a launcher has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1" or get_global_world_size() > 1


def ready(trainer: Any) -> Any:
    """Return a trainer; ``None`` if its process is one of several that cannot agree yet."""
    is_waiting = trainer is not None and is_one_of_several() and not trainer.is_distributed
    return None if is_waiting else trainer


def require_same(group: Group, trial: Any) -> None:
    """Refuse another trial than that of rank 0, as each process would ask for."""
    number, here = number_of(trial), plain_parameters(trial)
    first, parameters = group.broadcast((number, here))
    if group.agree(number != first or bool(differing(parameters, here))):
        raise ConfigurationError(
            "the processes of the run have trials with different parameters or numbers; here,"
            f" trial {number} with {here}. Let rank 0 alone call study.ask(), and send the trial to"
            " the others: torch.distributed.broadcast_object_list([trial])."
        )
