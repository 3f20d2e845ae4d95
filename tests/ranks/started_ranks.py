"""Starts the ranks of a run as processes, as a launcher does, and collects what they did.

Each rank is forked from a process that has imported PyTorch and Helios, and calls a function of a
test module:

    def train(folder: str) -> dict[str, Any]:  # on module level; its arguments are plain
        ...

    def test_ranks(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
        first, second = ranks(2, train, str(tmp_path))
        assert first.result == second.result
"""

import dataclasses
import importlib.util
import inspect
import multiprocessing
import os
import pathlib
import pickle
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_CALL = "HELIOS_TEST_CALL"
_SPAWNED = "HELIOS_TEST_INTERPRETER"
_PROGRAM = "import started_ranks; started_ranks.program()"


@dataclasses.dataclass
class Rank:
    """The outcome of a rank.

    Attributes:
        status: its exit code; negative for a signal.
        output: what it wrote to the standard output.
        errors: what it wrote to the standard error.
        result: what its function returned; ``None`` if it returned nothing, or did not return.
    """

    status: int
    output: str
    errors: str
    result: Any


class Started:
    """Ranks that are running.

    Args:
        processes: the processes, in the order of their ranks.
        folder: the folder of their outputs and results.
        timeout: the seconds after which the test fails, counted from the start.
    """

    def __init__(
        self, processes: Sequence[subprocess.Popen[bytes]], folder: pathlib.Path, timeout: float
    ) -> None:
        self.processes = processes
        self.started = time.monotonic()
        self._folder = folder
        self._timeout = timeout

    def wait(self) -> list[Rank]:
        """Return what the ranks did; kill them and fail if they run for too long."""
        end = self.started + self._timeout
        try:
            for process in self.processes:
                process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            stories = "\n".join(map(str, self._ranks()))
            raise AssertionError(f"still running after {self._timeout:g} s: {stories}") from None
        return self._ranks()

    def kill(self) -> None:
        """Kill those that still run."""
        for process in self.processes:
            process.kill()
            process.wait()

    def _ranks(self) -> list[Rank]:
        return [
            Rank(
                process.wait(),
                _text(self._folder / f"output-{rank}"),
                _text(self._folder / f"errors-{rank}"),
                _result(self._folder / f"result-{rank}"),
            )
            for rank, process in enumerate(self.processes)
        ]


