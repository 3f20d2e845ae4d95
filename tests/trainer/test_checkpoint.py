"""Checkpoints: what is in a file, that it is whole, and which one is used."""

import collections
import enum
import json
import logging
import pathlib
import pickle
import random
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import helios
from helios import Model, Plugin, Trainer
from helios.core import TrainingState
from helios.errors import CheckpointError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal
from helios.trainer import find_last_checkpoint, storage

Make = Callable[..., Trainer]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "tiny"


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Callable[..., Any]:
    """Train in a new trainer that saves in ``tmp_path``; return model and trainer."""

    def run(
        model: Model | None = None, data: Any = None, **arguments: Any
    ) -> tuple[TinyModel, Trainer]:
        model = model or TinyModel()
        trainer = make_trainer(**{"chkpt_root": tmp_path, "total_steps": 1, **arguments})
        trainer.fit(model, data or TinyDataModule())
        return model, trainer  # type: ignore[return-value]  # TinyModel, or a subclass

    return run


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(path: pathlib.Path) -> dict[str, Any]:
    payload: dict[str, Any] = torch.load(path, weights_only=True)
    return payload


def rewrite(path: pathlib.Path, **changes: Any) -> None:
    storage.save({**read(path), **changes}, path)


class Keeping(Plugin):
    """Keeps what it is given in its state."""

    def __init__(self, state: Any = None, plug_id: str = "keeping") -> None:
        super().__init__(plug_id)
        self.state = {} if state is None else state
        self.events: list[tuple[str, str]] = []

    def setup(self) -> None: ...

    def on_checkpoint_saved(self, path: pathlib.Path) -> None:
        self.events.append(("saved", path.name))

    def on_checkpoint_loaded(self, path: pathlib.Path) -> None:
        self.events.append(("loaded", path.name))

    def state_dict(self) -> dict[str, Any]:
        return self.state  # type: ignore[no-any-return]  # whatever the test says

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


# What a file is called, and where it lies.


def test_names_in_epochs(fit: Any, folder: pathlib.Path) -> None:
    fit(total_steps=3, chkpt_frequency=2)
    assert names(folder) == ["tiny_epoch_2_iter_12.pth", "tiny_epoch_3_iter_18.pth"]


def test_names_in_iterations(fit: Any, folder: pathlib.Path) -> None:
    fit(train_unit="iteration", total_steps=8, chkpt_frequency=4)
    assert names(folder) == ["tiny_epoch_0_iter_4.pth", "tiny_epoch_1_iter_8.pth"]


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
    found = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.pth")]
    assert found == [pathlib.Path("tiny/tiny_epoch_2_iter_12.pth")]
    assert trainer.chkpt_root == tmp_path


def test_finished_run_is_not_saved_again(fit: Any, folder: pathlib.Path) -> None:
    fit()
    (path,) = folder.iterdir()
    before = path.stat().st_mtime_ns, path.stat().st_ino
    keeping = Keeping()
    fit(plugins=[keeping])
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert keeping.events == [("loaded", path.name)]


# What is in a file.


def test_content(fit: Any, folder: pathlib.Path) -> None:
    keeping = Keeping({"x": torch.arange(3)})
    model, trainer = fit(
        plugins=[keeping], valid_frequency=1, print_frequency=4, train_unit="epoch"
    )
    (path,) = folder.iterdir()
    payload = read(path)
    assert list(payload) == [
        "format",
        "version",
        "name",
        "training_state",
        "epoch",
        "model",
        "validation_due",
        "stops",
        "scalers",
        "metrics",
        "datamodule",
        "rng",
        "plugins",
        "plan",
    ]
    assert payload["format"] == 2
    assert payload["name"] == path.stem
    assert payload["version"] == helios.__version__
    assert payload["training_state"] == trainer.state.dict()
    seed = trainer.random_seed
    assert payload["epoch"] == {"batches": 6, "samples": 22, "batch_size": 4, "seed": seed}
    assert equal(payload["model"], model.state_dict())
    assert payload["metrics"]["newest"] == model.metrics
    assert payload["metrics"]["in_flight"]["counts"] == {"loss": 2}
    assert payload["datamodule"] == {}
    assert [set(rank) for rank in payload["rng"]] == [{"torch", "rand", "numpy"}]
    assert equal(payload["plugins"], [{"keeping": {"x": torch.arange(3)}}])
    assert payload["plan"] == trainer.plan.to_dict()
    assert [entry["id"] for entry in payload["plan"]["active"]] == ["keeping"]


