"""The beginning of training: resumed, anew beside the old, from a file, with given weights."""

import json
import pathlib
import re
from typing import Any

import pytest
import torch
from helpers import Make, files, names, read
from torch import nn

from helios import Model
from helios.errors import CheckpointError, ConfigurationError
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

FIRST, SECOND, THIRD = (f"tiny_epoch_{epoch}_iter_{6 * epoch}.pth" for epoch in (1, 2, 3))


@pytest.fixture
def fit(make_trainer: Make, tmp_path: pathlib.Path) -> Any:
    """Train, with a checkpoint after each epoch; arguments of ``fit`` and of the trainer."""

    def run(model: Model | None = None, plugins: Any = (), **arguments: Any) -> Any:
        model = model or TinyModel()
        taken = ("resume", "init_from", "resume_overrides")
        given = {name: arguments.pop(name) for name in taken if name in arguments}
        defaults = {"total_steps": 2, "run_root": tmp_path, "chkpt_frequency": 1}
        trainer = make_trainer(
            **{**defaults, "plugins": [MetricsFilePlugin(), *plugins], **arguments}
        )
        trainer.fit(model, TinyDataModule(), **given)
        return model

    return run


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the contents of all files, without the log, which always grows."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def batches(path: pathlib.Path) -> list[int]:
    return [json.loads(line)["batch"] for line in path.read_text().splitlines()]


def test_new_run_beside_the_old(fit: Any, tmp_path: pathlib.Path) -> None:
    first = fit()
    before = contents(tmp_path)
    second = fit(resume=False, plugins=[StopAfter(9)])
    assert before.items() <= contents(tmp_path).items()
    beside = tmp_path / "checkpoints" / "tiny" / "run-2"
    assert names(beside) == [FIRST, "tiny_epoch_1_iter_9.pth"]
    third = fit()  # resumes the newest run
    assert names(beside) == [FIRST, "tiny_epoch_1_iter_9.pth", SECOND]
    assert equal(third.state_dict(), first.state_dict())
    assert not equal(second.state_dict(), first.state_dict())
    assert before.items() <= contents(tmp_path).items()
    assert batches(tmp_path / "metrics-2.jsonl") == batches(tmp_path / "metrics.jsonl") == [6, 12]
    fit(resume=False, total_steps=1)
    assert names(tmp_path / "checkpoints" / "tiny" / "run-3") == [FIRST]


def test_new_run_without_an_old_one(fit: Any, tmp_path: pathlib.Path) -> None:
    fit(resume=False)
    assert names(tmp_path / "checkpoints" / "tiny") == [FIRST, SECOND]


