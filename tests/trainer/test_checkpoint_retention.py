"""Which checkpoints are kept, and that nothing else is ever deleted."""

import logging
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make, files

from helios import Trainer
from helios.checkpoints import storage
from helios.errors import ConfigurationError
from helios.testing import StopAfter, TinyDataModule, TinyModel
from helios.trainer import find_last_checkpoint


class Improving(TinyModel):
    """Improves in the validations of these numbers, counted from 0."""

    def __init__(self, *cycles: int, save_name: str = "tiny") -> None:
        super().__init__(save_name)
        self._cycles = cycles

    def have_metrics_improved(self) -> bool:
        return self.trainer.state.validation_cycles in self._cycles


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Callable[..., Trainer]:
    def run(model: TinyModel | None = None, epochs: int = 5, **arguments: Any) -> Trainer:
        defaults = {"chkpt_frequency": 1, "valid_frequency": 1, "chkpt_root": tmp_path}
        trainer = make_trainer(**{**defaults, "total_steps": epochs, **arguments})
        trainer.fit(model or Improving(), TinyDataModule())
        return trainer

    return run


def epochs(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.stem.split("_")[2]) for path in files(folder, "*.pth"))


def test_everything_is_kept_by_default(fit: Any, folder: pathlib.Path) -> None:
    fit()
    assert epochs(folder) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("arguments", "improving", "kept"),
    [
        ({"keep_last": 1}, [], [5]),
        ({"keep_last": 3}, [0], [3, 4, 5]),
        ({"keep_last": 9}, [], [1, 2, 3, 4, 5]),
        ({"keep_last": 1, "keep_best": 1}, [0, 1], [2, 5]),
        ({"keep_last": 2, "keep_best": 2}, [0, 1, 2], [2, 3, 4, 5]),
        ({"keep_last": 2, "keep_best": 2}, [0, 4], [1, 4, 5]),
        ({"keep_best": 1}, [1], [2, 5]),  # the newest one, too
        ({"keep_best": 2}, [], [5]),
    ],
)
def test_what_is_kept(
    fit: Any, folder: pathlib.Path, arguments: Any, improving: Any, kept: Any, is_async: bool
) -> None:
    fit(Improving(*improving), async_checkpoints=is_async, **arguments)
    assert epochs(folder) == kept


def test_best_is_of_the_moment_of_its_validation(fit: Any, folder: pathlib.Path) -> None:
    # validations after epochs 2 and 4; the weights of epoch 3 were never validated
    fit(Improving(0), valid_frequency=2, keep_last=1, keep_best=2)
    assert epochs(folder) == [2, 5]


def test_without_a_validation_nothing_is_the_best(fit: Any, folder: pathlib.Path) -> None:
    fit(Improving(0, 1, 2, 3, 4), valid_frequency=None, keep_last=1, keep_best=3)
    assert epochs(folder) == [5]


def test_resumed_run_knows_the_best(fit: Any, folder: pathlib.Path) -> None:
    keep = {"keep_last": 1, "keep_best": 1}
    fit(Improving(0), epochs=2, **keep)
    fit(Improving(), epochs=4, **keep)
    assert epochs(folder) == [1, 4]
    fit(Improving(4), epochs=5, **keep)
    assert epochs(folder) == [5]


def test_checkpoints_from_before_are_counted(fit: Any, folder: pathlib.Path) -> None:
    fit(epochs=3)
    fit(epochs=4, keep_last=2)
    assert epochs(folder) == [3, 4]


def test_checkpoints_of_format_1_are_counted(fit: Any, folder: pathlib.Path) -> None:
    fit(Improving(0), epochs=3)
    for path in files(folder):
        payload = storage.load(path)
        for key in ("name", "validation_due", "stops", "scalers", "validated", "run"):
            del payload[key]
        del payload["metrics"]["running_losses"]
        torch.save({**payload, "format": 1}, path)
    fit(Improving(), epochs=4, keep_last=2, keep_best=1)
    assert epochs(folder) == [1, 3, 4]


