"""The part of a checkpoint that belongs to virtual ranks."""

from typing import Any

import torch

from helios.errors import CheckpointError
from helios.model.session import Session
from helios.model.virtual.session import VirtualSession


class VirtualState:
    """The number of virtual ranks, and what each of them has logged.

    Args:
        session: the session of the run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session if isinstance(session, VirtualSession) else None

    @property
    def is_active(self) -> bool:
        """``True`` if the run has virtual ranks."""
        return self._session is not None

    def save(self) -> dict[str, Any]:
        """Return the state; nothing without virtual ranks."""
        session = self._session
        if session is None:
            return {}
        return {"count": session.ranks.count, "threads": torch.get_num_threads()}

    def load(self, saved: dict[str, Any]) -> None:
        """Compare the state with that of this run.

        Raises:
            CheckpointError: the run has another number of virtual ranks, or PyTorch uses another
                number of threads.
        """
        session = self._session
        count = None if session is None else session.ranks.count
        if saved.get("count") != count:
            before = _argument(saved.get("count"))
            raise CheckpointError(
                f"the checkpoint was saved by a run {before}, but this run is {_argument(count)},"
                " which reads other samples in a step: resume with the number of virtual ranks that"
                " the run was started with, or start a new run."
            )
        if session is None:
            return
        threads = torch.get_num_threads()
        if saved["threads"] != threads:
            raise CheckpointError(
                f"the checkpoint was saved with {saved['threads']} threads of PyTorch, but this"
                f" process has {threads}. Many results of PyTorch depend on that number, so"
                " virtual ranks would not train the same weights, bit for bit: set"
                f" OMP_NUM_THREADS={saved['threads']}, or call"
                f" torch.set_num_threads({saved['threads']}) before fit(). torchrun sets"
                " OMP_NUM_THREADS=1 by default."
            )

    def save_logs(self) -> list[dict[str, Any]]:
        """Return what each virtual rank has logged, in the order of their numbers."""
        return [] if self._session is None else self._session.logs_of_ranks()

    def load_logs(self, saved: list[dict[str, Any]]) -> None:
        """Restore what :meth:`save_logs` returned."""
        if self._session is not None:
            self._session.load_logs_of_ranks(saved)


def _argument(count: int | None) -> str:
    return "without virtual ranks" if count is None else f"with virtual_ranks={count}"
