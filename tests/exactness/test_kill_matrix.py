"""A run that is killed at any moment and started again is, to the bit, the run that was not."""

import dataclasses
import itertools
import pathlib
import random
import signal

import pytest
from killing import Pool, Scenario, random_scenario

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


@pytest.mark.parametrize("scenario", MATRIX, ids=str)
def test_killed_in_each_batch(pool: Pool, tmp_path: pathlib.Path, scenario: Scenario) -> None:
    """Each batch is cut at another of its moments; with workers, which are slow, each fifth."""
    whole = pool.run(scenario, tmp_path / "whole")
    moments = whole["moments"]
    starts = [number for number, name in enumerate(moments) if name == "batch starts"]
    assert len(starts) == 15
    shift = MATRIX.index(scenario)
    cuts = []
    for batch, (start, end) in enumerate(itertools.pairwise([*starts, len(moments)])):
        if scenario.workers == 0 or (batch + shift) % 5 == 0:
            cuts.append([start + (shift + 3 * batch) % (end - start)])
    assert pool.mismatches(scenario, tmp_path, cuts, whole) == {}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_killed_at_every_moment(pool: Pool, tmp_path: pathlib.Path, unit: str) -> None:
    scenario = Scenario(
        unit=unit, scheduler="plateau", precision="fp16", phases=True, epochs=2, accumulation=2
    )
    whole = pool.run(scenario, tmp_path / "whole")
    moments = whole["moments"]
    kinds = {"before the step", "in validation", "saving: os.rename", "saved", "epoch ends"}
    assert kinds <= set(moments)
    cuts = [[number] for number in range(len(moments))]
    assert pool.mismatches(scenario, tmp_path, cuts, whole) == {}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize(("accumulation", "stop_after"), [(1, 10), (3, 7)])
def test_killed_while_it_leaves_for_a_stop(
    pool: Pool, tmp_path: pathlib.Path, unit: str, accumulation: int, stop_after: int
) -> None:
    scenario = Scenario(unit=unit, accumulation=accumulation, scheduler="step")
    stopped = pool.run(scenario, tmp_path / "stopped", stop_after=stop_after)["moments"]
    requested = [n for n, name in enumerate(stopped) if name == "batch ends"][stop_after - 1]
    cuts = [[number] for number in range(requested, len(stopped))]
    assert pool.mismatches(scenario, tmp_path, cuts, stop_after=stop_after) == {}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize("kills", [[40, 10], [30, 30, 30], [50, 3, 0, 20]], ids=str)
def test_killed_again_and_again(
    pool: Pool, tmp_path: pathlib.Path, unit: str, kills: list[int]
) -> None:
    scenario = Scenario(unit=unit, accumulation=2, phases=True, scheduler="epoch")
    assert pool.mismatches(scenario, tmp_path, [kills]) == {}


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize("seed", range(6))
def test_random_models(pool: Pool, tmp_path: pathlib.Path, unit: str, seed: int) -> None:
    """Attributes of all kinds change in all hooks; kills and saves fall anywhere between them."""
    choose = random.Random(f"{unit} {seed}")
    scenario = dataclasses.replace(
        random_scenario(choose), unit=unit, workers=0, epochs=choose.randint(2, 3), changes=seed
    )
    whole = pool.run(scenario, tmp_path / "whole")
    moments = whole["moments"]
    cuts = [[kill] for kill in choose.sample(range(len(moments)), 3)]
    cuts.append([choose.randrange(len(moments) // 2), choose.randrange(20)])
    assert pool.mismatches(scenario, tmp_path, cuts, whole) == {}


@pytest.mark.parametrize(("unit", "accumulation"), [("epoch", 3), ("iteration", 1)])
def test_preempted_at_every_other_moment(
    pool: Pool, tmp_path: pathlib.Path, unit: str, accumulation: int
) -> None:
    """SIGTERM is caught everywhere: in steps, in saves, and in validations, which are repeated."""
    scenario = Scenario(
        unit=unit, accumulation=accumulation, scheduler="plateau", phases=True, epochs=2
    )
    options = {"number": signal.SIGTERM}
    moments = pool.run(scenario, tmp_path / "moments", **options)["moments"]
    caught = range(moments.index("training starts"), moments.index("teardown"))
    assert len(caught) > 50
    cuts = [[number] for number in caught[::2]]
    assert pool.mismatches(scenario, tmp_path, cuts, **options) == {}
