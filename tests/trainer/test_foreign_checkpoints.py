"""Files that Helios did not write, or that somebody has changed, under the name of a checkpoint."""

import logging
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Keeping, Make, files, names

from helios import Trainer
from helios.checkpoints import storage
from helios.checkpoints.migrations import migrate
from helios.checkpoints.retention import Retention
from helios.errors import CheckpointError, DamagedCheckpointError
from helios.testing import TinyDataModule, TinyModel

Train = Callable[..., Trainer]


@pytest.fixture
def train(make_trainer: Make, tmp_path: pathlib.Path) -> Train:
    def run(steps: int = 1, **arguments: Any) -> Trainer:
        trainer = make_trainer(total_steps=steps, chkpt_root=tmp_path, **arguments)
        trainer.fit(TinyModel(), TinyDataModule())
        return trainer

    return run


# Foreign archives.


def archive(path: pathlib.Path, compression: int) -> bytearray:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("data", b"0123456789" * 100)
    return bytearray(path.read_bytes())


def encrypted(path: pathlib.Path) -> None:
    content = archive(path, zipfile.ZIP_STORED)
    content[6] |= 1  # the flag in the header of the part, and in the directory
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def damaged(compression: int) -> Callable[[pathlib.Path], None]:
    def write(path: pathlib.Path) -> None:
        content = archive(path, compression)
        start = 30 + len("data")
        content[start : start + 12] = b"\xff" * 12
        path.write_bytes(content)

    return write


FOREIGN = {
    "encrypted": encrypted,
    "damaged, zlib": damaged(zipfile.ZIP_DEFLATED),
    "damaged, bz2": damaged(zipfile.ZIP_BZIP2),
    "damaged, lzma": damaged(zipfile.ZIP_LZMA),
    "damaged, stored": damaged(zipfile.ZIP_STORED),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file_is_skipped_with_a_warning(
    train: Train, folder: pathlib.Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    train()
    FOREIGN[kind](folder / "tiny_epoch_9_iter_9.pth")
    with caplog.at_level(logging.WARNING, "helios"):
        trainer = train(2, keep_last=1)
    assert trainer.state.global_epoch == 2
    assert "tiny_epoch_9_iter_9.pth is damaged" in caplog.text
    assert names(folder) == ["tiny_epoch_2_iter_12.pth", "tiny_epoch_9_iter_9.pth"]


# Sealed files with other content.

PARTS = {
    "training_state": [3, None, [], {}, {"global_epoch": "x"}],
    "epoch": [3, None, []],
    "optimizers": [3, {"optimizer": 3}],
    "changes": [3, [], [3]],
    "validation_due": ["no", None],
    "stops": [3, {}],
    "stop_reasons": [3, {}],
    "scalers": [3, []],
    "metrics": [3, {}, {"newest": 3}],
    "rng": [{}, [], [3], [{}]],
    "plugins": [{}, 3, []],
    "window": [3, []],
    "plugin_versions": [3, []],
    "plan": [3, {}, {"active": 3}],
    "validated": [3, [], {"newest": 3, "best": 3}],
    "run": [3, []],
    "name": [3, None],
    "format": ["2", None, 2.5, []],
}
CASES = [(name, value) for name, values in PARTS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=str)
def test_part_of_a_wrong_kind_is_refused_by_name(
    train: Train, folder: pathlib.Path, name: str, value: Any
) -> None:
    train()
    (path,) = files(folder)
    storage.save({**storage.load(path), name: value}, path)
    with pytest.raises(CheckpointError) as caught:
        train(2)
    assert name in str(caught.value) or name == "format"
    assert caught.value.__cause__ is None or repr(name) in str(caught.value)


@pytest.mark.parametrize(("name", "value"), CASES, ids=str)
def test_retention_leaves_such_a_file_alone(
    train: Train, folder: pathlib.Path, name: str, value: Any
) -> None:
    old, new = folder / "tiny_epoch_0_iter_1.pth", folder / "tiny_epoch_1_iter_6.pth"
    train()
    storage.save({**storage.load(new), name: value}, old)
    assert Retention("tiny", 1, 1).delete_superseded(new) == 0


# What three mutants of the code were not noticed by.


def test_damage_while_writing_does_not_replace_the_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that returns other data than was written, without any error."""
    path = tmp_path / "tiny_epoch_0_iter_0.pth"
    storage.save({"weights": [1, 2, 3]}, path)
    before, real = path.read_bytes(), storage.os.fsync

    def lie(descriptor: int) -> None:
        real(descriptor)
        for temporary in tmp_path.glob("*.tmp"):
            content = bytearray(temporary.read_bytes())
            content[len(content) // 2] ^= 255
            temporary.write_bytes(content)

    monkeypatch.setattr(storage.os, "fsync", lie)
    with pytest.raises(DamagedCheckpointError):
        storage.save({"weights": [4, 5, 6]}, path)
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]


def test_retention_looks_at_a_replaced_file_again(train: Train, folder: pathlib.Path) -> None:
    train()
    (path,) = files(folder)
    best = {"batches": 6, "at": "epoch 1"}
    payload = storage.load(path)
    retention = Retention("tiny", 1, 1)
    storage.save({**payload, "validated": {"newest": best, "best": best}}, path)
    retention.delete_superseded(path)
    storage.save({**payload, "validated": {"newest": None, "best": None}}, path)  # in its place
    retention.delete_superseded(path)
    newer = folder / "tiny_epoch_2_iter_12.pth"
    state = {**payload["training_state"], "global_epoch": 2, "current_iteration": 12}
    storage.save({**payload, "training_state": state, "name": newer.stem, "validated": None}, newer)
    assert retention.delete_superseded(newer) == 1  # it is the best no longer
    assert names(folder) == [newer.name]


# States that no file can hold.


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def cyclic(kind: type) -> Any:
    value = kind()
    if kind is dict:
        value["self"] = {"inner": value}
    else:
        value.append([value])
    return value


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (cyclic(list), "contains itself"),
        (cyclic(dict), "contains itself"),
        (nested(5000), "is more than 100 levels deep"),
    ],
    ids=["list", "dict", "deep"],
)
def test_state_without_an_end_is_refused_by_name(
    train: Train, folder: pathlib.Path, state: Any, reason: str, background: bool
) -> None:
    with pytest.raises(CheckpointError, match=rf"entry \[.plugins.\].*mine.*{reason}"):
        train(1, plugins=[Keeping({"mine": state})], async_checkpoints=background)
    assert names(folder) == []


def test_deep_and_shared_states_that_a_file_can_hold(train: Train) -> None:
    shared = [1, 2]
    train(1, plugins=[Keeping({"deep": nested(50), "shared": [shared, shared]})])


def test_list_of_a_model_that_contains_itself(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Cyclic(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.nodes = cyclic(list)

    make_trainer(total_steps=1, chkpt_root=tmp_path).fit(Cyclic(), TinyDataModule())
    assert migrate(storage.load(files(tmp_path / "tiny")[0]), tmp_path)
