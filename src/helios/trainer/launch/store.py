"""The store of a run, through which its ranks meet, and the client that a guard has of it."""

import concurrent.futures
import dataclasses
import datetime
import threading
from collections.abc import Callable
from typing import TypeVar

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # public

T = TypeVar("T")
_CONNECT = datetime.timedelta(seconds=30)
_OPERATION = datetime.timedelta(seconds=10)
_MARGIN = datetime.timedelta(seconds=5)


@dataclasses.dataclass(frozen=True)
class StoreAddress:
    """The store of a run, as a process finds it.

    Attributes:
        host: the host of the process that serves it.
        port: the port of this process.
        prefix: the beginning of all keys of the run.
        server: the rank that serves it; ``None`` if the launcher does.
    """

    host: str
    port: int
    prefix: str
    server: int | None


def connect(host: str, port: int, timeout: datetime.timedelta) -> TCPStore:
    """Return a new connection to a store."""
    return TCPStore(host, port, is_master=False, timeout=timeout)


class StoreClient:
    """A connection to the store of a run, whose methods raise an error instead of blocking.

    A client of PyTorch waits for ever if the process that serves the store is stopped, or its
    machine has gone. So a thread of its own calls each of its methods.

    Args:
        address: the store.
        name: the name of this client, the beginning of its keys.

    Raises:
        TimeoutError: the store does not answer; also from each method.
        DistError: it cannot be reached; also from each method.
    """

    def __init__(self, address: StoreAddress, name: str) -> None:
        self.server = address.server
        self._address = address
        self._prefix = f"{address.prefix}/{name}"
        self._is_stuck = False
        self._store = self._connected(_CONNECT)

    def reconnect(self, timeout: datetime.timedelta) -> None:
        """Connect again."""
        self._store = self._connected(timeout)
        self._is_stuck = False

    def set(self, key: str, value: str) -> None:
        """Set the value of a key."""
        self._call(lambda store: store.set(key, value))

    def set_first(self, key: str, value: str) -> str:
        """Set the value of a key that has none; return the value that it then has."""
        return self._call(lambda store: store.compare_set(key, "", value)).decode()

    def has(self, key: str) -> bool:
        """Return whether a key has a value."""
        return self._call(lambda store: store.check([key]))

    def get(self, *keys: str) -> list[str]:
        """Return the values of keys."""
        return [value.decode() for value in self._call(lambda store: store.multi_get(list(keys)))]

    def _connected(self, timeout: datetime.timedelta) -> Store:
        address = self._address
        # PyTorch gives up first if nobody serves the store, and never if its process is stopped.
        patience = timeout + _MARGIN
        store = _bounded(lambda: connect(address.host, address.port, timeout), patience)
        store.set_timeout(_OPERATION)
        return PrefixStore(self._prefix, store)

    def _call(self, operation: Callable[[Store], T]) -> T:
        if self._is_stuck:  # PyTorch lets one thread at a time use a connection
            raise TimeoutError("the store did not answer")
        store = self._store
        try:
            return _bounded(lambda: operation(store), _OPERATION)
        except TimeoutError:
            self._is_stuck = True
            raise


def _bounded(function: Callable[[], T], timeout: datetime.timedelta) -> T:
    """Return the result of a function.

    Raises:
        TimeoutError: it has not returned in time. Its thread then stays behind.
    """
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def call() -> None:
        try:
            result.set_result(function())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=call, name="helios-store", daemon=True).start()
    try:
        return result.result(timeout.total_seconds())
    except TimeoutError:
        raise TimeoutError(
            f"the store has not answered for {timeout.total_seconds():g} s"
        ) from None
