"""The guard of a run on several ranks: a thread that sees when a rank has failed or stopped.

Without it, PyTorch ends a run in seconds if a process dies, but after half an hour if one blocks,
and its errors name the ranks that noticed, not the one that failed.
"""

import atexit
import contextlib
import dataclasses
import datetime
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.distributed import DistError

from helios.core import Place
from helios.errors import RankFailedError
from helios.trainer.launch import beats, stacks
from helios.trainer.launch.beats import Beat
from helios.trainer.launch.failure import Failure, is_of_connection, raised
from helios.trainer.launch.store import StoreClient

_PATIENCE = 10.0
"""The seconds in which the rank that has failed must be found after a connection broke."""
_GRACE = 5.0
"""The seconds that a rank has to end by itself after another one has failed."""
_UNWIND = 20.0
"""The seconds that a rank has to tear down after another one has failed."""
_RECONNECT = datetime.timedelta(seconds=5)
_LOST = 15.0
"""The seconds after which a store that cannot be reached is gone."""
_FAILURE = "failure"
_AT_ONCE = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGUSR1"))


@dataclasses.dataclass(frozen=True)
class Peer:
    """A rank, as the others see it.

    Attributes:
        host: the name of its host.
        machine: a value that two processes share if one sees the process id of the other.
        pid: its process id.
    """

    host: str
    machine: str
    pid: int

    @classmethod
    def here(cls) -> "Peer":
        """Return this process."""
        host = socket.gethostname()
        try:
            space = os.readlink("/proc/self/ns/pid")
        except OSError:  # not Linux: no two processes are known to be on one machine
            space = f"{os.getpid()}"
        return cls(host, f"{host} {space}", os.getpid())

    def is_gone(self) -> bool:
        """Return whether the process, on this machine, has ended."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
        except FileNotFoundError:
            return True
        except OSError:
            return False


class Guard:
    """Ends a run on all ranks, with one message, if one of them fails, vanishes or stops.

    Args:
        store: a connection to the store of the run, for this guard alone.
        place: the place of this process.
        peers: all ranks.
        timeout: the seconds without progress after which a rank has failed; ``None`` for ever.
        progress: returns a value that changes when training or an evaluation progresses.
        position: returns the position of the run, in words.
        code: returns the hook or method in which the training thread is.
        is_silent: ``True`` if the launcher tells of a failure.
    """

    def __init__(
        self,
        store: StoreClient,
        place: Place,
        peers: Sequence[Peer],
        timeout: float | None,
        progress: Callable[[], Any],
        position: Callable[[], str],
        code: Callable[[Any], str],
        *,
        is_silent: bool = False,
    ) -> None:
        self._store = store
        self._place = place
        self._rank = place.rank
        self._peers = peers
        self._names = [f"rank {rank} on {peer.host}" for rank, peer in enumerate(peers)]
        self._timeout = float("inf") if timeout is None else timeout
        self._progress = progress
        self._position = position
        self._code = code
        self._is_silent = is_silent
        self._interval = max(0.5, place.world_size / 200)
        self._thread_of_run = threading.get_ident()
        self._seen: tuple[Any, ...] = ()
        self._seen_at = time.monotonic()
        self._count = 0
        self._silence = beats.Silence()
        self._failure: Failure | None = None
        self._noticed_at = 0.0
        self._is_failing = False
        self._error: BaseException | None = None
        self._is_ending = False
        self._answered_at = time.monotonic()
        self._over_at: float | None = None
        self._stop = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="helios-guard", daemon=True)

    def start(self) -> None:
        """Start the thread, when each rank has sent its first beat."""
        self._thread.start()
        atexit.register(self.close)

    # In the thread that trains.

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Tell the other ranks of an error; if another rank is the cause, raise that instead."""
        try:
            yield
        except BaseException as error:
            cause = self.fail(error)
            if cause is not None:
                raise cause from None  # the broken connection tells nothing more
            raise

    def fail(self, error: BaseException) -> RankFailedError | None:
        """Tell the other ranks that this one fails.

        From now on, SIGTERM ends this process at once: its launcher sends it, and no plug-in may
        take it for a preemption.

        Returns:
            The error to raise instead, if another rank is the cause of this one.
        """
        if self._is_failing or isinstance(error, RankFailedError):
            if error is not self._error and not isinstance(error, Exception):
                self._tell(str(self._failure))  # a signal has cut the teardown: nobody else will
            return None
        self._is_failing, self._error = True, error
        if threading.current_thread() is threading.main_thread():
            for number in _AT_ONCE:
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)
        if not is_of_connection(error):
            self._claim(raised(self._rank, self._names[self._rank], error))
            if isinstance(error, SystemExit):  # Python shows none of it
                self._tell(str(raised(self._rank, self._names[self._rank], error)))
            return None
        failure = self._find_cause() or self._claim(self._lost(error))
        return RankFailedError(str(failure), failure.rank)

    def end(self) -> None:
        """Tell the other ranks that this one has done its work, and may end."""
        self._is_ending = True
        self._say("done")

    def close(self) -> None:
        """Stop the thread, and wait for its end.

        PyTorch aborts a process that ends while a thread is in a call of the store.
        """
        self._is_ending = True
        if self._is_failing:
            self._say("told")
        self._stop.set()
        self._thread.join()
        atexit.unregister(self.close)

    def _find_cause(self) -> Failure | None:
        """Wait for the failure that has broken a connection, or for a rank that is silent."""
        end, silence = time.monotonic() + _PATIENCE, beats.Silence()
        silent: list[int] = []
        newest: dict[int, Beat] = {}
        while time.monotonic() < end:
            with contextlib.suppress(Exception):
                self._look()
                newest = self._beats()
                silent = [r for r, beat in newest.items() if silence.hear(r, beat) > _PATIENCE / 2]
            if self._failure is not None:
                return self._failure
            time.sleep(0.1)
        others = [rank for rank in silent if rank != self._rank]
        if len(others) != len(silent) or not others:
            return None  # nobody, or this process has no time for its own beats
        said = "has not been heard of since the connection broke"
        story = f"{self._names[others[0]]} {said}: it was {newest[others[0]].position}"
        return self._claim(Failure(self._rank, others[0], story))

    def _lost(self, error: BaseException) -> Failure:
        """Return the failure of a rank that nobody knows."""
        try:
            seen = beats.positions(self._beats(), self._names)
        except Exception:
            seen = "  (the store of the run does not answer)"
        return Failure(
            self._rank,
            None,
            f"the ranks have lost their connection: {error}\nThe message of the launcher may name"
            f" the process that has ended. The ranks were last seen here:\n{seen}",
        )

    # In the thread of the guard.

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._beat()
                self._look()
                self._answered_at = time.monotonic()
            except Exception:  # of the store
                self._on_lost_store()
            if self._failure is not None and not self._stop.is_set():
                self._on_failure(self._failure)

    def _beat(self) -> None:
        self._count += 1
        self._store.set(f"beat/{self._rank}", self._observe().to_json())

    def _observe(self) -> Beat:
        """Return what the thread that trains is doing."""
        frame = stacks.stack_of(self._thread_of_run)
        activity = stacks.activity(frame)
        position, stack = "training", ""
        with contextlib.suppress(Exception):  # names and counters are those of users
            seen = (self._progress(), activity)
            if seen != self._seen:
                self._seen, self._seen_at = seen, time.monotonic()
            position = ", ".join(filter(None, [self._position(), self._code(frame)]))
        since = time.monotonic() - self._seen_at
        if since > 2 * self._interval:
            stack = stacks.shown(frame)
        return Beat(self._count, activity, since, position, stack)

    def _look(self) -> None:
        """Look for a failure: one that is known, a process that has ended, or a stall."""
        if self._failure is None and self._store.has(_FAILURE):
            self._learn(Failure.from_json(self._store.get(_FAILURE)[0]))
        if self._failure is not None or self._stop.is_set():
            return
        for rank, peer in enumerate(self._peers):
            is_near = peer.machine == self._peers[self._rank].machine
            if rank != self._rank and is_near and peer.is_gone() and not self._is_done(rank):
                position = self._beats([rank])[rank].position
                story = f"{self._names[rank]} has ended (process {peer.pid})"
                self._claim(Failure(self._rank, rank, f"{story}: it was {position}"))
                return
        watched = range(len(self._peers)) if self._rank == 0 else [0]
        newest = self._beats(watched)
        silences = {rank: self._silence.hear(rank, beat) for rank, beat in newest.items()}
        if self._rank > 0:  # rank 0 sees the rest
            newest = {rank: beat for rank, beat in newest.items() if silences[rank] > 1}
            if not newest or silences[0] <= max(self._timeout, beats.QUIET):
                return
        failure = beats.find_stall(newest, silences, self._names, self._timeout, self._rank)
        if failure is not None and not (failure.rank is not None and self._is_done(failure.rank)):
            self._claim(failure)

    def _is_done(self, rank: int) -> bool:
        """Return whether a rank has done its work, or has failed and told of it."""
        return any(self._has_said(word, rank) for word in ("done", "told"))

    def _say(self, word: str) -> None:
        with contextlib.suppress(Exception):
            self._store.set(f"{word}/{self._rank}", "1")

    def _has_said(self, word: str, rank: int) -> bool:
        return self._store.has(f"{word}/{rank}")

    def _beats(self, ranks: Sequence[int] | range | None = None) -> dict[int, Beat]:
        ranks = range(len(self._peers)) if ranks is None else ranks
        texts = self._store.get(*(f"beat/{rank}" for rank in ranks))
        return {rank: Beat.from_json(text) for rank, text in zip(ranks, texts, strict=True)}

    def _claim(self, failure: Failure) -> Failure:
        """Report a failure, unless another one came first; return the first one."""
        with contextlib.suppress(Exception):  # the store is gone, too
            failure = Failure.from_json(self._store.set_first(_FAILURE, failure.to_json()))
        self._learn(failure)
        return failure

    def _learn(self, failure: Failure) -> None:
        if self._failure is None:
            self._failure, self._noticed_at = failure, time.monotonic()

    def _on_lost_store(self) -> None:
        """Connect again; if this fails for long, the process with the store has ended or blocks."""
        if self._failure is not None:
            return
        problem: Exception | None = None
        try:
            self._store.reconnect(_RECONNECT)
        except Exception as error:
            problem = error
        seconds = time.monotonic() - self._answered_at
        if isinstance(problem, TimeoutError) and seconds > max(self._timeout, beats.QUIET):
            self._learn(self._frozen(seconds))
        elif isinstance(problem, DistError) and seconds > _LOST and not self._is_ending:
            story = f"the store of the run no longer answers, so its process has ended: {problem}"
            self._learn(Failure(self._rank, None, story))

    def _frozen(self, seconds: float) -> Failure:
        """Return the failure of the process that serves the store, and is stopped or cut off."""
        server = self._store.server
        name = "the launcher" if server is None else self._names[server]
        story = f"{name}, which serves the store of the run, has not answered for {seconds:.0f} s"
        return Failure(self._rank, server, story)

    def _on_failure(self, failure: Failure) -> None:
        """End this process, if it does not end by itself."""
        elapsed = time.monotonic() - self._noticed_at
        if self._is_failing:
            is_mine = failure.rank == self._rank
            limit = max(self._timeout, _UNWIND) if is_mine else _UNWIND
        else:
            limit = self._time_to_tell(failure)
        if elapsed <= limit:
            return
        if failure.claimer == self._rank or self._must_tell(failure):
            self._tell(str(failure))
        elif failure.rank != self._rank:
            self._tell(f"this process ends, because {failure.story}")
        self._say("told")
        for child in multiprocessing.active_children():  # workers that load data
            child.kill()
        os._exit(1)

    def _time_to_tell(self, failure: Failure) -> float:
        """Return the seconds in which the rank that claimed the failure can tell of it.

        The launcher ends all ranks as soon as one has ended.
        """
        if failure.claimer == self._rank:
            return _GRACE
        claimer = self._peers[failure.claimer]
        try:
            is_near = claimer.machine == self._peers[self._rank].machine
            is_gone = is_near and claimer.is_gone()
            is_over = is_gone or self._has_said("told", failure.claimer)
        except Exception:
            is_over = True
        if not is_over:
            return _UNWIND
        self._over_at = self._over_at or time.monotonic()
        return self._over_at + 2 - self._noticed_at

    def _must_tell(self, failure: Failure) -> bool:
        """Return whether this process tells of a failure in place of the rank that claimed it.

        One process of each other host does so, and one of the same host if that rank could not.
        """
        claimer, here = self._peers[failure.claimer], self._peers[self._rank]
        first = next(
            rank
            for rank, peer in enumerate(self._peers)
            if peer.host == here.host and rank != failure.claimer
        )
        if first != self._rank or claimer.host != here.host:
            return first == self._rank
        try:
            is_gone = claimer.machine == here.machine and claimer.is_gone()
            return is_gone and not self._has_said("told", failure.claimer)
        except Exception:
            return True

    def _tell(self, text: str) -> None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            if not self._is_silent:
                os.write(2, f"\nHelios: {text}\n".encode(errors="replace"))
