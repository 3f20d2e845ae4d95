"""The trained weights of a checkpoint in a file of safetensors, for other programs."""

import pathlib
import sys
from typing import Any

import pytest
import torch
from helpers import Make
from torch import nn
from typer.testing import CliRunner

from helios.checkpoints import storage
from helios.checkpoints.export import export_weights
from helios.cli.app import app
from helios.errors import CheckpointError, ConfigurationError
from helios.plugins.builtin.swa import SWAPlugin
from helios.testing import TinyDataModule, TinyModel, equal

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


class Two(TinyModel):
    """Has two networks that share a layer, and states that are no networks."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.other = {"head": nn.Sequential(self.net[2], nn.BatchNorm1d(2))}
        self.generator = torch.Generator().manual_seed(1)
        self.options = {"width": torch.tensor(3)}


def read(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, by name in order."""
    return dict(sorted(safetensors.load_file(path).items()))


def in_order(state: Any) -> dict[str, torch.Tensor]:
    return dict(sorted(state.items()))


def saved(make_trainer: Make, root: pathlib.Path, model: Any, *plugins: Any) -> pathlib.Path:
    make_trainer(plugins=plugins, run_root=root).fit(model, TinyDataModule())
    (path,) = root.rglob("*epoch_2_iter_12.pth")
    return path


def test_one_network_has_the_names_of_its_state(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    model = TinyModel()
    path = saved(make_trainer, tmp_path, model)
    names = export_weights(path, tmp_path / "new" / "net.safetensors")
    assert names == list(model.net.state_dict())
    assert equal(read(tmp_path / "new" / "net.safetensors"), in_order(model.net.state_dict()))
    with safetensors.safe_open(tmp_path / "new" / "net.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["checkpoint"] == "tiny_epoch_2_iter_12"
    assert (metadata["format"], metadata["global_epoch"]) == ("pt", "2")
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["net.safetensors"]


def test_several_networks_have_their_attribute_in_front(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    model = Two()
    path = saved(make_trainer, tmp_path, model)
    export_weights(path, tmp_path / "all.safetensors")
    networks = {"net": model.net, "other.head": model.other["head"]}
    expected = {f"{n}.{k}": t for n, net in networks.items() for k, t in net.state_dict().items()}
    assert equal(read(tmp_path / "all.safetensors"), in_order(expected))
    arguments = ["export", path, tmp_path / "head.safetensors", "--network", "other.head"]
    result = CliRunner().invoke(app, ["checkpoint", *map(str, arguments)])
    assert result.output == f"{tmp_path / 'head.safetensors'}: 7 tensors\n"
    head = safetensors.load_file(tmp_path / "head.safetensors")
    model.other["head"].load_state_dict(head)


def test_averages_of_a_plug_in(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    model, plugin = TinyModel(), SWAPlugin(0)
    path = saved(make_trainer, tmp_path / "swa", model, plugin)
    export_weights(path, tmp_path / "mean.safetensors", averages="swa")
    assert equal(read(tmp_path / "mean.safetensors"), in_order(plugin.averages("net")))
    ema = pytest.importorskip("helios_ema").EMAPlugin(0.5)
    path = saved(make_trainer, tmp_path / "ema", TinyModel(), ema)
    export_weights(path, tmp_path / "ema.safetensors", averages="ema")
    expected = ema.averages["net"].module.state_dict()
    assert equal(read(tmp_path / "ema.safetensors"), in_order(expected))


def test_what_is_not_there_is_refused(
    make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = saved(make_trainer, tmp_path, Two(), SWAPlugin(0)), tmp_path / "x.safetensors"
    with pytest.raises(ConfigurationError, match=r"no network 'nett'.*Did you mean 'net'\?"):
        export_weights(path, target, network="nett")
    with pytest.raises(ConfigurationError, match=r"no averages of a plug-in 'ema'.* in it: swa"):
        export_weights(path, target, averages="ema")
    payload = storage.load(path)
    storage.save({**payload, "model": {"optimizer": payload["model"]["optimizer"]}}, path)
    with pytest.raises(CheckpointError, match="the checkpoint has no network, which is an entry"):
        export_weights(path, target)
    result = CliRunner().invoke(app, ["checkpoint", "export", str(path), str(target)])
    assert result.exit_code == 1
    assert "the checkpoint has no network" in result.output
    assert not target.exists()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ConfigurationError, match="needs safetensors, which is not installed: pip"):
        export_weights(path, target)
