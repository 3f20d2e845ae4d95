"""The content of a checkpoint, which needs neither Helios nor this machine."""

import json
import pathlib
import re
import shutil
import subprocess
import textwrap
import zipfile
from typing import Any

import torch
from helpers import Keeping, Make, files, read

import helios
from helios.checkpoints import storage
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


def test_content(fit: Any, folder: pathlib.Path) -> None:
    keeping = Keeping({"x": torch.arange(3)})
    model, trainer = fit(
        plugins=[keeping], valid_frequency=1, print_frequency=4, train_unit="epoch"
    )
    (path,) = files(folder)
    payload = read(path)
    assert list(payload) == [
        "format",
        "version",
        "name",
        "virtual_ranks",
        "training_state",
        "epoch",
        "window",
        "optimizers",
        "model",
        "validation_due",
        "stop_reasons",
        "stops",
        "scalers",
        "metrics",
        "virtual_logs",
        "plugin_versions",
        "datamodule",
        "validated",
        "run",
        "hyper_parameters",
        "changes",
        "rng",
        "plugins",
        "plan",
    ]
    assert payload["format"] == 2
    assert payload["name"] == path.stem
    assert payload["version"] == helios.__version__
    assert payload["training_state"] == trainer.state.dict()
    seed = trainer.random_seed
    sizes = {"batches": 6, "samples": 22, "batch_size": 4}
    assert payload["epoch"] == {**sizes, "seed": seed, "samples_seed": seed}
    assert payload["optimizers"]["optimizer"]["class"] == "SGD"
    assert payload["optimizers"]["optimizer"]["groups"][0]["momentum"] == 0.9
    assert equal(payload["model"], model.state_dict())
    assert payload["metrics"]["newest"] == model.metrics
    assert payload["metrics"]["in_flight"]["weights"] == {"loss": 4 + 2}
    assert payload["datamodule"] == {}
    empty = {"attributes": {}, "requires_grad": {}, "modes": {}, "groups": {}, "gradients": {}}
    assert payload["changes"] == [empty]
    assert [set(rank) for rank in payload["rng"]] == [{"torch", "rand", "numpy"}]
    assert equal(payload["plugins"], [{"keeping": {"x": torch.arange(3)}}])
    assert payload["plan"] == trainer.plan.to_dict()
    assert [entry["id"] for entry in payload["plan"]["active"]] == ["keeping"]


def test_the_docs_have_each_key(fit: Any, folder: pathlib.Path) -> None:
    fit()
    (path,) = files(folder)
    page = (pathlib.Path(__file__).parents[2] / "docs/checkpoints.md").read_text(encoding="utf-8")
    table = page.partition("| key | contents |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(read(path))


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


def test_file_loads_where_helios_is_not(fit: Any, folder: pathlib.Path, python: list[str]) -> None:
    fit(plugins=[Keeping({"x": [1, "a", None]})], valid_frequency=1, print_frequency=4)
    (path,) = files(folder)
    script = """
        import json, sys
        import torch
        payload = torch.load(sys.argv[1], weights_only=True)
        assert not [name for name in sys.modules if name.partition(".")[0] == "helios"]
        state = payload["training_state"]
        print(json.dumps([type(state).__name__, state["global_iteration"], payload["plugins"]]))
    """
    child = subprocess.run(
        [*python, "-c", textwrap.dedent(script), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(child.stdout) == ["dict", 6, [{"keeping": {"x": [1, "a", None]}}]]


def test_file_holds_nothing_of_this_machine(fit: Any, folder: pathlib.Path) -> None:
    fit(print_frequency=2)
    (path,) = files(folder)
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        content = archive.read(pickled)
    assert str(folder.parent).encode() not in content
    assert b"helios." not in content


def test_devices_of_another_machine(fit: Any, folder: pathlib.Path) -> None:
    # weights that were saved on a GPU load where there is none
    fit()
    (path,) = files(folder)
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
