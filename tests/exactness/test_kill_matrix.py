"""A run that is killed at any moment and started again is, to the bit, the run that was not."""

import concurrent.futures
import itertools
import pathlib
import queue
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from killing import Scenario, Server, differences

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught, and fork"
)

SCHEDULERS = ["none", "step", "epoch", "plateau"]
MATRIX = [
    Scenario(
        unit=unit,
        accumulation=accumulation,
        shuffle=shuffle,
        workers=workers,
        precision=precision,
        phases=number % 3 != 0,
        scheduler=SCHEDULERS[number % 4],
    )
    for number, (unit, accumulation, shuffle, precision, workers) in enumerate(
        itertools.product(["epoch", "iteration"], [1, 3], [True, False], ["fp32", "bf16"], [0, 2])
    )
]


class Pool:
    """Runs cut runs side by side, and says which of them ended differently."""

    def __init__(self, servers: list[Server]) -> None:
        self._free: queue.SimpleQueue[Server] = queue.SimpleQueue()
        for server in servers:
            self._free.put(server)
        self._threads = concurrent.futures.ThreadPoolExecutor(len(servers))

    def run(self, scenario: Scenario, root: pathlib.Path, **options: Any) -> dict[str, Any]:
        """Train to the end in a fresh process."""
        server = self._free.get()
        try:
            result = server.run(scenario, root, **options)
            assert result is not None
            return result
        finally:
            self._free.put(server)

    def mismatches(
        self,
        scenario: Scenario,
        root: pathlib.Path,
        cuts: list[list[int]],
        stop_after: int | None = None,
    ) -> dict[str, list[str]]:
        """Kill the run at each of the cuts, resume it, and compare it with the whole run."""
        whole = self.run(scenario, root / "whole")

        def cut(kills: list[int]) -> list[str]:
            server = self._free.get()
            try:
                folder = root / "-".join(map(str, kills))
                return differences(whole, server.cut(scenario, folder, kills, stop_after))
            finally:
                self._free.put(server)

        outcomes = zip(cuts, self._threads.map(cut, cuts), strict=True)
        return {str(kills): outcome for kills, outcome in outcomes if outcome}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Server() as first, Server() as second:
        yield Pool([first, second])


@pytest.mark.parametrize("scenario", MATRIX, ids=str)
def test_killed_in_each_batch(pool: Pool, tmp_path: pathlib.Path, scenario: Scenario) -> None:
    """Each batch is cut at another of its moments; with workers, which are slow, each fifth."""
    moments = pool.run(scenario, tmp_path / "moments")["moments"]
    starts = [number for number, name in enumerate(moments) if name == "batch starts"]
    assert len(starts) == 15
    shift = MATRIX.index(scenario)
    cuts = []
    for batch, (start, end) in enumerate(itertools.pairwise([*starts, len(moments)])):
        if scenario.workers == 0 or (batch + shift) % 5 == 0:
            cuts.append([start + (shift + 3 * batch) % (end - start)])
    assert pool.mismatches(scenario, tmp_path, cuts) == {}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_killed_at_every_moment(pool: Pool, tmp_path: pathlib.Path, unit: str) -> None:
    scenario = Scenario(
        unit=unit, scheduler="plateau", precision="fp16", phases=True, epochs=2, accumulation=2
    )
    moments = pool.run(scenario, tmp_path / "moments")["moments"]
    kinds = {"before the step", "in validation", "saving: os.rename", "saved", "epoch ends"}
    assert kinds <= set(moments)
    cuts = [[number] for number in range(len(moments))]
    assert pool.mismatches(scenario, tmp_path, cuts) == {}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize(("accumulation", "stop_after"), [(1, 3), (1, 10), (3, 7), (3, 5)])
def test_killed_while_it_leaves_for_a_stop(
    pool: Pool, tmp_path: pathlib.Path, unit: str, accumulation: int, stop_after: int
) -> None:
    scenario = Scenario(unit=unit, accumulation=accumulation, scheduler="step")
    stopped = pool.run(scenario, tmp_path / "stopped", stop_after=stop_after)["moments"]
    requested = [n for n, name in enumerate(stopped) if name == "batch ends"][stop_after - 1]
    cuts = [[number] for number in range(requested, len(stopped))]
    assert pool.mismatches(scenario, tmp_path, cuts, stop_after) == {}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize("kills", [[40, 10], [30, 30, 30], [50, 3, 0, 20]], ids=str)
def test_killed_again_and_again(
    pool: Pool, tmp_path: pathlib.Path, unit: str, kills: list[int]
) -> None:
    scenario = Scenario(unit=unit, accumulation=2, phases=True, scheduler="epoch")
    assert pool.mismatches(scenario, tmp_path, [kills]) == {}
