"""Virtual ranks in 1, 2 and 4 processes: the same bits, also after a cut and a resume."""

import itertools
import pathlib
from typing import Any

import pytest
import torch
from started_ranks import StartRanks
from virtual_cases import bits, train

from helios.checkpoints.folder import find_last_checkpoint

CONFIGURATIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("clip",), {}),
    (("weighted", "average"), {"accumulation_steps": 2}),
    (("sgd",), {"precision": "bf16", "virtual_ranks": 8, "accumulation_steps": 3}),
    (("clip",), {"precision": "fp16", "train_unit": "iteration", "total_steps": 7}),
    (("turns", "skip"), {"workers": 1, "total_steps": 1}),
    (("turns", "average"), {"accumulation_steps": 2, "total_steps": 1}),
]


def run_all(folder: str) -> list[Any]:
    """Train all configurations, and return what they did and what their checkpoints hold."""
    root = pathlib.Path(folder)
    return [
        bits([train(options, root=root / str(number), **arguments), content(root / str(number))])
        for number, (options, arguments) in enumerate(CONFIGURATIONS)
    ]


def run(folder: str, stop_after: int | None) -> Any:
    """Train, or resume, one configuration."""
    options, arguments = CONFIGURATIONS[1]
    root = pathlib.Path(folder)
    return bits([train(options, root=root, stop_after=stop_after, **arguments), content(root)])


def content(root: pathlib.Path) -> dict[str, Any]:
    """Return what a checkpoint holds, without what belongs to processes and to time.

    The attributes of a model are those of its process: the losses of its last batch, for example.
    """
    path = find_last_checkpoint(root / "checkpoints" / "varied")
    assert path is not None
    payload: dict[str, Any] = torch.load(path, weights_only=True)
    payload["rng"] = payload["rng"][0]
    payload["training_state"] |= {"average_iter_time": 0, "running_iter": 0}
    of_process = ("plan", "plugins", "run", "changes")
    return {key: item for key, item in payload.items() if key not in of_process}


def test_one_answer(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    (alone,) = ranks(1, run_all, str(tmp_path / "1"))
    taken, skipped = alone.result[4][0]["counts"]
    assert taken > 0
    assert skipped > 0
    for processes in (2, 4):
        for rank in ranks(processes, run_all, str(tmp_path / str(processes))):
            assert rank.result == alone.result


def outcome(ranks: StartRanks, processes: int, folder: pathlib.Path, stop_after: int | None) -> Any:
    """Return what each process of a run has done, which must be the same."""
    results = [each.result for each in ranks(processes, run, str(folder), stop_after)]
    assert all(result == results[0] for result in results)
    return results[0]


def test_resumed_twice_on_other_processes(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    whole, checkpoint = outcome(ranks, 1, tmp_path / "whole", None)
    outcome(ranks, 2, tmp_path / "cut", 3)
    outcome(ranks, 4, tmp_path / "cut", 3)
    resumed, checkpoint_of_resumed = outcome(ranks, 1, tmp_path / "cut", None)
    assert checkpoint_of_resumed == checkpoint
    del resumed["counts"], whole["counts"]  # of the process
    logged = resumed.pop("logged")
    assert logged == whole.pop("logged")[-len(logged) :]
    assert resumed == whole


@pytest.mark.long
@pytest.mark.parametrize(("first", "second"), [*itertools.product((1, 2, 4), repeat=2)])
def test_resumed_at_each_batch(
    ranks: StartRanks, tmp_path: pathlib.Path, first: int, second: int
) -> None:
    whole = outcome(ranks, 1, tmp_path / "whole", None)
    for cut in range(1, 10):
        folder = tmp_path / f"cut-{cut}"
        outcome(ranks, first, folder, cut)
        assert outcome(ranks, second, folder, None)[1] == whole[1]
