"""Studies that survive the death of their processes, in any storage of Optuna."""

import contextlib
import itertools
import logging
import pathlib
import sqlite3
import warnings
from collections.abc import Iterable
from typing import Any

from helios.errors import StudyError
from helios.plugins.optuna import replacement, samplers, trials

_logger = logging.getLogger(__name__)


def create_or_load_study(
    sampler_path: str | pathlib.Path | None = None,
    backup_study: bool = False,
    backup_samplers: bool = False,
    *,
    resume_trials: bool = False,
    heartbeat_interval: int | None = None,
    safe_globals: Iterable[Any] = (),
    **study_args: Any,
) -> Any:
    """Create a study, or load it with the sampler that its newest trial has saved.

    Args:
        sampler_path: the folder in which :func:`checkpoint_sampler` saves. A restored sampler
            replaces a given one.
        backup_study: whether to copy an existing study first. A SQLite file is copied to
            ``<stem>_bkp-<n>.db``, another study to ``<study_name>_bkp-<n>`` in its storage.
        backup_samplers: whether to copy the folder of samplers to ``<name>_bkp-<n>`` first.
        resume_trials: whether to run the trials again that the study counts as running. They
            resume from their checkpoints. Only if no other process works on the study.
        heartbeat_interval: the seconds between signs of life of a running trial in a database. If
            they stop, another process retries the trial, from its checkpoint.
        safe_globals: your own classes and functions that a saved sampler refers to.
        study_args: the arguments of ``optuna.create_study``. ``storage`` and
            ``load_if_exists=True`` are required.

    Raises:
        StudyError: the study could not be loaded later.
        TypeError: ``storage`` is neither a URL nor a storage.
    """
    storage = storage_of(study_args, heartbeat_interval)
    if not study_args.get("load_if_exists"):
        raise StudyError("create_or_load_study needs load_if_exists=True, to load the study later.")
    name = study_args["study_name"] = _name_of(study_args, storage)
    if name is not None:
        replacement.finish(storage, name)
    _back_up(storage, name, backup_study, sampler_path if backup_samplers else None)
    study = _load(study_args, storage, sampler_path, safe_globals)
    running = study.get_trials(deepcopy=False, states=(trials.states().RUNNING,))
    if resume_trials:
        for trial in running:
            trials.requeue(storage, study.study_name, trial.number)
    elif running and is_sqlite(storage):
        warn_of_sqlite(_logger)
    return study


def create_study_starting_from_trial(
    trial_id: int,
    backup_study: bool = True,
    backup_samplers: bool = True,
    sampler_path: str | pathlib.Path | None = None,
    *,
    safe_globals: Iterable[Any] = (),
    **study_args: Any,
) -> Any:
    """Drop the trials of a study from a given one on, and return it ready to run them anew.

    A crash loses no study: the next call of this function or of :func:`create_or_load_study`
    finishes the work. Do not call it while another process works on the study.

    Args:
        trial_id: the number of the first trial that is dropped.
        backup_study: whether to copy the study first.
        backup_samplers: whether to copy the folder of samplers first.
        sampler_path: the folder in which :func:`checkpoint_sampler` saves. The files of the dropped
            trials are deleted.
        safe_globals: your own classes and functions that a saved sampler refers to.
        study_args: the arguments of ``optuna.create_study``; ``storage`` is required.

    Raises:
        StudyError: the study does not exist, or has no such trial.
        TypeError: ``storage`` is neither a URL nor a storage.
    """
    storage = storage_of(study_args)
    name = _name_of(study_args, storage)
    if name is None:
        raise StudyError(f"the storage has no study: {study_args['storage']!r}.")
    replacement.finish(storage, name)
    count = _number_of_trials(storage, name)
    if not 0 <= trial_id <= count:
        raise StudyError(
            f"the study {name!r} has {count} trials, so it cannot start from trial {trial_id}."
        )
    folder = None if sampler_path is None else pathlib.Path(sampler_path)
    _back_up(storage, name, backup_study, folder if backup_samplers else None)
    replacement.cut(storage, name, trial_id, folder)
    arguments = {**study_args, "study_name": name, "load_if_exists": True}
    return _load(arguments, storage, sampler_path, safe_globals)


def is_sqlite(storage: Any) -> bool:
    """Return whether a storage is a SQLite file, which locks as a whole."""
    return str(getattr(storage, "url", "")).startswith("sqlite")


