"""The beats of ranks, by which one rank sees that another has stopped."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence

from helios.trainer.launch.failure import Failure
from helios.trainer.launch.stacks import Activity

QUIET = 20.0
"""The seconds for which any rank may be silent, because its machine has too much to do."""


@dataclasses.dataclass(frozen=True)
class Beat:
    """The news of a rank about itself, once a second.

    Attributes:
        number: the number of the beat.
        activity: what its training thread does.
        since: the seconds without progress in this activity.
        position: its step and hook, in words.
        stack: the stack of its training thread, if it makes no progress.
    """

    number: int
    activity: Activity
    since: float
    position: str
    stack: str = ""

    def to_json(self) -> str:
        """Return the beat as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Beat":
        """Return the beat that :meth:`to_json` has written."""
        return cls(**json.loads(text))


class Silence:
    """The seconds since the newest beat of each rank arrived, by the clock of this process."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[int, float]] = {}

    def hear(self, rank: int, beat: Beat) -> float:
        """Return the seconds for which a rank has been silent."""
        number, at = self._heard.get(rank, (-1, 0.0))
        if number != beat.number:
            self._heard[rank] = beat.number, time.monotonic()
            return 0.0
        return time.monotonic() - at


def find_stall(
    beats: Mapping[int, Beat],
    silences: Mapping[int, float],
    names: Sequence[str],
    timeout: float,
    claimer: int,
) -> Failure | None:
    """Return the failure of the ranks that make no progress, if some do not.

    A rank that waits for others is not at fault. A rank that saves or compiles may take any time,
    and the others wait for it.

    Args:
        beats: the newest beat of each rank.
        silences: the seconds for which each rank has been silent.
        names: the ranks and their hosts, in words.
        timeout: the seconds without progress after which a rank has failed.
        claimer: the rank that judges.
    """
    silent = [rank for rank, seconds in silences.items() if seconds > max(timeout, QUIET)]
    if silent:
        said = f"has not been heard of for {silences[silent[0]]:.0f} s"
        return _failure(silent, said, beats, names, claimer)
    stuck = [
        rank for rank, beat in beats.items() if beat.activity == "running" and beat.since > timeout
    ]
    if stuck:
        said = f"has made no progress for {beats[stuck[0]].since:.0f} s"
        return _failure(stuck, said, beats, names, claimer)
    if all(beat.activity == "waiting" and beat.since > timeout for beat in beats.values()):
        story = (
            f"all ranks wait for one another for {min(b.since for b in beats.values()):.0f} s:"
            " they do not call the same collective functions of torch.distributed, in the same"
            " order"
        )
        return Failure(claimer, None, story, positions(beats, names, has_stacks=True))
    return None


def positions(beats: Mapping[int, Beat], names: Sequence[str], *, has_stacks: bool = False) -> str:
    """Return a line for each rank: where it was last seen."""
    lines = []
    for rank, beat in sorted(beats.items()):
        lines.append(f"  {names[rank]} was {beat.position}")
        if has_stacks and beat.stack:
            lines.append(beat.stack)
    return "\n".join(lines)


def _failure(
    ranks: Sequence[int],
    said: str,
    beats: Mapping[int, Beat],
    names: Sequence[str],
    claimer: int,
) -> Failure:
    rank = ranks[0]
    story = f"{names[rank]} {said}: it was {beats[rank].position}"
    others = {other: beats[other] for other in ranks[1:]}
    if others:
        story += f"\nthe same is true of\n{positions(others, names)}"
    return Failure(claimer, rank, story, beats[rank].stack)