def test_no_id_can_collide_with_a_key(fit: Any, folder: pathlib.Path) -> None:
    ids = ["model", "rng", "format", "plugins"]
    kept = [Keeping({"mine": plug_id}, plug_id) for plug_id in ids]
    whole, _ = fit(plugins=kept, total_steps=2)
    shutil.rmtree(folder)
    fit(plugins=kept)
    resumed = [Keeping({}, plug_id) for plug_id in ids]
    model, _ = fit(plugins=resumed, total_steps=2)
    assert [plugin.state for plugin in resumed] == [{"mine": plug_id} for plug_id in ids]
    assert equal(model.state_dict(), whole.state_dict())


def test_file_loads_where_helios_is_not(fit: Any, folder: pathlib.Path) -> None:
    fit(plugins=[Keeping({"x": [1, "a", None]})], valid_frequency=1, print_frequency=4)
    (path,) = folder.iterdir()
    script = """
        import json, sys
        import torch
        payload = torch.load(sys.argv[1], weights_only=True)
        assert not [name for name in sys.modules if name.partition(".")[0] == "helios"]
        state = payload["training_state"]
        print(json.dumps([type(state).__name__, state["global_iteration"], payload["plugins"]]))
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(child.stdout) == ["dict", 6, [{"keeping": {"x": [1, "a", None]}}]]


def test_file_holds_nothing_of_this_machine(fit: Any, folder: pathlib.Path) -> None:
    fit(print_frequency=2)
    (path,) = folder.iterdir()
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        content = archive.read(pickled)
    assert str(folder.parent).encode() not in content
    assert b"helios." not in content


def test_devices_of_another_machine(fit: Any, folder: pathlib.Path) -> None:
    # weights that were saved on a GPU load where there is none
    fit()
    (path,) = folder.iterdir()
    assert storage.load(path, "meta")["model"]["net"]["0.weight"].device.type == "meta"


def test_restored_run_does_not_depend_on_the_file_any_more(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    class Overwriting(Keeping):
        """Spoils the file from which the run was restored, as a full disk or a copy may do."""

        def on_checkpoint_loaded(self, path: pathlib.Path) -> None:
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.write(bytes(size))

    def train(plugin: Any, root: pathlib.Path, stop_after: int | None) -> Any:
        model = TinyModel()
        make_trainer(chkpt_root=root, plugins=[plugin, StopAfter(stop_after)]).fit(
            model, TinyDataModule()
        )
        return model.state_dict(), plugin.state

    kept = {"x": torch.arange(5000.0)}
    whole = train(Keeping(kept), tmp_path / "whole", None)
    train(Keeping(kept), tmp_path / "cut", 4)
    assert equal(train(Overwriting(), tmp_path / "cut", None), whole)


# Plain state.


class Color(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: int


class MyDict(dict[str, Any]):
    pass


class MyInt(int):
    pass


IMPURE = {
    # where, and what -> the entry named
    "enum": (Color.RED, "test_checkpoint.Color"),
    "object": (random.Random(0), "random.Random"),
    "namedtuple": (Point(1), "test_checkpoint.Point"),
    "dict subclass": (MyDict(), "test_checkpoint.MyDict"),
    "int subclass": (MyInt(1), "test_checkpoint.MyInt"),
    "numpy array": (np.zeros(1), "numpy.ndarray"),
    "numpy number": (np.float64(1.0), "numpy.float64"),
    "path": (pathlib.PurePosixPath("x"), "pathlib.PurePosixPath"),
    "function": (len, "builtins.builtin_function_or_method"),
    "class": (TinyModel, "abc.ABCMeta"),
}


@pytest.mark.parametrize("what", IMPURE)
def test_state_that_is_not_plain_is_refused(fit: Any, folder: pathlib.Path, what: str) -> None:
    value, kind = IMPURE[what]
    with pytest.raises(CheckpointError) as caught:
        fit(plugins=[Keeping({"a": [0, {"b": value}]})])
    message = str(caught.value)
    assert "['plugins'][0]['keeping']['a'][1]['b']" in message
    assert kind in message
    assert "State must be plain" in message
    assert names(folder) == []


def test_key_that_is_not_plain_is_refused(fit: Any) -> None:
    with pytest.raises(CheckpointError, match=r"\['keeping'\]\['a'\], key <Color\.RED: 1>"):
        fit(plugins=[Keeping({"a": {Color.RED: 1}})])


def test_state_of_the_model_is_checked(fit: Any) -> None:
    class Impure(TinyModel):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "mode": Color.RED}

    with pytest.raises(CheckpointError, match=r"\['model'\]\['mode'\]: it is a .*Color"):
        fit(Impure())


def test_numpy_numbers_can_be_logged(fit: Any, folder: pathlib.Path) -> None:
    # a float to every function that takes one; it must not end a run at its first save
    class Logging(TinyModel):
        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.log("score", np.float64(0.5))
            self.log("single", np.float32(0.5))
            return super().train_step(batch, state)

        def valid_step(self, batch: Any, step: int) -> Any:
            self.log("valid score", np.float64(0.25))

    model, _ = fit(Logging(), print_frequency=4, valid_frequency=1)
    assert model.metrics == {"valid score": 0.25}
    assert names(folder) == ["tiny_epoch_1_iter_6.pth"]


TENSORS = st.sampled_from(
    [
        torch.arange(4),
        torch.tensor(1.5),
        torch.zeros(0),
        torch.ones(2, 2, dtype=torch.bfloat16),
        torch.tensor([True]),
        torch.tensor([1 + 2j]),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(min_size=1)
    | st.sampled_from([torch.float32, torch.device("cpu"), torch.Size([2, 3])])
    | TENSORS
)
KEYS = st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.none()
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(KEYS, inner).map(collections.OrderedDict)
        | st.sets(st.integers() | st.text("ab"))
    ),
    max_leaves=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(state=PLAIN)
def test_what_can_be_saved_can_be_loaded(tmp_path: pathlib.Path, state: Any) -> None:
    storage.save({"state": state}, tmp_path / "x.pth")
    assert equal(storage.load(tmp_path / "x.pth")["state"], state)


@pytest.mark.parametrize("state", [b"", 2**5000], ids=["no bytes", "huge number"])
def test_what_cannot_be_loaded_is_refused_when_saved(tmp_path: pathlib.Path, state: Any) -> None:
    # plain in Python's eyes, but not in those of torch.load(weights_only=True)
    try:
        storage.save({"state": state}, tmp_path / "x.pth")
    except CheckpointError as error:
        assert "['state']" in str(error)  # noqa: PT017 - saving it properly is as good
    else:
        assert storage.load(tmp_path / "x.pth")["state"] == state


# Whole files, or none.


class DiskFull(OSError):
    pass


@pytest.mark.parametrize("moment", ["writing", "syncing", "renaming"])
def test_failing_save_leaves_the_file_before(
    fit: Any, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    fit()
    (path,) = folder.iterdir()
    before = path.read_bytes()
    real = torch.save

    def half(payload: Any, file: Any) -> None:
        real({"model": payload["model"]}, file)
        raise DiskFull("no space left")

    def fail(*arguments: Any) -> None:
        raise DiskFull("no space left")

    if moment == "writing":
        monkeypatch.setattr(torch, "save", half)
    else:
        monkeypatch.setattr(storage.os, {"syncing": "fsync", "renaming": "replace"}[moment], fail)
    with pytest.raises(DiskFull):
        fit(total_steps=2)
    monkeypatch.undo()
    assert names(folder) == [path.name]
    assert path.read_bytes() == before
    assert fit(total_steps=2)[1].state.running_iter == 6


def test_failing_save_in_place_of_a_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save({"x": 1}, path)
    real = torch.save

    def half(payload: Any, file: Any) -> None:
        real(payload, file)
        file.truncate(file.tell() // 2)
        raise DiskFull

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(DiskFull):
        storage.save({"x": 2}, path)
    assert names(tmp_path) == [path.name]
    assert storage.load(path) == {"x": 1}


@pytest.mark.parametrize("fault", ["cut", "changed"])
def test_save_that_does_not_read_back_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    real = torch.save

    def wrong(payload: Any, file: Any) -> None:
        real(payload, file)
        middle = file.tell() // 2  # inside of the tensor
        if fault == "cut":
            file.truncate(middle)
        else:
            file.seek(middle)
            file.write(b"?")
        file.seek(0, 2)

    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save({"x": 1}, path)
    monkeypatch.setattr(torch, "save", wrong)
    with pytest.raises(CheckpointError, match="is damaged"):
        storage.save({"x": torch.zeros(1000)}, path)
    assert storage.load(path) == {"x": 1}


def test_save_is_on_the_disk_before_it_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(storage.os, name)

        def call(*arguments: Any, name: str = name, real: Any = real) -> Any:
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(storage.os, name, call)
    storage.save({"x": 1}, tmp_path / "x.pth")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_leftovers_of_killed_saves_are_removed(fit: Any, folder: pathlib.Path) -> None:
    folder.mkdir()
    (folder / "tiny_epoch_9_iter_9.pth.tmp").write_bytes(b"half")
    (folder / "notes.tmp").write_text("the user's own")
    fit()
    assert names(folder) == ["notes.tmp", "tiny_epoch_1_iter_6.pth"]


# Damaged files.


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


DAMAGE = {
    "flipped in the middle": lambda content: flip(content, len(content) // 2),
    "flipped at the beginning": lambda content: flip(content, 1),
    "flipped at the end": lambda content: flip(content, len(content) - 12),
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "a tenth": lambda content: content[: len(content) // 10],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not a checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_is_skipped(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    fit(total_steps=2, chkpt_frequency=1)
    newest = folder / "tiny_epoch_2_iter_12.pth"
    whole = newest.read_bytes()
    newest.write_bytes(DAMAGE[damage](whole))
    caplog.clear()
    keeping = Keeping()
    _, trainer = fit(total_steps=2, plugins=[keeping])
    assert keeping.events == [("loaded", "tiny_epoch_1_iter_6.pth"), ("saved", newest.name)]
    assert trainer.state.running_iter == 6
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    skipped = [message for message in warnings if str(newest) in message]
    assert len(skipped) == 1
    assert "is damaged" in skipped[0]
    assert "skipped" in skipped[0]
    assert equal(read(newest)["model"], trainer.model.state_dict())  # it has been written again


def test_all_damaged_starts_anew(fit: Any, folder: pathlib.Path) -> None:
    fit()
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert fit()[1].state.running_iter == 6


def test_any_damage_is_found_or_harmless(tmp_path: pathlib.Path) -> None:
    payload = {"x": torch.arange(5), "name": "a" * 20}
    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save(payload, path)
    content = path.read_bytes()
    faults = []
    found = 0
    directory = content.index(b"PK\x01\x02")  # where a byte can mean most
    for position in [*range(0, directory, 9), *range(directory, len(content))]:
        path.write_bytes(flip(content, position))
        try:
            usable = find_last_checkpoint(tmp_path) is not None
            if usable and not equal(storage.load(path), payload):
                faults.append((position, "other data than was saved, and no complaint"))
            found += not usable
        except CheckpointError:
            faults.append((position, "not skipped, but cannot be loaded"))
        except Exception as error:
            faults.append((position, repr(error)))
    assert faults == []
    assert found > 100


def test_any_cut_is_found(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x_epoch_1_iter_1.pth"
    storage.save({"x": torch.arange(5)}, path)
    content = path.read_bytes()
    for length in [*range(0, len(content), 9), len(content) - 1]:
        path.write_bytes(content[:length])
        assert find_last_checkpoint(tmp_path) is None


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


# Refusals.


def test_future_format_is_refused(fit: Any, folder: pathlib.Path) -> None:
    fit()
    (path,) = folder.iterdir()
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
    (path,) = folder.iterdir()
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


class Malicious:
    """Runs code when it is unpickled in the usual way."""

    def __init__(self, marker: pathlib.Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (self._marker,)


def test_malicious_file_is_refused(fit: Any, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fit()
    (path,) = folder.iterdir()
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


@pytest.mark.parametrize("train_size", [6, 12])
def test_smaller_training_set_is_refused(fit: Any, train_size: int) -> None:
    fit(plugins=[StopAfter(4)])
    with pytest.raises(CheckpointError, match=r"after batch 4 of an epoch.* now has \d batches"):
        fit(data=TinyDataModule(train_size=train_size))


@pytest.mark.parametrize("change", [{"train_size": 30}, {"batch_size": 3}, {"batch_size": 5}])
def test_changed_training_set_is_refused_inside_an_epoch(fit: Any, change: dict[str, int]) -> None:
    # the order of the samples is another one, so the position means nothing
    fit(plugins=[StopAfter(4)])
    with pytest.raises(CheckpointError, match="restore the data"):
        fit(data=TinyDataModule(**change))


def test_changed_training_set_is_welcome_between_epochs(fit: Any) -> None:
    fit()
    _, trainer = fit(data=TinyDataModule(train_size=30), total_steps=2)
    assert trainer.state.global_iteration == 6 + 8


class Renamed(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.network = self.net
        del self.net


class Larger(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.extra = torch.nn.Linear(1, 1)


class Smaller(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self._scheduler = self.scheduler
        del self.scheduler


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Renamed, r"holds nothing for Renamed\.network\. Did you mean 'net'\?.*restore the attr"),
        (Larger, r"holds nothing for Larger\.extra\..*override load_state_dict"),
        (Smaller, r"a state for Smaller\.scheduler, which the model does not have after setup"),
    ],
)
def test_model_with_other_attributes_is_refused(
    fit: Any, model: type[TinyModel], message: str
) -> None:
    fit()
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        fit(model())


def test_model_with_other_shapes_names_the_attribute(fit: Any) -> None:
    class Wider(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.net = self.prepare(torch.nn.Sequential(torch.nn.Linear(4, 2)))
            self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)

    fit()
    with pytest.raises(Exception, match=r"net") as caught:
        fit(Wider())
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "Wider.net" in told


# Plug-ins that come and go.


def test_state_of_an_absent_plugin_is_carried_along(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(plugins=[Keeping({"n": 1})])
    fit(total_steps=2)  # without it
    assert "- 'keeping' was active (not installed) and is not; its state" in caplog.text
    assert read(folder / "tiny_epoch_2_iter_12.pth")["plugins"] == [{"keeping": {"n": 1}}]
    fit(total_steps=3)  # carried along once more
    back = Keeping()
    fit(total_steps=4, plugins=[back])
    assert back.state == {"n": 1}


def test_new_plugin_is_reported(
    fit: Any, folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit()
    new = Keeping({"n": 7})
    fit(total_steps=2, plugins=[new])
    assert "+ 'keeping' is active (not installed) and was not" in caplog.text
    assert new.state == {"n": 7}


def test_plugin_without_state_is_not_asked_to_load(fit: Any) -> None:
    class Stateless(Plugin):
        def __init__(self) -> None:
            super().__init__("stateless")

        def setup(self) -> None: ...

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            raise AssertionError("there is nothing to load")

    fit(plugins=[Stateless()])
    fit(total_steps=2, plugins=[Stateless()])


def test_plugin_that_lost_its_load_is_told_so(fit: Any) -> None:
    class Half:
        """A plain object that has a state, and no way back."""

        def __init__(self, loses: bool) -> None:
            if not loses:
                self.load_state_dict = lambda state_dict: None

        @helios.hookimpl
        def on_training_start(self) -> None: ...

        def state_dict(self) -> dict[str, Any]:
            return {"n": 1}

    fit(plugins=[Half(loses=False)])
    with pytest.raises(Exception, match="load_state_dict") as caught:
        fit(total_steps=2, plugins=[Half(loses=True)])
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "plug-in 'Half'" in told
