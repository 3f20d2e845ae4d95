"""The course of a run: seed, header, log file, launcher, contexts of steps, registries."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import Make, Named

from helios import Trainer, TrainingState
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal


def test_seed_reaches_everything(make_trainer: Make) -> None:
    def train(**arguments: Any) -> Any:
        model = TinyModel()
        make_trainer(total_steps=1, **arguments).fit(model, TinyDataModule())
        return model.state_dict()

    assert equal(train(), train(random_seed=6691))
    assert equal(train(random_seed=0), train(random_seed=0))
    assert not equal(train(random_seed=0), train(random_seed=1))


def test_seed_zero_is_a_seed(make_trainer: Make) -> None:
    class Order(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.order: list[float] = []

        def train_step(self, batch: Any, state: TrainingState) -> Any:
            self.order.append(batch[0][0, 0].item())

    models = {seed: Order() for seed in (0, 6691)}
    for seed, model in models.items():
        make_trainer(total_steps=1, random_seed=seed).fit(model, TinyDataModule())
    assert models[0].order != models[6691].order


def test_facts_of_the_run(make_trainer: Make) -> None:
    class Facts(Named):
        seen: Any = None

        def setup(self) -> None:
            self.seen = (self.is_distributed, self.rank, self.device, self.map_loc, self.trainer)

    facts, model, data = Facts(), TinyModel(), TinyDataModule()
    trainer = make_trainer(total_steps=1, plugins=[facts])
    trainer.fit(model, data)
    assert facts.seen == (False, 0, torch.device("cpu"), "cpu", trainer)
    assert (model.device, model.rank, model.trainer) == (torch.device("cpu"), 0, trainer)
    assert data.trainer is trainer


def test_header(
    make_trainer: Make, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bannered(TinyModel):
        def append_to_banner(self, banner: str) -> str:
            return banner + "\nthe model's own line"

    trainer = make_trainer(
        total_steps=1, print_banner=True, run_root=tmp_path, plugins=[Named("bare")]
    )
    trainer.fit(Bannered(), TinyDataModule())
    shown = capsys.readouterr().out
    assert "1 active plug-in " in shown
    assert "1  bare" in shown
    assert "the model's own line" in shown
    assert shown.strip() in (tmp_path / "helios.log").read_text()
    trainer.print_banner = False
    trainer.fit(Bannered(), TinyDataModule())
    assert capsys.readouterr().out == ""


def test_log_file_of_a_resumed_run_goes_on(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    for steps in (1, 2):
        trainer = make_trainer(total_steps=steps, run_root=tmp_path, run_name="mine")
        trainer.fit(TinyModel(), TinyDataModule())
    log = (tmp_path / "mine.log").read_text()
    assert log.count(" saved ") == 2
    assert log.count(" restored ") == 1


def test_launcher_does_the_work_elsewhere(make_trainer: Make) -> None:
    events: list[str] = []

    class Launching(Named):
        def launch(self, trainer: Trainer, target: Callable[[], Any]) -> Any:
            events.append("before")
            result = target()
            events.append(f"after {result.state.global_iteration}")
            return result

        def setup(self) -> None:
            events.append("setup")

    trainer = make_trainer(total_steps=1, plugins=[Launching()])
    assert trainer.fit(TinyModel(), TinyDataModule()).global_iteration == 6
    assert events == ["before", "setup", "after 6"]


def test_step_contexts_are_left_in_reverse_when_one_cannot_be_entered(make_trainer: Make) -> None:
    events: list[str] = []

    class Around(Named):
        def __init__(self, plug_id: str, fails: bool = False) -> None:
            super().__init__(plug_id)
            self._fails = fails

        @contextlib.contextmanager
        def _around(self) -> Iterator[None]:
            if self._fails:
                raise OSError("cannot be entered")
            events.append(f"enter {self.plug_id}")
            try:
                yield
            finally:
                events.append(f"leave {self.plug_id}")

        def step_context(self, phase: str) -> Any:
            return self._around()

    plugins = [Around("a"), Around("b"), Around("c", fails=True)]
    with pytest.raises(OSError, match="cannot be entered"):
        make_trainer(plugins=plugins).fit(TinyModel(), TinyDataModule())
    assert events == ["enter a", "enter b", "leave b", "leave a"]


def test_registries_are_filled_when_a_run_starts(
    make_trainer: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "scanned_by_a_run"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(
        "from helios.model import MODEL_REGISTRY\n"
        "from helios.testing import TinyModel\n"
        "\n"
        "@MODEL_REGISTRY.register\n"
        "class FoundByARun(TinyModel): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from helios.model import MODEL_REGISTRY, create_model

    assert "FoundByARun" not in MODEL_REGISTRY
    make_trainer(total_steps=1, src_root=package).fit(TinyModel(), TinyDataModule())
    assert type(create_model("FoundByARun")).__name__ == "FoundByARun"


def test_terminal_tells_from_where_a_run_goes_on_and_why_it_stops(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = {"chkpt_root": tmp_path, "print_banner": True, "autoload": False}
    make_trainer(plugins=[StopAfter(2)], **arguments).fit(TinyModel(), TinyDataModule())
    printed = capsys.readouterr().out
    assert "restored" not in printed
    assert printed.endswith("stopped: enough for this test (requested by StopAfter)\n")
    make_trainer(**arguments).fit(TinyModel(), TinyDataModule())
    file = tmp_path / "tiny" / "tiny_epoch_0_iter_2.pth"
    printed = capsys.readouterr().out
    assert f"restored {file}: epoch 0, iteration 2\n" in printed
    assert "stopped" not in printed
