"""A study that takes the place of another one, so that no crash loses either."""

import pathlib
import secrets
from typing import Any

from helios.plugins.optuna import samplers

_SUFFIX = ".helios-replacement"
_MARK = "helios.started_from"

# Optuna cannot rename a study. The new one is built under a second name, and a mark in it says that
# it is complete. From then on, every process that finds it finishes the replacement.


def cut(storage: Any, name: str, trial_id: int, sampler_path: pathlib.Path | None) -> None:
    """Replace a study by one with only the trials before a given one.

    Args:
        storage: the storage of the study.
        name: the name of the study.
        trial_id: the number of the first trial that is dropped.
        sampler_path: the folder of its samplers; those of the dropped trials are deleted.
    """
    import optuna

    finish(storage, name)
    old = optuna.load_study(study_name=name, storage=storage)
    new = optuna.create_study(study_name=name + _SUFFIX, storage=storage, directions=old.directions)
    old_id, new_id = (storage.get_study_id_from_name(each.study_name) for each in (old, new))
    for key, value in storage.get_study_system_attrs(old_id).items():
        storage.set_study_system_attr(new_id, key, value)
    for key, value in old.user_attrs.items():
        if key != _MARK:
            new.set_user_attr(key, value)
    new.add_trials(trial for trial in old.get_trials(deepcopy=False) if trial.number < trial_id)
    mark = {
        "key": secrets.token_hex(8),
        "trial": trial_id,
        "samplers": sampler_path and str(sampler_path.resolve()),
    }
    new.set_user_attr(_MARK, mark)
    finish(storage, name)


def finish(storage: Any, name: str) -> None:
    """Finish the replacement of a study that another process has begun, if there is one."""
    import optuna

    if name + _SUFFIX not in optuna.get_all_study_names(storage):
        return
    new = optuna.load_study(study_name=name + _SUFFIX, storage=storage)
    mark = new.user_attrs.get(_MARK)
    if mark is not None and not _is_copied(new, storage, name):
        if name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        for number, path in samplers.files(mark["samplers"]).items():
            if number >= mark["trial"]:
                path.unlink()
        optuna.copy_study(
            from_study_name=new.study_name,
            from_storage=storage,
            to_storage=storage,
            to_study_name=name,
        )
    optuna.delete_study(study_name=new.study_name, storage=storage)


def _is_copied(new: Any, storage: Any, name: str) -> bool:
    """Return whether the whole new study has its name; it may have more trials since."""
    import optuna

    if name not in optuna.get_all_study_names(storage):
        return False
    study = optuna.load_study(study_name=name, storage=storage)
    is_same = study.user_attrs.get(_MARK) == new.user_attrs[_MARK]
    return is_same and len(study.get_trials(deepcopy=False)) >= len(new.get_trials(deepcopy=False))
