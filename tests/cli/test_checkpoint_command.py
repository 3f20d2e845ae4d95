"""``helios checkpoint show`` and ``migrate``, on the files of real runs."""

import json
import pathlib
from typing import Any

import pytest
import torch
from helpers import files
from typer.testing import CliRunner, Result

import helios
from helios import Plugin, Trainer
from helios.checkpoints import storage
from helios.cli.app import app
from helios.testing import TinyDataModule, TinyModel, equal


class Keeping(Plugin):
    def __init__(self) -> None:
        super().__init__("keeping")

    def setup(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"x": torch.zeros(5)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@pytest.fixture
def folder(tmp_path: pathlib.Path, make_trainer: Any) -> pathlib.Path:
    trainer: Trainer = make_trainer(
        chkpt_root=tmp_path, chkpt_frequency=1, valid_frequency=1, plugins=[Keeping()]
    )
    trainer.fit(TinyModel(), TinyDataModule())
    return tmp_path / "tiny"


@pytest.fixture
def newest(folder: pathlib.Path) -> pathlib.Path:
    return folder / "tiny_epoch_2_iter_12.pth"


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["checkpoint", *map(str, arguments)])


def make_format_1(path: pathlib.Path) -> dict[str, Any]:
    payload = storage.load(path)
    for key in ("name", "validation_due", "stops", "scalers"):
        del payload[key]
    del payload["metrics"]["running_losses"]
    torch.save({**payload, "format": 1}, path)
    return payload


def test_show(newest: pathlib.Path) -> None:
    result = run("show", newest)
    assert result.exit_code == 0, result.output
    for line in (
        f"file: {newest}",
        "checksum: right",
        "format: 2",
        f"version: {helios.__version__}",
        "name: tiny_epoch_2_iter_12",
        "  current_iteration: 12",
        "  batches: 6",
        "parameters: 58",  # 4 x 8 + 8, and 8 x 2 + 2
        "  model.net: 232",
        "  plugins: 20",
        "plug-ins with state: keeping",
        "  1  keeping  not installed  passed in Trainer(plugins=...)",
    ):
        assert line in result.output.splitlines()


def test_show_for_programs(newest: pathlib.Path) -> None:
    facts = json.loads(run("show", newest, "--json").output)["checkpoint"]
    assert facts["counters"]["global_iteration"] == 12
    assert facts["metrics"].keys() == {"accuracy"}
    assert facts["parameters"] == 58
    assert facts["bytes"] == newest.stat().st_size
    assert facts["bytes of tensors"]["model.optimizer"] == 232  # the momenta
    assert [entry["id"] for entry in facts["plan"]["active"]] == ["keeping"]


def test_show_of_format_1(newest: pathlib.Path) -> None:
    make_format_1(newest)
    output = run("show", newest).output
    assert "format: 1\n" in output
    assert "checksum: none, but its parts are whole" in output


def test_show_of_a_damaged_file(newest: pathlib.Path) -> None:
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    result = run("show", newest)
    assert result.exit_code == 1
    assert f"the checkpoint {newest} is damaged: its checksum is wrong" in result.output


def test_show_of_a_newer_format(newest: pathlib.Path) -> None:
    storage.save({**storage.load(newest), "format": 9, "version": "7.0"}, newest)
    result = run("show", newest)
    assert result.exit_code == 1
    assert "written by Helios 7.0 in format 9" in result.output


@pytest.mark.parametrize("command", ["show", "migrate"])
def test_wrong_usage(command: str, tmp_path: pathlib.Path) -> None:
    assert run(command, tmp_path / "missing.pth").exit_code == 2
    assert run(command).exit_code == 2


def test_folder_without_checkpoints(newest: pathlib.Path) -> None:
    result = run("migrate", newest.parent.parent)
    assert result.exit_code == 1
    assert "holds no checkpoints" in result.output
    assert "<chkpt_root>/<save_name>" in result.output


def test_show_of_what_a_run_would_skip(newest: pathlib.Path) -> None:
    torch.save(storage.load(newest), newest)  # the checksum is gone
    result = run("show", newest)
    assert result.exit_code == 1
    assert "has no checksum, so a run would treat it as damaged" in result.output


def test_migrate_a_file(newest: pathlib.Path) -> None:
    payload = make_format_1(newest)
    before = newest.read_bytes()
    result = run("migrate", newest)
    assert result.exit_code == 0, result.output
    assert result.output == f"{newest}: migrated from format 1 to 2\n"
    assert storage.verify(newest)
    migrated = storage.load(newest)
    assert (migrated.pop("format"), migrated.pop("name")) == (2, newest.stem)
    assert (migrated.pop("validation_due"), migrated.pop("scalers")) == (False, {})
    assert migrated.pop("stops") == []
    assert migrated["metrics"].pop("running_losses") == {}
    del payload["format"]
    assert equal(migrated, payload)
    assert newest.with_name(newest.name + ".original").read_bytes() == before
    assert run("migrate", newest).output == f"{newest}: has format 2 already\n"


def test_migrate_without_keeping_the_original(newest: pathlib.Path) -> None:
    make_format_1(newest)
    assert run("migrate", newest, "--discard-original").exit_code == 0
    assert len(list(files(newest.parent))) == 2
    assert storage.verify(newest)


def test_migrate_does_not_overwrite_an_original(newest: pathlib.Path) -> None:
    make_format_1(newest)
    newest.with_name(newest.name + ".original").write_text("of an earlier migration")
    result = run("migrate", newest)
    assert result.exit_code == 1
    assert "File exists" in result.output
    assert storage.peek(newest)["format"] == 1


def test_migrate_gives_a_checksum(newest: pathlib.Path) -> None:
    torch.save(storage.load(newest), newest)  # as a user does after a change by hand
    assert run("migrate", newest).output == f"{newest}: checksum added\n"
    assert storage.verify(newest)


def test_migrate_a_folder(folder: pathlib.Path, newest: pathlib.Path) -> None:
    older = folder / "tiny_epoch_1_iter_6.pth"
    make_format_1(older)
    newest.write_bytes(newest.read_bytes()[:1000])
    result = run("migrate", folder)
    assert result.exit_code == 1  # for the damaged one
    assert f"{older}: migrated from format 1 to 2" in result.output
    assert f"the checkpoint {newest} is damaged" in result.output
    assert storage.load(older)["format"] == 2
