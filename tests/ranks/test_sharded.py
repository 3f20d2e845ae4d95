"""Sharded checkpoints of FSDP2: each rank writes its parts, and any number of ranks reads them."""

import json
import pathlib
import pickle
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sharded_runs import (
    CUT,
    END,
    FIRST,
    MOMENTS,
    fit,
    save_in_odd_ways,
    spawn,
    train,
    train_killed,
)
from started_ranks import Started, StartRanks
from typer.testing import CliRunner

from helios.checkpoints import folder, sharded_load, storage, stores
from helios.checkpoints.checksum import of_file
from helios.checkpoints.retention import Retention
from helios.cli.app import app
from helios.errors import CheckpointError

Trained = tuple[pathlib.Path, dict[str, list[dict[str, Any]]]]
SECOND, LAST = "net_epoch_1_iter_6.dcp", "net_epoch_1_iter_7.dcp"
KILLS = ((1, "piece"), (0, "complete"))


@pytest.fixture(scope="module")
def trained(
    python_of_ranks: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    """A folder with runs, and the results of their ranks: ``4-2`` was cut on 4, resumed on 2."""
    root = tmp_path_factory.mktemp("sharded")
    start = StartRanks(python_of_ranks, tmp_path_factory.mktemp("ranks"))
    results: dict[str, list[dict[str, Any]]] = {}
    kills = [f"killed-{victim}-{moment}" for victim, moment in KILLS]

    def run(count: int, *tasks: tuple[str, str | None, int]) -> None:
        ranks = [rank.result for rank in start(count, train, str(root), *tasks)]
        results.update({name: [each[name] for each in ranks] for name, *_ in tasks})

    try:
        swa = ("swa", None, CUT + 3), ("swa-whole", None, END), ("swa-2", "swa", END)
        run(
            2,
            ("2", None, CUT),
            ("2-whole", None, END),
            ("2-2", "2", END),
            *swa,
            ("2-valid", "2", 0),
        )
        run(4, ("4", None, CUT), ("2-4", "2", END))
        run(1, ("1", None, CUT), ("4-1", "4", END), ("1-valid", "2", 0))
        dying = [
            start.start(2, train_killed, str(root / name), victim, moment, 1, None)
            for name, (victim, moment) in zip(kills, KILLS, strict=True)
        ]
        for name, started, (victim, _) in zip(kills, dying, KILLS, strict=True):
            require_killed(started, victim, root / name)
        shutil.copytree(root / "2-whole", root / "damaged", symlinks=True)
        change(root / "damaged" / "net" / LAST / "__1_0.distcp")
        resumed = [(name, None, END) for name in (*kills, "damaged")]
        run(2, ("4-2", "4", END), ("1-2", "1", END), *resumed)
        yield root, results
    finally:
        start.close()


def require_killed(started: Started, victim: int, root: pathlib.Path) -> None:
    """Check that a rank was killed in the second save, and that all others have ended."""
    ranks = started.wait()
    assert ranks[victim].status == -signal.SIGKILL, ranks
    assert all(rank.status != 0 for rank in ranks)
    assert FIRST in {path.name for path in folder.candidates(root / "net")}


def change(path: pathlib.Path) -> None:
    """Change a byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("last", "averages", "metrics"))


# Saving and resuming.


def test_each_rank_writes_its_parts(trained: Trained) -> None:
    root, _ = trained
    names = {path.name for path in (root / "4" / "net").iterdir()}
    assert names == {FIRST, "last.pth"}
    pieces = {path.name for path in (root / "4" / "net" / FIRST).iterdir()}
    assert pieces == {"helios.pt", ".metadata", *(f"__{rank}_0.distcp" for rank in range(4))}
    assert (root / "4" / "net" / "last.pth").resolve().name == FIRST
    assert {path.suffix for path in (root / "1" / "net").iterdir()} == {".pth"}


def test_divided_tensors_are_not_in_the_file_of_rank_zero(trained: Trained) -> None:
    root, _ = trained
    payload = storage.load(root / "4" / "net" / FIRST / "helios.pt")
    weights = payload["model"]["net"]
    assert {name: tuple(each.shape) for name, each in weights.items()} == {
        "0.weight": (5, 3),
        "0.bias": (5,),
        "3.weight": (1, 5),
        "3.bias": (1,),
    }
    assert all(each.is_meta for each in weights.values())
    assert all(each["exp_avg"].is_meta for each in payload["model"]["optimizer"]["state"].values())
    for states in payload["plugins"]:
        averages = states["ema"]["net"]
        assert {name for name, each in averages.items() if not each.is_meta} == {"n_averaged"}


def test_same_number_of_ranks_resumes_bit_for_bit(trained: Trained) -> None:
    _, results = trained
    for name, other in (("2-whole", "2-2"), ("swa-whole", "swa-2")):
        for whole, resumed in zip(results[name], results[other], strict=True):
            assert same(whole, resumed)
            assert resumed["seen"] == whole["seen"][-len(resumed["seen"]) :]


@pytest.mark.parametrize("name", ["4-2", "4-1", "2-2", "2-4", "1-2"])
def test_any_number_of_ranks_resumes_the_same_state(trained: Trained, name: str) -> None:
    _, results = trained
    before, after = results[name[0]], results[name]
    for rank in after:
        assert rank["first"] == before[0]["last"]
        assert rank["first averages"] == before[0]["averages"]
        assert rank["last"] == after[0]["last"] != rank["first"]
    seen = [number for rank in (*before, *after) for number in rank["seen"]]
    assert sorted(number for epoch, number in seen if epoch == 0) == [*range(48)]
    assert len(seen) == len(set(seen)) == 8 * END


def test_validation_reads_a_folder_on_any_number_of_ranks(trained: Trained) -> None:
    _, results = trained
    (alone,) = results["1-valid"]
    assert alone["loss"] > 0
    for rank in results["2-valid"]:
        assert rank == pytest.approx(alone)


# Saves that fail, and damage.


@pytest.mark.parametrize(("victim", "moment"), KILLS)
def test_killed_save_leaves_the_one_before(trained: Trained, victim: int, moment: str) -> None:
    root, results = trained
    name = f"killed-{victim}-{moment}"
    for whole, resumed in zip(results["2-whole"], results[name], strict=True):
        assert same(whole, resumed)
        assert len(resumed["seen"]) == 4 * (END - CUT)
    assert {path.name for path in (root / name / "net").iterdir()} == {
        path.name for path in (root / "2-whole" / "net").iterdir()
    }


@pytest.mark.long
@pytest.mark.parametrize("everybody", [False, True])
@pytest.mark.parametrize(
    ("victim", "moment", "count"),
    [
        *((0, moment, 1) for moment in MOMENTS),
        *((victim, "piece", count) for victim in (0, 1) for count in (5, 23, 61)),
        (1, "synced", 1),
    ],
)
def test_killed_at_each_moment(
    ranks: StartRanks,
    trained: Trained,
    tmp_path: pathlib.Path,
    victim: int,
    moment: str,
    count: int,
    everybody: bool,
) -> None:
    root, marker = tmp_path / "run", tmp_path / "marker"
    told = str(marker) if everybody else None
    started = ranks.start(2, train_killed, str(root), victim, moment, count, told)
    if everybody:
        while not marker.exists():
            assert started.processes[victim].poll() is None
            time.sleep(0.05)
        started.kill()
    else:
        require_killed(started, victim, root)
    resumed = [rank.result["run"] for rank in ranks(2, train, str(tmp_path), ("run", None, END))]
    whole = trained[1]["2-whole"]
    assert all(map(same, whole, resumed))
    assert not [path for path in (root / "net").iterdir() if path.suffix in (".tmp", ".old")]


def test_damaged_newest_folder_is_skipped_on_all_ranks(trained: Trained) -> None:
    _, results = trained
    for whole, resumed in zip(results["2-whole"], results["damaged"], strict=True):
        assert same(whole, resumed)
        assert len(resumed["seen"]) == 4  # one step, from the folder before


@pytest.mark.parametrize(
    ("file", "damage", "problem"),
    [
        ("__0_0.distcp", change, "the checksum of its file __0_0.distcp is wrong"),
        ("__1_0.distcp", pathlib.Path.unlink, "its file __1_0.distcp is missing"),
        ("__1_0.distcp", lambda path: path.write_bytes(b"?"), "has 1 bytes instead of"),
        (".metadata", pathlib.Path.unlink, "its file .metadata is missing"),
        (".metadata", change, "the checksum of its file .metadata is wrong"),
        ("helios.pt", pathlib.Path.unlink, "it has no file helios.pt"),
        ("helios.pt", change, "its checksum is wrong"),
    ],
)
def test_damaged_folder_is_skipped(
    trained: Trained,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    file: str,
    damage: Any,
    problem: str,
) -> None:
    shutil.copytree(trained[0] / "2-whole" / "net", tmp_path / "net", symlinks=True)
    damage(tmp_path / "net" / LAST / file)
    found = folder.load_last_checkpoint(tmp_path / "net")
    assert found is not None
    assert found[0].name == SECOND
    assert problem in caplog.text
    assert "It is skipped; an older one is used" in caplog.text


def test_bad_disk_of_one_rank_fails_on_all(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    for rank in ranks(2, save_in_odd_ways, str(tmp_path)):
        not_shared, error, notes, kept = rank.result
        assert kept == (True, 1, tuple)
        assert "elsewhere does not exist on" in not_shared
        assert "pass a folder of a file system that all nodes share" in not_shared
        assert "No space left on device" in error
        assert "rank 1 could not write its part of the checkpoint net_epoch_1_iter_6.dcp" in notes
    assert {path.name for path in (tmp_path / "full" / "net").iterdir()} == {FIRST, "last.pth"}


class Harm:
    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (pathlib.Path("harm"),)


def test_table_with_code_is_refused(
    trained: Trained, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum is right, since its author may also write the file of Helios."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / FIRST
    shutil.copytree(trained[0] / "2" / "net" / FIRST, path)
    table = path / ".metadata"
    table.write_bytes(pickle.dumps(Harm()))
    payload = storage.load(path / "helios.pt")
    size = table.stat().st_size
    digest = of_file(table, size).decode()
    payload["shards"]["files"][".metadata"] = {"bytes": size, "sha256": digest}
    storage.save(payload, path / "helios.pt")
    with pytest.raises(CheckpointError, match="is refused: it holds more than plain data"):
        stores.load(path)
    assert not (tmp_path / "harm").exists()


# Folders on the disk.


def test_replaced_folder_is_found_at_each_moment(trained: Trained, tmp_path: pathlib.Path) -> None:
    """A save that replaces a folder renames it first, and is then killed or not."""
    net = tmp_path / "net"
    shutil.copytree(trained[0] / "2" / "net", net, symlinks=True)
    (net / FIRST).rename(net / f"{FIRST}.old")
    (net / f"{FIRST}.tmp").mkdir()
    assert folder.find_last_checkpoint(net) == net / f"{FIRST}.old"
    folder.claim(net).release()
    assert {path.name for path in net.iterdir()} == {FIRST, "last.pth"}
    shutil.copytree(net / FIRST, net / f"{FIRST}.old")
    assert folder.candidates(net) == [net / FIRST]
    folder.claim(net).release()
    assert {path.name for path in net.iterdir()} == {FIRST, "last.pth"}


def test_retention_counts_folders(trained: Trained, tmp_path: pathlib.Path) -> None:
    net = tmp_path / "net"
    shutil.copytree(trained[0] / "2-whole" / "net", net, symlinks=True)
    assert [path.name for path in folder.candidates(net)] == [LAST, SECOND, FIRST]
    assert Retention("net", 2, None).delete_superseded(net / LAST) == 1
    assert [path.name for path in folder.candidates(net)] == [LAST, SECOND]


def test_path_of_a_folder(trained: Trained, tmp_path: pathlib.Path) -> None:
    """One process resumes from it, and begins with its weights."""
    root, results = trained
    path = root / "4" / "net" / FIRST
    assert fit(tmp_path / "new", END, resume=path)["first"] == results["4"][0]["last"]
    payload = stores.load(path)
    assert "shards" not in payload
    weights = results["4"][0]["last"]["net"]
    assert payload["model"]["net"]["0.weight"].tolist() == weights["0.weight"]


def test_files_are_those_of_torch(trained: Trained) -> None:
    """The tools of torch.distributed.checkpoint read a folder."""
    from torch.distributed import checkpoint as dcp

    root, results = trained
    tensors = {"model.net.0.weight": torch.zeros(5, 3)}
    with pytest.warns(UserWarning, match="in a single process"):
        dcp.load(tensors, checkpoint_id=root / "4" / "net" / FIRST, no_dist=True)
    assert tensors["model.net.0.weight"].tolist() == results["4"][0]["last"]["net"]["0.weight"]
    assert sharded_load.peek(root / "4" / "net" / FIRST)["name"] == FIRST.removesuffix(".dcp")


def test_model_comes_home_from_spawned_processes(ranks: StartRanks, tmp_path: pathlib.Path) -> None:
    rank = ranks.alone(spawn, str(tmp_path))
    assert rank.result["class"] == "Sequential"
    assert rank.result["home"] == rank.result["saved"]
    assert rank.result["optimizer"]
    assert rank.result["same"]
    assert "has not been trained" not in rank.errors


def test_commands_read_a_folder(trained: Trained, tmp_path: pathlib.Path) -> None:
    root, results = trained
    path, target = root / "2" / "net" / "last.pth", tmp_path / "net.safetensors"
    commands = [("show", path, "--json"), ("migrate", path.resolve()), ("export", path, target)]
    answers = [CliRunner().invoke(app, ["checkpoint", *map(str, each)]) for each in commands]
    assert [each.exit_code for each in answers] == [0, 0, 0], [each.output for each in answers]
    facts = json.loads(answers[0].output)["checkpoint"]
    assert facts["checksum"] == "right"
    assert facts["parameters"] == 5 * 3 + 5 + 5 + 1
    assert facts["bytes"] == stores.size(path) > sum(facts["bytes of tensors"].values())
    assert "has format 2 already" in answers[1].output
    weights = load_file(target)
    assert weights["0.weight"].tolist() == results["2"][0]["last"]["net"]["0.weight"]
    change(shutil.copytree(path.resolve(), tmp_path / FIRST) / "__0_0.distcp")
    damaged = CliRunner().invoke(app, ["checkpoint", "show", str(tmp_path / FIRST)])
    assert damaged.exit_code == 1
    assert "__0_0.distcp is wrong" in damaged.output