class StartRanks:
    """Starts ranks; the type of the fixture ``ranks``.

    Args:
        python: the interpreter, as a command.
        root: a folder for their files.

    Attributes:
        folder: the folder of the ranks that were started last.
    """

    def __init__(self, python: Sequence[str], root: pathlib.Path) -> None:
        self._python = python
        self._root = root
        self._count = 0
        self.folder = root
        self._started: list[Started] = []

    def __call__(
        self,
        count: int,
        function: Callable[..., Any],
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        timeout: float = 180,
        must_succeed: bool = True,
    ) -> list[Rank]:
        """Let ranks call a function of a module, and return what they did.

        Args:
            count: the number of ranks.
            function: the function, on the level of its module.
            arguments: its arguments, which must be plain.
            env: variables to add to the environment of each rank.
            timeout: the seconds after which the test fails.
            must_succeed: ``True`` to fail if a rank fails.
        """
        ranks = self.start(count, function, *arguments, env=env, timeout=timeout).wait()
        if must_succeed:
            for number, rank in enumerate(ranks):
                assert rank.status == 0, f"rank {number}: {rank.output}\n{rank.errors}"
        return ranks

    def start(
        self,
        count: int,
        function: Callable[..., Any],
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        timeout: float = 180,
    ) -> Started:
        """Let ranks call a function, and return them while they run."""
        folder, environment = self.prepared(function, *arguments)
        environment |= {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            **(env or {}),
        }
        processes = [
            self.launch(
                [*self._python, "-c", _PROGRAM],
                {"RANK": str(rank), "LOCAL_RANK": str(rank), **environment},
                folder,
                rank,
            )
            for rank in range(count)
        ]
        return self.watched(processes, folder, timeout)

    def torchrun(
        self,
        count: int,
        function: Callable[..., Any],
        *arguments: Any,
        options: Sequence[str] = ("--standalone",),
        env: Mapping[str, str] | None = None,
        timeout: float = 180,
    ) -> Started:
        """Let the ranks that ``torchrun`` starts call a function; return ``torchrun`` itself.

        The results of its ranks are the result of :meth:`results`.
        """
        folder, environment = self.prepared(function, *arguments)
        run = [*self._python, "-m", "torch.distributed.run", *options]
        run += [f"--nproc-per-node={count}", "--no-python", *self._python, "-c", _PROGRAM]
        process = self.launch(run, {**environment, **(env or {})}, folder, 0)
        return self.watched([process], folder, timeout)

    def alone(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        timeout: float = 180,
        must_succeed: bool = True,
    ) -> Rank:
        """Let one process call a function, which may spawn others; return what it did."""
        [rank] = self.start_alone(function, *arguments, env=env, timeout=timeout).wait()
        assert rank.status == 0 or not must_succeed, f"{rank.output}\n{rank.errors}"
        return rank

    def start_alone(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        timeout: float = 180,
    ) -> Started:
        """Let one process call a function, and return it while it runs."""
        folder, environment = self.prepared(function, *arguments)
        process = self.launch(
            [*self._python, "-c", _PROGRAM], {**environment, **(env or {})}, folder, 0
        )
        return self.watched([process], folder, timeout)

    def results(self, count: int) -> list[Any]:
        """Return the results of the ranks that were started last."""
        return self.results_in(self.folder, count)

    def results_in(self, folder: pathlib.Path, count: int) -> list[Any]:
        """Return the results of the ranks whose files are in a folder."""
        return [_result(folder / f"result-{rank}") for rank in range(count)]

    def prepared(
        self, function: Callable[..., Any], *arguments: Any
    ) -> tuple[pathlib.Path, dict[str, str]]:
        """Return a folder for the ranks' files, and the variables that name their function."""
        self._count += 1
        self.folder = folder = self._root / f"ranks-{self._count}"
        folder.mkdir()
        call = (inspect.getfile(function), function.__qualname__, arguments)
        (folder / "call").write_bytes(pickle.dumps(call))
        here = pathlib.Path(__file__).parent
        folders = [str(here), str(here.parent), os.environ.get("PYTHONPATH")]
        path = os.pathsep.join(filter(None, folders))
        interpreter = folder / "python"  # of processes that a rank spawns
        interpreter.write_text(f'#!/bin/sh\nexec {shlex.join(self._python)} "$@"\n')
        interpreter.chmod(0o755)
        return folder, {
            _CALL: str(folder / "call"),
            _SPAWNED: str(interpreter),
            "HELIOS_TEST_PASSES_FILES": "1",
            "PYTHONPATH": path,
        }

    def launch(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: pathlib.Path,
        rank: int,
    ) -> subprocess.Popen[bytes]:
        """Start a process whose outputs are files."""
        with (
            (folder / f"output-{rank}").open("wb") as output,
            (folder / f"errors-{rank}").open("wb") as errors,
        ):
            return subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=output, stderr=errors
            )

    def watched(
        self, processes: Sequence[subprocess.Popen[bytes]], folder: pathlib.Path, timeout: float
    ) -> Started:
        """Return processes that are killed when the test ends, if they still run then."""
        self._started.append(Started(processes, folder, timeout))
        return self._started[-1]

    def close(self) -> None:
        """Kill all ranks that still run."""
        for started in self._started:
            started.kill()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program() -> None:
    """Call the function of a rank, and store its result."""
    call = pathlib.Path(os.environ[_CALL])
    multiprocessing.set_executable(os.environ[_SPAWNED])
    file, name, arguments = pickle.loads(call.read_bytes())
    sys.path.append(str(pathlib.Path(__file__).parents[1]))  # as pytest does; spawned ranks, too
    value: Any = load(file)
    for part in name.split("."):
        value = getattr(value, part)
    result = value(*arguments)
    rank = os.environ.get("RANK", "0")
    (call.parent / f"result-{rank}").write_bytes(pickle.dumps(result))


def load(file: str) -> Any:
    """Import a module from its file."""
    name = pathlib.Path(file).stem
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _text(path: pathlib.Path) -> str:
    return path.read_text(errors="replace")


def _result(path: pathlib.Path) -> Any:
    return pickle.loads(path.read_bytes()) if path.exists() else None
