"""The samplers of a study in files, one for each trial."""

import io
import itertools
import logging
import os
import pathlib
import pickle
import re
import shutil
from collections.abc import Iterable
from typing import Any

from helios.checkpoints.storage import sync_folder
from helios.errors import CheckpointError
from helios.plugins.optuna import trials

_logger = logging.getLogger(__name__)

_FILE = re.compile(r"sampler_trial-(\d+)\.pkl")


def checkpoint_sampler(trial: Any, root: str | pathlib.Path) -> None:
    """Save the sampler of a trial's study as ``sampler_trial-<number>.pkl``.

    Call this function in the objective after the last suggestion, so that a restarted study makes
    the same suggestions as one that was not cut. It does nothing for a trial without a study,
    such as a ``FixedTrial``.

    Args:
        trial: the running trial.
        root: the folder of the files.

    Raises:
        CheckpointError: the sampler cannot be pickled.
    """
    study = trials.study_of(trial)
    if study is None:
        return
    try:
        content = pickle.dumps(study.sampler)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"the {type(study.sampler).__name__} of the study cannot be saved: {error}. Give it"
            " functions from the top level of a module, in place of lambdas and inner functions."
        ) from error
    folder = pathlib.Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".sampler_trial-{trial.number}.{os.getpid()}"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / f"sampler_trial-{trial.number}.pkl")
    sync_folder(folder)


def restore_sampler(
    root: str | pathlib.Path, trial_id: int | None = None, *, safe_globals: Iterable[Any] = ()
) -> Any:
    """Return the sampler as it was after a trial, or ``None`` if no file has it.

    A file can refer to Optuna's own samplers only, because loading a pickle can run any code.

    Args:
        root: the folder of the files.
        trial_id: the number of the trial; by default the newest. If this trial has no file, the
            newest trial before it counts.
        safe_globals: your own classes and functions that the sampler refers to.

    Raises:
        CheckpointError: a file refers to something else.
    """
    for number, path in sorted(files(root).items(), reverse=True):
        if trial_id is not None and number > trial_id:
            continue
        try:
            return _Unpickler(path, safe_globals).load()
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            _logger.warning("%s is damaged, so an older sampler is restored: %r.", path, error)
    return None


def files(root: str | pathlib.Path | None) -> dict[int, pathlib.Path]:
    """Return the files of samplers in a folder, by the numbers of their trials."""
    paths = pathlib.Path(root).iterdir() if root is not None and pathlib.Path(root).is_dir() else ()
    return {int(match[1]): path for path in paths if (match := _FILE.fullmatch(path.name))}


def backup(root: str | pathlib.Path) -> None:
    """Copy a folder of samplers to ``<name>_bkp-<n>`` beside it, if it has any."""
    folder = pathlib.Path(root)
    if files(folder):
        names = (folder.with_name(f"{folder.name}_bkp-{number}") for number in itertools.count())
        shutil.copytree(folder, next(name for name in names if not name.exists()))


# What a pickled sampler may refer to.

_PACKAGES = ("optuna.samplers.", "optuna.search_space.", "optuna.distributions", "optuna._gp.")
_NUMPY = {
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.random._pickle": {"__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"},
    "numpy.random.bit_generator": {"SeedSequence", "__pyx_unpickle_SeedSequence"},
    "numpy.random._mt19937": {"MT19937"},
    "numpy.random._pcg64": {"PCG64"},
    "collections": {"OrderedDict", "defaultdict"},
    "builtins": {"complex", "frozenset", "list", "range", "set", "slice"},
    "torch._utils": {"_rebuild_tensor_v2"},
}


class _Unpickler(pickle.Unpickler):
    """Loads a sampler, and refuses everything that no sampler needs.

    Args:
        path: the file.
        safe_globals: further classes and functions that it may refer to.
    """

    def __init__(self, path: pathlib.Path, safe_globals: Iterable[Any]) -> None:
        super().__init__(io.BytesIO(path.read_bytes()))
        self._path = path
        self._own = {(each.__module__, each.__qualname__): each for each in safe_globals}

    def find_class(self, module: str, name: str) -> Any:
        """Return a global of the file, if it is safe."""
        if (module, name) in self._own:
            return self._own[module, name]
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        if name in _NUMPY.get(module, ()):
            return super().find_class(module, name)
        if module.startswith(_PACKAGES) and "." not in name:
            found = super().find_class(module, name)
            if getattr(found, "__module__", None) == module:  # not what the module imports
                return found
        raise CheckpointError(
            f"{self._path} refers to {module}.{name}, which is no part of Optuna's samplers, and"
            " loading it could run any code. If the file is yours, import the name and pass"
            f" safe_globals=[{name}]."
        )


def _load_storage(content: bytes) -> Any:
    """Load the tensors that a ``GPSampler`` remembers; PyTorch's function would run any code."""
    import torch

    return torch.load(io.BytesIO(content), weights_only=True)
