"""What is refused: at start, when a name is made, and when a file is no proper checkpoint."""

import os
import pathlib
import pickle
import shutil
import subprocess
import tempfile
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make, files, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helios import Trainer
from helios.checkpoints import folder as folders
from helios.checkpoints import migrations, storage
from helios.errors import CheckpointError, ConfigurationError
from helios.testing import TinyDataModule, TinyModel


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Callable[..., Trainer]:
    def run(model: TinyModel | None = None, **arguments: Any) -> Trainer:
        trainer = make_trainer(**{"chkpt_root": tmp_path, "total_steps": 1, **arguments})
        trainer.fit(model or TinyModel(), TinyDataModule())
        return trainer

    return run


# At start.


class Untouched(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        raise AssertionError("nothing is set up where nothing can be saved")


def test_folder_that_cannot_be_created(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    trainer = make_trainer(chkpt_root=tmp_path / "file/x")
    (tmp_path / "file").write_text("in the way")  # later, or the trainer would refuse its argument
    message = rf"cannot be saved in {tmp_path}/file/x/tiny: Not a directory.* as chkpt_root"
    with pytest.raises(ConfigurationError, match=message):
        trainer.fit(Untouched(), TinyDataModule())


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users, which this system has not")
@pytest.mark.parametrize("inside", [".", "new/tiny", "closed/tiny"])
def test_folder_that_cannot_be_written(inside: str) -> None:
    with tempfile.TemporaryDirectory() as root:  # the one of pytest is its owner's alone
        path = pathlib.Path(root)
        (path / "closed").mkdir(mode=0o000)
        path.chmod(0o555)
        user = os.geteuid()
        try:
            if user == 0:  # may write anywhere
                os.seteuid(65534)
            with pytest.raises(ConfigurationError, match=rf"saved in {path}.*: Permission denied"):
                folders.claim(path / inside)
        finally:
            os.seteuid(user)
            path.chmod(0o755)


def test_folder_without_space(
    fit: Any, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit()
    (path,) = files(folder)
    size = path.stat().st_size
    free = types.SimpleNamespace(free=size - 1)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: free)
    fit()  # it is finished, and saves nothing
    message = rf"does not fit in {folder}: the newest takes {size:,} bytes, and {size - 1:,} are"
    with pytest.raises(CheckpointError, match=message):
        fit(total_steps=2)


def test_folder_that_is_taken_away_is_made_again(fit: Any, folder: pathlib.Path) -> None:
    class Tidying(TinyModel):
        def on_training_epoch_start(self, current_epoch: int) -> None:
            shutil.rmtree(folder)

    fit(Tidying(), total_steps=2, chkpt_frequency=1)
    assert [path.name for path in files(folder)] == ["tiny_epoch_2_iter_12.pth"]


def test_testing_leaves_a_folder_alone(
    fit: Any, make_trainer: Make, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    fit()
    written = folder / "tiny_epoch_2_iter_12.pth.tmp"
    written.write_bytes(b"by a training that is running meanwhile")
    make_trainer(chkpt_root=tmp_path).test(TinyModel(), TinyDataModule())
    assert written.exists()


@pytest.mark.parametrize("name", ["a/b", "../elsewhere", "..", ".", "/root", "x" * 250])
def test_save_name_that_is_no_name(fit: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"save_name='{name}' of TinyModel cannot be"):
        fit(TinyModel(name))


# Names.


@pytest.mark.parametrize(
    "change",
    [
        lambda name: "best",
        lambda name: None,
        lambda name: f"best_{name}",
        lambda name: f"{name}5",  # another iteration
        lambda name: f"{name}_epoch_9_iter_9",
        lambda name: f"{name}/../../escaped",
        lambda name: f"../{name}",
        lambda name: f"{name}_{'x' * 230}",
    ],
)
def test_name_that_would_not_be_found_again(
    fit: Any, folder: pathlib.Path, change: Callable[[str], Any]
) -> None:
    class Named(TinyModel):
        def append_metadata_to_chkpt_name(self, chkpt_name: str) -> str:
            return change(chkpt_name)  # type: ignore[no-any-return]  # wrong ones, too

    with pytest.raises(ConfigurationError) as caught:
        fit(Named())
    assert "Named.append_metadata_to_chkpt_name('tiny_epoch_1_iter_6') returned" in str(
        caught.value
    )
    assert "append a short text without separators" in str(caught.value)
    assert list(files(folder)) == []
    assert list(files(folder.parent)) == [folder]


# Formats.


def test_format_1_is_brought_up_to_date(fit: Any, folder: pathlib.Path) -> None:
    fit()
    (path,) = files(folder)
    payload = storage.load(path)
    for key in ("name", "validation_due", "stops", "scalers"):
        del payload[key]
    del payload["metrics"]["running_losses"]
    torch.save({**payload, "format": 1}, path)  # it did not ask for a checksum
    trainer = fit(total_steps=2)
    assert trainer.state.running_iter == 6
    upgraded = migrations.migrate({**payload, "format": 1}, path)
    assert (upgraded["format"], upgraded["name"]) == (2, path.stem)


def test_newer_format_that_lacks_our_keys_is_newer(fit: Any, folder: pathlib.Path) -> None:
    folder.mkdir()
    storage.save({"format": 7, "version": "9.9"}, folder / "tiny_epoch_1_iter_6.pth")
    with pytest.raises(CheckpointError, match=r"Helios 9\.9 in format 7.* reads up to format 2"):
        fit()


def test_file_of_helios_ml_is_named(
    fit: Any, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TrainingState:
        """Stands for the class of the same name in its files."""

    TrainingState.__module__ = "helios.trainer"
    TrainingState.__qualname__ = "TrainingState"
    monkeypatch.setattr("helios.trainer.TrainingState", TrainingState)
    folder.mkdir()
    path = folder / "tiny_epoch_1_iter_6.pth"
    torch.save({"version": "1.1.0", "training_state": TrainingState(), "model": {}}, path)
    with pytest.raises(
        CheckpointError, match=r"was written by helios-ml.*\n?.*Load its weights"
    ) as c:
        fit()
    assert str(path) in str(c.value)


def test_lost_checksum_is_found(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit()
    (path,) = files(folder)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\nhelios sha256 ")])
    trainer = fit()
    assert trainer.state.running_iter == 6  # anew
    assert f"{path} is damaged: it has no checksum" in caplog.text


def test_file_loads_where_helios_cannot_be_imported(
    fit: Any, folder: pathlib.Path, python: list[str]
) -> None:
    fit(valid_frequency=1)
    (path,) = files(folder)
    script = (
        "import sys, torch; sys.modules['helios'] = None\n"
        "payload = torch.load(sys.argv[1], weights_only=True)\n"
        "print(payload['format'], payload['name'], payload['training_state']['global_epoch'])"
    )
    command = [*python, "-c", script, str(path)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["2", path.stem, "1"]


# Files that are not what they should be.


def rewrite(path: pathlib.Path, **changes: Any) -> None:
    storage.save({**read(path), **changes}, path)


def test_future_format_is_refused(fit: Any, folder: pathlib.Path) -> None:
    fit()
    (path,) = files(folder)
    rewrite(path, format=3, version="9.9")
    with pytest.raises(CheckpointError) as caught:
        fit()
    message = str(caught.value)
    assert str(path) in message
    assert "Helios 9.9 in format 3" in message
    assert "reads up to format 2" in message


@pytest.mark.parametrize(
    "key",
    ["format", "training_state", "model", "metrics", "datamodule", "rng", "plugins", "plan"],
)
def test_missing_key_is_refused(fit: Any, folder: pathlib.Path, key: str) -> None:
    fit()
    (path,) = files(folder)
    payload = read(path)
    del payload[key]
    storage.save(payload, path)
    with pytest.raises(CheckpointError) as caught:
        fit()
    assert str(path) in str(caught.value)
    assert f"nothing under {key}" in str(caught.value)


def test_file_of_another_program_is_refused(fit: Any, folder: pathlib.Path) -> None:
    folder.mkdir()
    torch.save([1, 2], folder / "tiny_epoch_1_iter_1.pth")
    with pytest.raises(CheckpointError, match="holds a list, not a checkpoint"):
        fit()


# Malice.


class Malicious:
    """Runs code when it is unpickled in the usual way."""

    def __init__(self, marker: pathlib.Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (self._marker,)


def test_malicious_file_is_refused(fit: Any, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fit()
    (path,) = files(folder)
    marker = tmp_path / "executed"
    payload = read(path)
    torch.save({**payload, "model": Malicious(marker)}, path)
    with pytest.raises(CheckpointError) as caught:
        fit()
    assert str(path) in str(caught.value)
    assert "Remove it" in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have been
    assert marker.exists()


def test_bare_pickle_is_not_executed(
    fit: Any, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder.mkdir()
    marker = tmp_path / "executed"
    (folder / "tiny_epoch_1_iter_1.pth").write_bytes(pickle.dumps(Malicious(marker)))
    fit()  # not even an archive: damaged, thus skipped
    assert not marker.exists()


def test_malicious_file_with_a_right_checksum_is_refused(
    fit: Any, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    fit(total_steps=2, chkpt_frequency=1)
    path, marker = folder / "tiny_epoch_2_iter_12.pth", tmp_path / "executed"
    payload = storage.load(path)
    with storage._File(path) as file:  # as save() would, did it not refuse to
        torch.save({**payload, "plan": Malicious(marker)}, file)
        file.seal()
    assert storage.verify(path)
    with pytest.raises(CheckpointError) as caught:
        fit(total_steps=3)
    assert str(path) in str(caught.value)
    assert "could run code" in str(caught.value)
    assert "Remove it to resume from the previous checkpoint" in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it would have been
    assert marker.exists()


# Damage, as a run meets it.


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """The checkpoints of a run, the older and the newer one."""
    root = tmp_path_factory.mktemp("two")
    arguments: dict[str, Any] = {"total_steps": 2, "chkpt_frequency": 1, "use_cpu": True}
    Trainer(chkpt_root=root, print_banner=False, autoload=False, **arguments).fit(
        TinyModel(), TinyDataModule()
    )
    older, newer = sorted(files(root / "tiny"))
    return older, newer


def check_detected(two: tuple[pathlib.Path, pathlib.Path], content: bytes, caplog: Any) -> None:
    """Whatever has become of the newer file, the older one is used, and a warning names it."""
    older, newer = two
    whole = newer.read_bytes()
    caplog.clear()
    try:
        newer.write_bytes(content)
        found = folders.load_last_checkpoint(newer.parent)
    finally:
        newer.write_bytes(whole)
    assert found is not None
    assert found[0] == older
    assert found[1]["training_state"]["global_epoch"] == 1
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"the checkpoint {newer} is damaged" in warning
    assert "It is skipped" in warning


def test_bytes_flipped_anywhere_are_found(two: Any, caplog: pytest.LogCaptureFixture) -> None:
    content = two[1].read_bytes()
    end = len(content) - 600  # the archive's directory, and the checksum
    for position in [*range(0, end, 61), *range(end, len(content), 3)]:
        flipped = bytearray(content)
        flipped[position] ^= 0x01
        check_detected(two, bytes(flipped), caplog)


def test_cuts_anywhere_are_found(two: Any, caplog: pytest.LogCaptureFixture) -> None:
    content = two[1].read_bytes()
    for length in [*range(0, len(content) - 200, 211), *range(len(content) - 200, len(content))]:
        check_detected(two, content[:length], caplog)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_found(two: Any, caplog: pytest.LogCaptureFixture, data: Any) -> None:
    content = two[1].read_bytes()
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start, len(content)))
    damaged = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    if damaged != content:
        check_detected(two, damaged, caplog)
