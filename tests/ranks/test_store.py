"""The store of a run: its ranks meet there, and it may stop to answer."""

import datetime
import os
import pathlib
import signal
import threading
import time
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from helios.core import Place
from helios.trainer.launch import beats, guard, rendezvous, store
from helios.trainer.launch.guard import Guard, Peer
from helios.trainer.launch.store import StoreAddress, StoreClient


class SlowStore:
    """Stands in for a client of the store; its answers may be delayed, or not come in time."""

    server = 0

    def __init__(self) -> None:
        self.reached, self.answers = threading.Event(), threading.Event()
        self.answers.set()
        self.is_frozen = False

    def set(self, key: str, value: str) -> None: ...

    def has(self, key: str) -> bool:
        self.reconnect()
        self.reached.set()
        assert self.answers.wait(60)
        return False

    def get(self, *keys: str) -> list[str]:
        return [beats.Beat(1, "running", 0, "training").to_json()] * len(keys)

    def set_first(self, key: str, value: str) -> str:
        return value

    def reconnect(self, *timeout: datetime.timedelta) -> None:
        if self.is_frozen:
            raise TimeoutError


def make_guard(slow: Any, timeout: float) -> Guard:
    place = Place(torch.device("cpu"), 1, 1, 2, 2)
    return Guard(slow, place, [Peer.here()] * 2, timeout, lambda: 0, lambda: "", lambda frame: "")


def test_no_call_of_the_store_outlives_the_guard() -> None:
    """Python ends such a thread when the interpreter ends, and PyTorch then aborts the process."""
    slow = SlowStore()
    slow.answers.clear()
    watching = make_guard(slow, 100)
    watching.start()
    assert slow.reached.wait(60)
    closing = threading.Thread(target=watching.close)
    closing.start()
    closing.join(2.5)
    assert closing.is_alive()
    slow.answers.set()
    closing.join(60)
    assert "helios-guard" not in [thread.name for thread in threading.enumerate()]


def test_frozen_store_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    monkeypatch.setattr(beats, "QUIET", 0.1)
    monkeypatch.setattr(guard, "_GRACE", 0.0)
    slow = SlowStore()
    watching = make_guard(slow, 0.1)
    watching.start()
    slow.is_frozen = True
    assert ended.wait(60)
    watching.close()
    told = capfd.readouterr().err
    assert "rank 0 on " in told
    assert "which serves the store of the run, has not answered for 1 s" in told


def test_store_that_nobody_serves_is_not_taken_for_a_stopped_one() -> None:
    """Without the difference, ranks would outlive their launcher by the time of a stall."""
    served = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = StoreClient(StoreAddress("127.0.0.1", served.port, "run", None), "guard")
    del served
    with pytest.raises(DistError):
        client.reconnect(datetime.timedelta(seconds=1))


def serve(folder: str) -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    path = pathlib.Path(folder, "server")
    path.with_suffix(".new").write_text(f"{server.port} {os.getpid()}")
    path.with_suffix(".new").rename(path)
    threading.Event().wait()


def test_client_of_a_frozen_store(
    ranks: StartRanks, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks.start_alone(serve, str(tmp_path))
    path, end = tmp_path / "server", time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    port, pid = map(int, path.read_text().split())
    client = StoreClient(StoreAddress("127.0.0.1", port, "run", 0), "guard")
    client.set("name", "first")
    assert client.has("name")
    assert not client.has("other")
    assert client.set_first("name", "second") == "first"
    assert client.set_first("own", "second") == "second"
    assert client.get("name", "own") == ["first", "second"]
    second = datetime.timedelta(seconds=1)
    monkeypatch.setattr(store, "_OPERATION", second)
    os.kill(pid, signal.SIGSTOP)
    while "T" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]:
        assert time.monotonic() < end
    with pytest.raises(TimeoutError):
        client.get("name")
    with pytest.raises(TimeoutError, match="did not answer"):  # at once
        client.has("name")
    with pytest.raises(TimeoutError):
        client.reconnect(second)
    os.kill(pid, signal.SIGCONT)
    client.reconnect(10 * second)
    assert client.get("name") == ["first"]


# The rendezvous.


def meet(server: TCPStore, count: int) -> list[str]:
    """Return the prefixes that ranks in threads have got."""
    prefixes: dict[int, str] = {}

    def come(rank: int) -> None:
        own = TCPStore("127.0.0.1", server.port, is_master=False)
        prefixes[rank] = rendezvous.meet(own, rank, count)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in reversed(range(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [prefixes[rank] for rank in range(count)]


def test_ranks_meet_again_at_the_same_store() -> None:
    """As after a restart by ``torchrun``, whose agents may count the restarts differently."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    server.set("helios/greeting/1", "of a rank that was killed")
    first, second = meet(server, 3), meet(server, 2)
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]
    assert server.get(rendezvous.NEWEST).decode() == second[0]


def test_missing_ranks_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rendezvous, "_WARN", datetime.timedelta(seconds=0.2))
    monkeypatch.setattr(rendezvous, "JOIN", datetime.timedelta(seconds=0.4))
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(ValueError, match=r"^rank 1, 2 of 3 has not come to fit\(\) or test\(\)"):
        rendezvous.meet(server, 0, 3)
    assert "rank 0 waits for rank 1 and 2 of 3" in caplog.messages
    with pytest.raises(ValueError, match=r"^rank 0 of 3 has not come"):
        rendezvous.meet(server, 1, 3)
