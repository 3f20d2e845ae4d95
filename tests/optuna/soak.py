"""Kills searches at random moments, until the time is over or one ends differently.

PYTHONPATH=tests python tests/optuna/soak.py [--seconds 600] [--seed N]
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import fork_server

PROGRAM = pathlib.Path(__file__).with_name("digits.py")
TRIALS = 30


def run(python: list[str], root: pathlib.Path, trials: int, kill_at: int = -1) -> Any:
    """Return the result of a search, or ``None`` if it was killed."""
    command = [*python, str(PROGRAM), str(root), str(trials), str(kill_at)]
    process = subprocess.run(command, stdout=subprocess.PIPE, timeout=600, check=False)
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, f"exit code {process.returncode}"
    return json.loads(process.stdout)


def soak(python: list[str], seed: int, whole: Any, root: pathlib.Path) -> str | None:
    """Kill a search up to eight times; return the story if its trials are not those of ``whole``.

    A shorter search has the first trials of a longer one.
    """
    choose = random.Random(seed)
    trials = choose.randint(1, TRIALS)
    opened = whole["opened"] * trials // TRIALS
    # A moment may lie after the end of the rest: then the search is complete.
    moments = [choose.randrange(opened) for _ in range(choose.randint(1, 8))]
    for moment in moments:
        run(python, root, trials, moment)
    found, expected = run(python, root, trials)["trials"], whole["trials"][:trials]
    if found == expected:
        return None
    return f"{trials} trials, killed at {moments}: {found}, and not {expected}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    searches, seed = 0, arguments.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        socket, modules = pathlib.Path(folder, "socket"), ["torch", "torch._dynamo", "optuna"]
        with fork_server.server(socket, modules) as python:
            whole = run(python, pathlib.Path(folder, "whole"), TRIALS)
            while time.monotonic() < end:
                with tempfile.TemporaryDirectory() as root:
                    story = soak(python, seed, whole, pathlib.Path(root))
                if story is not None:
                    sys.exit(f"--seed {seed}: {story}")
                searches, seed = searches + 1, seed + 1
    print(f"{searches} searches were killed, and none ended differently")


if __name__ == "__main__":
    main()