def warn_of_sqlite(logger: logging.Logger) -> None:
    """Warn of several processes on a SQLite file."""
    logger.warning(
        "Optuna plug-in: SQLite is a poor storage for a study with several processes, which wait"
        " for each other's locks and can fail with 'database is locked'. Use"
        " optuna.storages.JournalStorage, or a PostgreSQL server."
    )


def storage_of(study_args: dict[str, Any], heartbeat_interval: int | None = None) -> Any:
    """Return the storage as an object."""
    import optuna

    storage = study_args.get("storage")
    if storage is None:
        raise StudyError(
            "the study needs a storage that outlives the process, such as"
            " storage='sqlite:///study.db'."
        )
    if not isinstance(storage, str | optuna.storages.BaseStorage):
        raise TypeError(
            f"storage={storage!r} is a {type(storage).__name__}. Write a URL, such as"
            " 'sqlite:///study.db', or pass a storage of Optuna."
        )
    if heartbeat_interval is None:
        return optuna.storages.RDBStorage(storage) if isinstance(storage, str) else storage
    if not isinstance(storage, str):
        raise StudyError(
            f"heartbeat_interval={heartbeat_interval} needs the URL of a database as storage. Give"
            " an RDBStorage its own heartbeat_interval. Other storages of Optuna have none: use"
            " resume_trials=True."
        )
    return _with_heartbeat(storage, heartbeat_interval)


def _with_heartbeat(url: str, interval: int) -> Any:
    import optuna

    callback = trials.retry_callback()
    older = not hasattr(optuna.storages, "RetryHeartbeatStaleTrialCallback")  # before Optuna 4.9
    argument = "failed_trial_callback" if older else "heartbeat_stale_trial_callback"
    with warnings.catch_warnings():  # the heartbeat is experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            url, heartbeat_interval=interval, **{argument: callback()}
        )


def _name_of(study_args: dict[str, Any], storage: Any) -> str | None:
    """Return the name of the study; that of the only one if the user has chosen none."""
    import optuna

    name = study_args.get("study_name")
    if name is not None:
        return str(name)
    names = optuna.get_all_study_names(storage)
    if len(names) > 1:
        raise StudyError(f"the storage has several studies. Pass study_name, one of {names}.")
    return names[0] if names else None


def _number_of_trials(storage: Any, name: str) -> int:
    import optuna

    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise StudyError(f"the storage has no study {name!r}; it has {names}.")
    return len(optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False))


def _load(
    study_args: dict[str, Any],
    storage: Any,
    sampler_path: str | pathlib.Path | None,
    safe_globals: Iterable[Any],
) -> Any:
    """Return the study with the sampler that belongs to its newest trial."""
    import optuna

    study = optuna.create_study(**{**study_args, "storage": storage})
    count = len(study.get_trials(deepcopy=False))
    if sampler_path is None or not count:
        return study
    restored = samplers.restore_sampler(sampler_path, count - 1, safe_globals=safe_globals)
    if restored is not None:
        if study_args.get("sampler") is not None:
            _logger.warning(
                "Optuna plug-in: the sampler in %s replaces the given %s.",
                sampler_path,
                type(study_args["sampler"]).__name__,
            )
        study.sampler = restored
    return study


def _back_up(
    storage: Any, name: str | None, with_study: bool, sampler_path: str | pathlib.Path | None
) -> None:
    import optuna

    if sampler_path is not None:
        samplers.backup(sampler_path)
    names = optuna.get_all_study_names(storage)
    if not with_study or name not in names:
        return
    path = _file_of(storage)
    if path is not None:
        _copy_database(path)
        return
    copies = (f"{name}_bkp-{number}" for number in itertools.count())
    optuna.copy_study(
        from_study_name=name,
        from_storage=storage,
        to_storage=storage,
        to_study_name=next(copy for copy in copies if copy not in names),
    )


def _file_of(storage: Any) -> pathlib.Path | None:
    """Return the file of a SQLite storage."""
    if not is_sqlite(storage):
        return None
    database = storage.engine.url.database
    return pathlib.Path(database) if database and database != ":memory:" else None


def _copy_database(path: pathlib.Path) -> None:
    """Copy a database, also while others write to it."""
    copies = (path.with_name(f"{path.stem}_bkp-{number}.db") for number in itertools.count())
    target = next(copy for copy in copies if not copy.exists())
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
