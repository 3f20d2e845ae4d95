"""The messages between the program and its workers, without a cluster."""

import asyncio
import signal
import threading
import types
from typing import Any

import pytest
import ray
from helios_ray import driver, mailbox

from helios.testing import TinyModel

Namespace = types.SimpleNamespace


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A mailbox in this process."""
    monkeypatch.setattr(ray, "remote", lambda **_: lambda kind: Namespace(remote=kind))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: Namespace(get_node_id=lambda: "0" * 56))
    return mailbox.open_mailbox()


def test_results_of_the_last_attempt(box: Any) -> None:
    async def speak() -> None:
        assert not await box.has_begun()
        assert await box.arrive(0)
        assert await box.arrive(1)
        assert await box.has_begun()
        await box.post("error of the first attempt", False)
        assert await box.arrive(1)  # Ray has started the workers again
        assert await box.read() == []
        await box.post("outcome", False)
        assert await box.arrive(0)
        assert await box.read() == ["outcome"]

    asyncio.run(speak())


def test_attempt_that_would_change_nothing_does_not_begin(box: Any) -> None:
    async def speak() -> None:
        await box.arrive(0)
        await box.post("a module is missing", True)
        await box.post("the other rank has lost its connection", False)
        assert not await box.arrive(0)
        assert await box.read() == ["a module is missing"]

    asyncio.run(speak())


def test_orders_reach_workers_that_wait_and_those_that_come_later(box: Any) -> None:
    async def speak() -> None:
        waiting = asyncio.ensure_future(box.order(0))
        await asyncio.sleep(0)
        await box.give(mailbox.STOP)
        assert await waiting == mailbox.STOP
        assert await box.order(0) == mailbox.STOP
        await box.give(mailbox.ABORT)
        assert await box.order(1) == mailbox.ABORT
        assert not await box.arrive(0)

    asyncio.run(speak())


@pytest.mark.parametrize(
    ("folder", "has_begun", "presses", "orders", "is_raised"),
    [
        ("runs", True, 1, [mailbox.STOP], False),
        ("runs", True, 2, [mailbox.STOP, mailbox.ABORT], True),
        ("runs", False, 1, [mailbox.ABORT], True),  # the workers still start
        (None, True, 1, [mailbox.ABORT], True),  # nothing could be saved
    ],
)
def test_ctrl_c(
    monkeypatch: pytest.MonkeyPatch,
    folder: str | None,
    has_begun: bool,
    presses: int,
    orders: list[str],
    is_raised: bool,
) -> None:
    given: list[str] = []
    arrived = threading.Semaphore(0)

    def give(order: str) -> None:
        given.append(order)
        arrived.release()

    def fit() -> None:
        for _ in range(presses):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            assert arrived.acquire(timeout=30)

    monkeypatch.setattr(ray, "get", lambda value: value)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    actor = Namespace(give=Namespace(remote=give), has_begun=Namespace(remote=lambda: has_begun))
    arguments: Any = (Namespace(fit=fit), actor, Namespace(chkpt_root=folder))
    try:
        if is_raised:
            with pytest.raises(KeyboardInterrupt):
                driver.run_engine(*arguments)
        else:
            assert driver.run_engine(*arguments) is None
    finally:
        signal.signal(signal.SIGINT, before)
    assert given == orders


def test_error_of_ray_itself() -> None:
    missing = driver.error_of_ray(RuntimeError("... No module named 'helios_ray' ..."))
    assert "cannot import 'helios_ray': install" in str(missing)
    error = RuntimeError("2 workers")
    error.worker_failures = {1: OSError("it was\n killed")}  # type: ignore[attr-defined]
    died = driver.error_of_ray(error)
    assert str(died) == "the worker of Ray with rank 1 has ended: it was killed"
    assert died.rank == 1  # type: ignore[attr-defined]
    other = RuntimeError(TinyModel)
    assert driver.error_of_ray(other) is other
