"""The links to the newest and the best checkpoint, and how many a run keeps by default."""

import math
import os
import pathlib
from typing import Any

import pytest
from helpers import files, names, read
from variants import Scripted

from helios.testing import StopAfter, TinyDataModule, TinyModel

JUDGED = {"best": ("accuracy", "max"), "valid_frequency": 1}


def target(link: pathlib.Path) -> str | None:
    """Return the name that a link holds; ``None`` without a link."""
    return os.readlink(link) if link.is_symlink() else None


def epochs(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.stem.split("_")[2]) for path in files(folder, "*.pth"))


def test_links_name_the_newest_and_the_best(fit: Any, folder: pathlib.Path) -> None:
    seen: list[Any] = []
    for count, best in ((1, 1), (2, 2), (3, 2), (4, 4)):  # see the results of Scripted
        fit(Scripted(), total_steps=count, chkpt_frequency=1, keep_best=1, **JUDGED)
        seen.append((target(folder / "last.pth"), target(folder / "best.pth")))
        assert seen[-1][0].startswith(f"tiny_epoch_{count}_")
        assert read(folder / "best.pth")["training_state"]["global_epoch"] in (best, best - 1)
    assert not any("/" in name for pair in seen for name in pair)


def test_folder_may_move(
    fit: Any, folder: pathlib.Path, make_trainer: Any, tmp_path: pathlib.Path
) -> None:
    fit(total_steps=2, chkpt_frequency=1)
    moved = tmp_path / "moved"
    folder.rename(moved)
    trainer = make_trainer()
    trainer.test(TinyModel(), TinyDataModule(), checkpoint=moved / "last.pth")
    assert trainer.state.global_epoch == 2


def test_no_link_names_other_weights_than_the_best(fit: Any, folder: pathlib.Path) -> None:
    """If nobody saves the best weights, an older file is not called the best."""
    arguments = {"chkpt_frequency": 4, "accumulation_steps": 1, **JUDGED}
    fit(Scripted(), total_steps=1, chkpt_frequency=1, **JUDGED)
    assert target(folder / "best.pth") == target(folder / "last.pth")
    fit(Scripted(), total_steps=3, **arguments)  # the second validation was the best
    assert target(folder / "best.pth") is None
    assert target(folder / "last.pth") == "tiny_epoch_3_iter_18.pth"


def test_deleted_best_checkpoint_has_no_link(fit: Any, folder: pathlib.Path) -> None:
    fit(Scripted(), total_steps=3, chkpt_frequency=1, keep_last=1, **JUDGED)
    assert target(folder / "best.pth") is None
    assert names(folder) == ["tiny_epoch_3_iter_18.pth"]


def test_file_of_the_user_stays(fit: Any, folder: pathlib.Path) -> None:
    folder.mkdir()
    (folder / "best.pth").write_text("mine")
    fit(total_steps=1, **JUDGED)
    assert (folder / "best.pth").read_text() == "mine"
    assert target(folder / "last.pth") == "tiny_epoch_1_iter_6.pth"


def test_run_without_links_in_its_file_system(
    fit: Any, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    fit(total_steps=2, chkpt_frequency=1)
    assert sorted(path.name for path in folder.glob("*")) == names(folder)


# The default number of checkpoints.


def test_frequent_checkpoints_are_kept_by_default(
    fit: Any, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Scripted()
    model.values = (0.1, 0.9, *[0.5] * 9)
    fit(model, total_steps=11, chkpt_frequency=1, print_banner=True, **JUDGED)
    assert epochs(folder) == [2, 9, 10, 11]
    said = [line for line in capsys.readouterr().out.splitlines() if "keep_last" in line]
    assert said == [
        "of 11 checkpoints, the 3 newest and the best one are kept (keep_last=3 by default): pass"
        ' keep_last="all" to keep all'
    ]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({"keep_last": "all"}, [*range(1, 12)]),
        ({"keep_last": "all", "keep_best": 1, **JUDGED}, [*range(1, 12)]),
        ({"total_steps": 10}, [*range(1, 11)]),
        ({"keep_last": 5}, [7, 8, 9, 10, 11]),
        ({"keep_best": 1, **JUDGED}, [1, 11]),
    ],
)
def test_other_numbers(
    fit: Any,
    folder: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    arguments: dict[str, Any],
    kept: list[int],
) -> None:
    class Worse(Scripted):
        values = tuple(range(20, 0, -1))

    defaults = {"total_steps": 11, "chkpt_frequency": 1, "print_banner": True}
    fit(Worse(), **{**defaults, **arguments})
    assert epochs(folder) == kept
    assert "by default" not in capsys.readouterr().out


def test_run_that_has_kept_all_keeps_all(fit: Any, folder: pathlib.Path) -> None:
    fit(total_steps=8, chkpt_frequency=1)
    fit(total_steps=14, chkpt_frequency=1)
    assert epochs(folder) == [*range(1, 15)]


def test_resumed_run_with_the_default(fit: Any, folder: pathlib.Path) -> None:
    for _ in range(3):
        fit(total_steps=math.inf, chkpt_frequency=1, plugins=[StopAfter(20)])
    assert epochs(folder) == [8, 9, 10]
