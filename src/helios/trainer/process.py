"""The settings of a process that a run changes and restores: log files and PyTorch's switches."""

import contextlib
import logging
import os
import pathlib
import threading
from collections.abc import Iterator

import torch

from helios.errors import ConfigurationError

_logger = logging.getLogger("helios")


_open_files: list[logging.FileHandler] = []  # of runs, one of which may be inside the other
_levels: list[int] = []  # the level of the logger before the first of them
_runs = threading.Lock()
_running: list[int] = []  # the thread of each run, the outer ones first


@contextlib.contextmanager
def only_run() -> Iterator[None]:
    """Refuse to run while another thread of this process runs.

    Both would draw from the same generators, and neither would be exact. A run inside of a hook of
    another run, in the same thread, draws at a point that is always the same.

    Raises:
        ConfigurationError: another thread runs.
    """
    thread = threading.get_ident()
    with _runs:
        if any(other != thread for other in _running):
            raise ConfigurationError(
                "another thread of this process is in the middle of a run. Two runs at once would"
                " draw from the same random number generators, so neither would be exact: start"
                " each run in a process of its own (with Optuna: n_jobs=1, and several processes)."
            )
        _running.append(thread)
    try:
        yield
    finally:
        _running.remove(thread)


@contextlib.contextmanager
def log_file(run_root: pathlib.Path, run_name: str) -> Iterator[None]:
    """Write the log of Helios to a file in the run's folder; a resumed run appends to it."""
    try:
        run_root.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(run_root / f"{run_name or 'helios'}.log", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the files of a run cannot be written in {run_root}: {error.strerror}. Make it"
            " writable, or pass another folder as run_root."
        ) from error
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers: list[logging.Handler] = [file]
    if not _logger.hasHandlers():
        # A logger with a handler no longer prints warnings on the terminal by itself. Python prints
        # the traceback of an exception there anyway.
        terminal = logging.StreamHandler()
        terminal.setLevel(logging.WARNING)
        terminal.addFilter(lambda record: record.exc_info is None)
        handlers.append(terminal)
    if not _levels:
        _levels.append(_logger.level)  # to restore when the last file is closed
    _open_files.append(file)
    for handler in handlers:
        _logger.addHandler(handler)
    _logger.setLevel(min(_logger.level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        _open_files.remove(file)
        if not _open_files:
            _logger.setLevel(_levels.pop())
        for handler in handlers:
            _logger.removeHandler(handler)
            handler.close()


@contextlib.contextmanager
def determinism(benchmark: bool, deterministic: bool) -> Iterator[None]:
    """Set PyTorch's switches for the run, and restore them at its end."""
    before = (
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )
    torch.backends.cudnn.benchmark = benchmark
    if deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size (CUDA documentation).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        if before[3] is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
