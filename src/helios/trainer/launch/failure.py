"""The failure of a rank, as all ranks of a run learn of it."""

import dataclasses
import json
import re
import traceback

import torch.distributed as dist

from helios.errors import describe

_LONGEST = 50_000  # characters of a traceback
_OF_CONNECTION = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out waiting|socket|tcpstore"
    r"|aborted|process group",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """The first failure in a run.

    Attributes:
        claimer: the rank that reported it.
        rank: the rank that failed; ``None`` if nobody knows.
        story: what happened, in a sentence that names the rank and its host.
        details: a traceback, or the positions of ranks.
    """

    claimer: int
    rank: int | None
    story: str
    details: str = ""

    def to_json(self) -> str:
        """Return the failure as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Failure":
        """Return the failure that :meth:`to_json` has written."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return "\n".join(filter(None, [self.story, self.details]))


def raised(rank: int, name: str, error: BaseException) -> Failure:
    """Return the failure of a rank that has raised an error.

    Args:
        rank: the rank.
        name: the rank and its host, in words.
        error: the error.
    """
    trace = "".join(traceback.format_exception(error))
    if len(trace) > _LONGEST:
        trace = f"{trace[: _LONGEST // 2]}\n...\n{trace[-_LONGEST // 2 :]}"
    if isinstance(error, SystemExit):
        return Failure(rank, rank, f"{name} called exit({error.code!r})", trace.rstrip())
    return Failure(rank, rank, f"{name} failed: {describe(error)}", trace.rstrip())


def is_of_connection(error: BaseException) -> bool:
    """Return whether an error says that another rank can no longer be reached."""
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and _OF_CONNECTION.search(str(error)) is not None