def test_test_takes_the_weights_of_the_newest_run(
    fit: Any, make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    fit()
    model = fit(resume=False, random_seed=3)
    tested = TinyModel()
    make_trainer(run_root=tmp_path).test(tested, TinyDataModule(), checkpoint="last")
    assert equal(dict(tested.net.state_dict()), dict(model.net.state_dict()))


def test_resume_from_an_older_checkpoint_leaves_the_run(fit: Any, tmp_path: pathlib.Path) -> None:
    whole = fit(total_steps=3)
    before = contents(tmp_path)
    folder = tmp_path / "checkpoints" / "tiny"
    model = fit(total_steps=3, resume=folder / FIRST)
    assert names(folder / "run-2") == [SECOND, THIRD]
    assert before.items() <= contents(tmp_path).items()
    assert equal(model.state_dict(), whole.state_dict())
    assert batches(tmp_path / "metrics-2.jsonl") == [12, 18]
    again = fit(total_steps=4)
    assert "tiny_epoch_4_iter_24.pth" in names(folder / "run-2")
    assert equal(again.state_dict(), fit(total_steps=4, chkpt_root=tmp_path / "x").state_dict())


def test_resume_from_a_checkpoint_with_nothing_left_to_do(
    fit: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ending(TinyModel):
        def on_training_end(self) -> None:
            self.log("end", 1.0)

    fit()
    before = contents(tmp_path)
    fit(
        Ending(), total_steps=1, resume=tmp_path / "checkpoints" / "tiny" / FIRST, print_banner=True
    )
    assert before.items() <= contents(tmp_path).items()
    assert "nothing to train: the run is over" in capsys.readouterr().out


def test_trial_begins_anew(fit: Any, tmp_path: pathlib.Path) -> None:
    fit()
    before = contents(tmp_path)
    model = fit(resume=tmp_path / "checkpoints" / "tiny" / SECOND, fast_dev_run=True)
    assert model.trainer.state.global_iteration == 1
    assert contents(tmp_path) == before


def test_resume_from_the_newest_checkpoint_by_its_path(fit: Any, tmp_path: pathlib.Path) -> None:
    fit(total_steps=1)
    folder = tmp_path / "checkpoints" / "tiny"
    link = tmp_path / "link.pth"
    link.symlink_to(folder / FIRST)
    fit(resume=str(link))
    assert names(folder) == [FIRST, SECOND]
    assert batches(tmp_path / "metrics.jsonl") == [6, 12]


def test_resume_from_another_folder(fit: Any, make_trainer: Make, tmp_path: pathlib.Path) -> None:
    whole = fit()
    path = tmp_path / "checkpoints" / "tiny" / FIRST
    model = fit(resume=path, run_root=tmp_path / "other")
    assert names(tmp_path / "other" / "checkpoints" / "tiny") == [SECOND]
    assert equal(model.state_dict(), whole.state_dict())
    unsaved = TinyModel()
    make_trainer().fit(unsaved, TinyDataModule(), resume=path)
    assert equal(unsaved.state_dict(), whole.state_dict())


# Weights from a file.


def test_weights_from_a_file(
    fit: Any, make_trainer: Make, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = fit(random_seed=3)
    checkpoint = tmp_path / "checkpoints" / "tiny" / SECOND
    weights = {name: each.clone() for name, each in trained.net.state_dict().items()}
    files = {"alone.pt": weights, "nested.ckpt": {"state_dict": weights, "epoch": 3}}
    files["named.pt"] = {f"net.{name}": each for name, each in weights.items()}
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    import safetensors.torch

    safetensors.torch.save_file(weights, tmp_path / "some.safetensors")

    def train_by_hand() -> dict[str, Any]:
        """Take the same steps from the same weights, without a file."""

        class Given(TinyModel):
            def setup(self, fast_init: bool = False) -> None:
                super().setup()
                self.net.load_state_dict(weights)

        model = Given()
        make_trainer().fit(model, TinyDataModule())
        return model.state_dict()

    expected = train_by_hand()
    for path in (checkpoint, *(tmp_path / name for name in (*files, "some.safetensors"))):
        model = TinyModel()
        make_trainer().fit(model, TinyDataModule(), init_from=path)
        assert equal(model.state_dict(), expected), path


def test_resumed_run_ignores_the_first_weights(
    fit: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(TinyNet().state_dict(), tmp_path / "first.pt")
    arguments = {"init_from": tmp_path / "first.pt", "print_banner": True}
    whole = fit(run_root=tmp_path / "whole", **arguments)
    assert "init_from: the run begins with 4 weights of" in capsys.readouterr().out
    fit(plugins=[StopAfter(8)], **arguments)
    resumed = fit(**arguments)
    assert "first.pt' is not used, because the run resumes" in capsys.readouterr().out
    assert equal(resumed.state_dict(), whole.state_dict())


class TinyNet(nn.Sequential):
    """The network of ``TinyModel``."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__(nn.Linear(4, hidden), nn.Dropout(0.2), nn.Linear(hidden, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TinyNet(6).state_dict(), "of another shape: net.0.weight is (6, 4) and must be (8, 4), "),
        ({"0.weight": torch.ones(8, 4)}, "missing: net.0.bias, net.2.weight, net.2.bias"),
        (
            {**TinyNet().state_dict(), "head": torch.ones(1), "5.bias": torch.ones(1)},
            "TinyModel: unexpected: net.head, net.5.bias. To load only some",
        ),
        ({f"{each}.bias": torch.ones(1) for each in range(9)}, "unexpected: net.1.bias, net.3."),
        ({f"{each}.bias": torch.ones(1) for each in range(9)}, "and 2 more"),
    ],
)
def test_weights_that_do_not_fit(
    make_trainer: Make, tmp_path: pathlib.Path, content: Any, message: str
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError) as caught:
        make_trainer().fit(TinyModel(), TinyDataModule(), init_from=tmp_path / "weights.pt")
    assert "weights.pt' does not hold the weights of TinyModel: " in str(caught.value)
    assert message in str(caught.value)


def test_weights_of_a_checkpoint_with_other_networks(
    fit: Any, make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    class Renamed(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            self.body = self.prepare(TinyNet())

        def train_step(self, batch: Any, state: Any) -> Any: ...

    fit(total_steps=1)
    path = tmp_path / "checkpoints" / "tiny" / FIRST
    with pytest.raises(CheckpointError) as caught:
        make_trainer().fit(Renamed(), TinyDataModule(), init_from=path)
    assert "missing: body.0.weight, body.0.bias" in str(caught.value)
    assert "unexpected: net.0.weight, net.0.bias" in str(caught.value)


def test_file_that_holds_more_than_weights(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    torch.save(TinyNet(), tmp_path / "network.pt")
    with pytest.raises(CheckpointError) as caught:
        make_trainer().fit(TinyModel(), TinyDataModule(), init_from=tmp_path / "network.pt")
    assert "a state_dict that was saved with torch.save" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resume": "missing.pth"}, "resume='missing.pth' is not a file: write True, False, or"),
        ({"resume": None}, "resume=None is not a path: write True, False, or the path"),
        ({"resume": 1}, "resume=1 is not a path"),
        ({"init_from": True}, "init_from=True is not a path: write the path of a file"),
        ({"resume": __file__, "init_from": __file__}, "contradicts init_from="),
        ({"resume_overrides": "lr"}, "resume_overrides='lr': write the new values in setup()"),
        ({"resume_overrides": {"lr": 1}}, "resume_overrides={'lr': 1}: write the new values in"),
    ],
)
def test_arguments_that_make_no_sense(fit: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        fit(**arguments)


def test_unknown_checkpoint_is_refused(fit: Any, tmp_path: pathlib.Path) -> None:
    torch.save({"weights": torch.ones(1)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"foreign\.pth is not a Helios checkpoint"):
        fit(resume=tmp_path / "foreign.pth")


def test_checkpoints_of_a_new_run_hold_their_own_key(fit: Any, tmp_path: pathlib.Path) -> None:
    fit(total_steps=1)
    folder = tmp_path / "checkpoints" / "tiny"
    fit(total_steps=1, resume=False)
    fit(total_steps=2, resume=folder / FIRST)
    keys = [read(path)["run"] for path in sorted(files(folder, "**/*.pth"))]
    assert len(set(keys)) == 3
