"""A rank that fails in any way, at any moment, ends the run everywhere, and is named."""

import contextlib
import itertools
import os
import pathlib
import re
import signal
import time
from typing import Any

import faulty
import pytest
from faulty import MOMENTS, STALL, WAYS
from started_ranks import Rank, StartRanks

LONGEST = 30 + STALL
SHORT = {
    ("torchrun", "raise", "forward"),
    ("torchrun", "SIGKILL", "validation"),
    ("torchrun", "block", "teardown"),
    ("spawn", "exit(0)", "save"),
    ("spawn", "SIGKILL", "forward"),
    ("alone", "_exit(0)", "start"),
    ("alone", "block", "validation"),
}
"""The launcher, way and moment of the failures that each test run tries."""

CASES = [
    pytest.param(*case, marks=[] if case in SHORT else pytest.mark.long)
    for case in itertools.product(("torchrun", "spawn", "alone"), WAYS, MOMENTS)
]


@pytest.mark.parametrize(("launcher", "way", "moment"), CASES)
def test_failure(
    ranks: StartRanks, tmp_path: pathlib.Path, launcher: str, way: str, moment: str
) -> None:
    folder = tmp_path / "run"
    call = (way, moment, 1, str(folder))
    if launcher == "spawn":
        text = check_spawned(ranks.alone(faulty.spawn, *call, timeout=120).result, way)
    else:
        if launcher == "torchrun":
            all_ranks = ranks.torchrun(2, faulty.train, *call, timeout=120).wait()
        else:
            all_ranks = ranks(2, faulty.train, *call, timeout=120, must_succeed=False)
            assert all_ranks[0].status not in (0, -9), all_ranks
        text = check_texts(all_ranks, launcher, way)
    check_names(text, launcher, way)
    left = [pid for pid in faulty.pids(folder) if is_running(pid)]
    assert left == []


def test_no_plugin_takes_the_end_of_a_failed_run_for_a_preemption(
    ranks: StartRanks, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    started = ranks.start(2, faulty.train, "raise", "forward", 1, str(folder), True, timeout=60)
    wait_for(folder / "busy", folder / "tearing-down")
    for process in started.processes:  # as torchrun does
        process.send_signal(signal.SIGTERM)
    first, second = started.wait()
    assert second.status in (143, -signal.SIGTERM)  # in the middle of its teardown
    assert first.status == 1
    told = first.errors + second.errors
    assert re.search(r"rank 1 on \S+ failed: BoomError: boom 7\nTraceback", told), told


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("launcher", ["alone", "spawn"])
def test_stopped_process(
    ranks: StartRanks, tmp_path: pathlib.Path, launcher: str, victim: int
) -> None:
    """A machine that is cut off looks the same. Rank 0 serves the store, if no launcher does."""
    folder = tmp_path / "run"
    if launcher == "spawn":
        started = ranks.start_alone(faulty.spawn_for_long, str(folder), 10.0)
    else:
        started = ranks.start(2, faulty.train_for_long, str(folder), 10.0)
    wait_for(folder / "pid-0", folder / "pid-1", folder / "plan.json")
    stopped = int((folder / f"pid-{victim}").read_text())
    os.kill(stopped, signal.SIGSTOP)
    started.processes[0 if launcher == "spawn" else 1 - victim].wait(20 + 30 + 60)
    with contextlib.suppress(ProcessLookupError):  # the launcher may have ended it
        os.kill(stopped, signal.SIGKILL)
    done = started.wait()
    text = str([rank.result for rank in done]) + "".join(rank.errors for rank in done)
    told = rf"rank {victim} on \S+( has not been heard of|, which serves the store)"
    assert re.search(told, text), text
    assert not re.search(rf"rank {1 - victim} on \S+ (failed|has)", text), text


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["torchrun", "spawn"])
def test_no_rank_outlives_its_launcher(
    ranks: StartRanks, tmp_path: pathlib.Path, launcher: str
) -> None:
    folder = tmp_path / "run"
    if launcher == "spawn":
        started = ranks.start_alone(faulty.spawn_for_long, str(folder))
    else:
        started = ranks.torchrun(2, faulty.train_for_long, str(folder))
    wait_for(folder / "pid-0", folder / "pid-1", folder / "plan.json")
    started.kill()
    end = time.monotonic() + 120
    while any(map(is_running, faulty.pids(folder))):
        assert time.monotonic() < end
        time.sleep(0.1)


def wait_for(*paths: pathlib.Path) -> None:
    end = time.monotonic() + 100
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end
        time.sleep(0.05)


def check_spawned(result: Any, way: str) -> str:
    kind, text, code = result
    if way == "raise":
        assert (kind, code) == ("BoomError", 7)
    else:
        assert kind == "RankFailedError", text
    return str(text)


def check_texts(all_ranks: list[Rank], launcher: str, way: str) -> str:
    if launcher == "torchrun":
        assert all_ranks[0].status != 0
    text = "\n".join(rank.errors for rank in all_ranks)
    if way == "raise":
        assert "BoomError: boom 7" in text
    return text


def check_names(text: str, launcher: str, way: str) -> None:
    told = {
        "raise": r"rank 1 (of 2 )?on \S+",
        "exit(3)": r"rank 1 on \S+ called exit\(3\)",
        "exit(0)": r"rank 1 on \S+ called exit\(0\)",
        "_exit(0)": r"rank 1 on \S+ (has ended|ended)",
        "SIGKILL": r"rank 1 on \S+ (has ended|was killed by SIGKILL)",
        "block": r"rank 1 on \S+ has made no progress for \d+ s: it was .*reach",
    }[way]
    if (launcher, way) == ("spawn", "SIGKILL"):
        told = r"rank 1 on \S+ was killed by SIGKILL"
    if (launcher, way) == ("torchrun", "SIGKILL"):
        told = r"rank\s+: 1 \(local_rank: 1\)\s+exitcode\s+: -9"  # of torchrun itself
    assert re.search(told, text), text
    assert not re.search(r"rank 0 on \S+ (failed|called|has|was killed)", text), text


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