class Named(Improving):
    def append_metadata_to_chkpt_name(self, chkpt_name: str) -> str:
        return f"{chkpt_name}_v{self.trainer.state.validation_cycles}"


def test_names_with_additions_are_counted(fit: Any, folder: pathlib.Path) -> None:
    fit(Named(), epochs=3, keep_last=2)
    fit(Named(), epochs=4, keep_last=2)
    names = sorted(path.name for path in files(folder))
    assert names == ["tiny_epoch_3_iter_18_v3.pth", "tiny_epoch_4_iter_24_v4.pth"]


def test_only_own_files_are_deleted(fit: Any, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fit(epochs=2)
    first = folder / "tiny_epoch_1_iter_6.pth"
    fit(Improving(save_name="other"), epochs=1)
    strangers = [
        shutil.copy(first, folder / "tiny_epoch_1_iter_6_submitted.pth"),  # somebody's copy
        shutil.copy(first, folder / "tiny_epoch_0_iter_6.pth"),
        shutil.copy(tmp_path / "other/other_epoch_1_iter_6.pth", folder),  # of another model
        shutil.copy(first, folder / "tiny_epoch_1_iter_6.pth.original"),
        folder / "tiny_epoch_0_iter_1.pth",
        folder / "tiny_epoch_0_iter_2.pth",
        folder / "notes.pth",
        folder / "tiny_epoch_0_iter_3.pth",
    ]
    torch.save([1, 2], strangers[4])  # of another program
    strangers[5].write_bytes(b"damaged")
    strangers[6].write_bytes(b"text")
    strangers[7].mkdir()
    fit(epochs=4, keep_last=1)
    left = {path.name for path in files(folder)}
    assert left == {pathlib.Path(path).name for path in strangers} | {"tiny_epoch_4_iter_24.pth"}
    assert (tmp_path / "other/other_epoch_1_iter_6.pth").exists()


def test_damaged_newest_does_not_cost_the_good_one(fit: Any, folder: pathlib.Path) -> None:
    fit(epochs=3)
    damaged = [folder / "tiny_epoch_2_iter_12.pth", folder / "tiny_epoch_3_iter_18.pth"]
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1  # in a tensor: it can be read, but is wrong
        path.write_bytes(content)
    # goes on from the first epoch, and is stopped before it reaches the damaged ones
    fit(epochs=3, keep_last=1, plugins=[StopAfter(2)])
    good = folder / "tiny_epoch_1_iter_8.pth"
    assert sorted(files(folder)) == [good, *damaged]  # those are for the user to look at
    assert find_last_checkpoint(folder) == good


def test_one_that_is_gone_already_is_no_error(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    real = pathlib.Path.unlink

    def come_late(path: pathlib.Path, missing_ok: bool = False) -> None:
        if path.suffix == ".pth":
            os.unlink(path)  # by another process, just before
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(pathlib.Path, "unlink", come_late)
    fit(epochs=3, keep_last=1)
    assert epochs(folder) == [3]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_one_that_cannot_be_deleted_is_reported(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    real = pathlib.Path.unlink

    def refuse(path: pathlib.Path, missing_ok: bool = False) -> None:
        if path.name == "tiny_epoch_1_iter_6.pth":
            raise PermissionError(1, "Operation not permitted")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(pathlib.Path, "unlink", refuse)  # root may delete anything, for real
    fit(epochs=3, keep_last=1)
    assert epochs(folder) == [1, 3]
    assert f"{folder}/tiny_epoch_1_iter_6.pth cannot be deleted: Operation not" in caplog.text


@pytest.mark.parametrize("name", ["keep_last", "keep_best"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_wrong_numbers_are_refused(make_trainer: Make, name: str, value: Any) -> None:
    message = rf"{name}={value!r}: write a whole number of at least 1, or remove it"
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(**{name: value}, chkpt_root="x")


@pytest.mark.parametrize("name", ["keep_last", "keep_best"])
def test_keeping_without_a_folder_is_refused(make_trainer: Make, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}=2 without a folder .* chkpt_root="):
        make_trainer(**{name: 2})
