"""The names of checkpoints: what a file is called, where it lies, and which one is the newest."""

import pathlib
from typing import Any

import pytest
import torch
from helpers import Keeping, Make, files, names

from helios.checkpoints import storage
from helios.testing import StopAfter, TinyDataModule, TinyModel
from helios.trainer import find_last_checkpoint

# What a file is called, and where it lies.


def test_names_in_epochs(fit: Any, folder: pathlib.Path) -> None:
    fit(total_steps=3, chkpt_frequency=2)
    assert names(folder) == ["tiny_epoch_2_iter_12.pth", "tiny_epoch_3_iter_18.pth"]


def test_names_in_iterations(fit: Any, folder: pathlib.Path) -> None:
    fit(train_unit="iteration", total_steps=8, chkpt_frequency=4)
    assert names(folder) == ["tiny_epoch_0_iter_4.pth", "tiny_epoch_1_iter_8.pth"]


def test_end_of_an_epoch_is_saved_once_in_iterations(fit: Any, folder: pathlib.Path) -> None:
    class Counting(TinyModel):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            self.metrics["ended"] = current_epoch + 1

    fit(Counting(), train_unit="iteration", total_steps=12, chkpt_frequency=3, valid_frequency=6)
    assert names(folder) == [
        "tiny_epoch_0_iter_3.pth",
        "tiny_epoch_1_iter_6.pth",
        "tiny_epoch_1_iter_9.pth",
        "tiny_epoch_2_iter_12.pth",
    ]
    assert storage.load(folder / "tiny_epoch_2_iter_12.pth")["metrics"]["newest"]["ended"] == 2


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_stop_at_the_end_of_an_epoch_is_saved_once(
    fit: Any, folder: pathlib.Path, unit: str, accumulation: int
) -> None:
    class Stopping(TinyModel):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            self.trainer.request_stop("enough")

    arguments = {"train_unit": unit, "total_steps": 12, "accumulation_steps": accumulation}
    _, trainer = fit(Stopping(), chkpt_frequency=1, valid_frequency=1, **arguments)
    newest = f"_iter_{trainer.state.current_iteration}.pth"
    assert sum(name.endswith(newest) for name in names(folder)) == 1


def test_optimizer_steps_are_counted_in_the_name(fit: Any, folder: pathlib.Path) -> None:
    fit(accumulation_steps=4)
    assert names(folder) == ["tiny_epoch_1_iter_2.pth"]


def test_last_checkpoint_is_saved_without_a_frequency(fit: Any, folder: pathlib.Path) -> None:
    fit(plugins=[StopAfter(4)])
    assert names(folder) == ["tiny_epoch_0_iter_4.pth"]


def test_model_adds_to_the_name(fit: Any, folder: pathlib.Path) -> None:
    class Named(TinyModel):
        def append_metadata_to_chkpt_name(self, chkpt_name: str) -> str:
            return f"{chkpt_name}_loss-0.5"

    fit(Named())
    assert names(folder) == ["tiny_epoch_1_iter_6_loss-0.5.pth"]
    _, trainer = fit(Named(), total_steps=2)
    assert trainer.state.running_iter == 6
    assert "tiny_epoch_2_iter_12_loss-0.5.pth" in names(folder)


def test_folder_of_the_run_holds_the_checkpoints(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    arguments = {"total_steps": 1, "run_root": tmp_path / "run"}
    make_trainer(**arguments).fit(TinyModel(), TinyDataModule())
    assert (tmp_path / "run/checkpoints/tiny/tiny_epoch_1_iter_6.pth").is_file()
    make_trainer(**arguments, chkpt_root=tmp_path / "own").fit(TinyModel(), TinyDataModule())
    assert (tmp_path / "own/tiny/tiny_epoch_1_iter_6.pth").is_file()


def test_nothing_is_written_without_a_folder(
    make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer()
    trainer.fit(TinyModel(), TinyDataModule())
    trainer.test(TinyModel(), TinyDataModule())
    assert list(tmp_path.iterdir()) == []


def test_many_runs_of_one_trainer_use_one_folder(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    trainer = make_trainer(chkpt_root=tmp_path)
    for run in (trainer.fit, trainer.test, trainer.fit, trainer.test):
        run(TinyModel(), TinyDataModule())
    found = [path.relative_to(tmp_path) for path in files(tmp_path, "**/*.pth")]
    assert found == [pathlib.Path("tiny/tiny_epoch_2_iter_12.pth")]
    assert trainer.chkpt_root == tmp_path


def test_finished_run_is_not_saved_again(fit: Any, folder: pathlib.Path) -> None:
    fit()
    (path,) = files(folder)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    keeping = Keeping()
    fit(plugins=[keeping])
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert keeping.events == [("loaded", path.name)]


# Which one is the newest.


@pytest.mark.parametrize(
    ("positions", "newest"),
    [
        ([(2, 12), (10, 60)], (10, 60)),  # as numbers, not as text
        ([(1, 900), (2, 12)], (2, 12)),  # by epoch, then by iteration
        ([(3, 18), (3, 100), (3, 20)], (3, 100)),
        ([(0, 4)], (0, 4)),
    ],
)
def test_newest(
    tmp_path: pathlib.Path, positions: list[tuple[int, int]], newest: tuple[int, int]
) -> None:
    for epoch, iteration in positions:
        storage.save({}, tmp_path / f"m_epoch_{epoch}_iter_{iteration}.pth")
    wanted = tmp_path / "m_epoch_{}_iter_{}.pth".format(*newest)
    assert find_last_checkpoint(tmp_path) == wanted


def test_nothing_to_find(tmp_path: pathlib.Path) -> None:
    assert find_last_checkpoint(None) is None
    assert find_last_checkpoint(tmp_path) is None
    assert find_last_checkpoint(tmp_path / "missing") is None
    torch.save({}, tmp_path / "other.pth")
    torch.save({}, tmp_path / "x_epoch_1_iter_1.pt")
    assert find_last_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "name", ["epoch", "iter", "my_epoch_9_iter_99", "epoch_7_iter", "x_epoch_50"]
)
def test_save_name_with_words_of_the_position(fit: Any, tmp_path: pathlib.Path, name: str) -> None:
    fit(TinyModel(name), total_steps=2, chkpt_frequency=1)
    newest = tmp_path / name / f"{name}_epoch_2_iter_12.pth"
    assert find_last_checkpoint(tmp_path / name) == newest
    _, trainer = fit(TinyModel(name), total_steps=3)
    assert trainer.state.running_iter == 6


def test_models_do_not_share_a_folder(fit: Any, tmp_path: pathlib.Path) -> None:
    fit(TinyModel("one"), total_steps=2)
    assert fit(TinyModel("two"))[1].state.running_iter == 6
