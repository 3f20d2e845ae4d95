"""A run that was cut and resumed is, to the bit, the run that was not."""

import os
import pathlib
import random
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Make
from killing import draw
from torch.utils.data import Dataset

from helios import Plugin, TrainingState
from helios.core import rng
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

BATCHES = 6  # an epoch of TinyDataModule
EPOCHS = 3


class NoisyModel(TinyModel):
    """Draws from every generator at each step, and remembers which samples it was given."""

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self._seen = seen

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        features, labels = batch
        self._seen.append(features[:, 0].tolist())
        return super().train_step((features + 0.01 * draw(), labels), state)

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        draw()
        return super().valid_step(batch, step)


class Follower(Plugin):
    """Keeps an average of the losses, and noise in it: state that shows whether it was restored."""

    def __init__(self) -> None:
        super().__init__("follower")
        self._average = torch.zeros(())
        self._log: list[Any] = []

    def setup(self) -> None: ...

    def on_training_batch_end(self, outputs: Any) -> None:
        self._average = 0.5 * self._average + outputs + torch.rand(())

    def on_validation_end(self, validation_cycle: int) -> None:
        self._log.append((validation_cycle, draw()))

    def on_training_epoch_end(self, state: TrainingState) -> None:
        self._log.append(("epoch", state.global_epoch, random.random()))

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "log": list(self._log)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average, self._log = state_dict["average"], list(state_dict["log"])


ALL = {"model", "plug-in", "rng", "counters", "newest metrics", "metrics file", "samples", "data"}


def train(
    make_trainer: Make,
    root: pathlib.Path,
    samples: list[Any],
    stop_after: int | None,
    model: type[NoisyModel] = NoisyModel,
    data: Callable[[], Any] = TinyDataModule,
    **arguments: Any,
) -> dict[str, Any]:
    """Train in a new trainer with a new model and new data; return all that must be equal."""
    follower = Follower()
    extra = arguments.pop("plugins", [])
    trainer = make_trainer(
        run_root=root,
        plugins=[follower, MetricsFilePlugin(), StopAfter(stop_after), *extra],
        **arguments,
    )
    trained, datamodule = model(samples), data()
    state = trainer.fit(trained, datamodule)
    counters = state.dict()
    del counters["average_iter_time"], counters["running_iter"]
    lines = root / "metrics.jsonl"
    result = {
        "model": trained.state_dict(),
        "plug-in": follower.state_dict(),
        "rng": rng.get_rng_state_dict(),
        "counters": counters,
        "newest metrics": dict(trained.metrics),
        "metrics file": lines.read_text() if lines.exists() else "",
        "samples": list(samples),
        "data": datamodule.state_dict(),
    }
    assert result.keys() == ALL
    return result


def differences(whole: dict[str, Any], resumed: dict[str, Any]) -> list[str]:
    return [what for what in whole if not equal(whole[what], resumed[what])]


UNITS = {
    # train_unit, accumulation -> arguments; the windows of 4 reach over the end of an epoch
    ("epoch", 1): {"total_steps": EPOCHS, "valid_frequency": 1, "print_frequency": 4},
    ("epoch", 3): {"total_steps": EPOCHS, "valid_frequency": 2, "print_frequency": 4},
    ("epoch", 4): {"total_steps": EPOCHS, "valid_frequency": 1, "print_frequency": 4},
    ("iteration", 1): {"total_steps": 18, "valid_frequency": 4, "print_frequency": 5},
    ("iteration", 3): {"total_steps": 6, "valid_frequency": 2, "print_frequency": 4},
    ("iteration", 4): {"total_steps": 5, "valid_frequency": 2, "print_frequency": 4},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Train each configuration whole, once."""
    results: dict[Any, dict[str, Any]] = {}

    def get(make_trainer: Make, unit: str, accumulation: int, shuffle: bool) -> dict[str, Any]:
        key = (unit, accumulation, shuffle)
        if key not in results:
            results[key] = train(
                make_trainer,
                tmp_path_factory.mktemp("whole"),
                [],
                None,
                data=lambda: TinyDataModule(shuffle=shuffle),
                train_unit=unit,
                accumulation_steps=accumulation,
                **UNITS[unit, accumulation],
            )
        return results[key]

    return get


@pytest.mark.parametrize("stop_after", range(1, BATCHES * EPOCHS))
@pytest.mark.parametrize(
    ("accumulation", "shuffle"),
    [(1, True), (1, False), (3, True), (3, False), (4, True)],
    ids=["1-shuffled", "1-in-order", "3-shuffled", "3-in-order", "4-shuffled"],
)
@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_stopped_after_any_batch(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    uninterrupted: Callable[..., dict[str, Any]],
    unit: str,
    accumulation: int,
    shuffle: bool,
    stop_after: int,
) -> None:
    whole = uninterrupted(make_trainer, unit, accumulation, shuffle)
    arguments = {
        "data": lambda: TinyDataModule(shuffle=shuffle),
        "train_unit": unit,
        "accumulation_steps": accumulation,
        **UNITS[unit, accumulation],
    }
    samples: list[Any] = []
    first = train(make_trainer, tmp_path, samples, stop_after, **arguments)
    stopped_at = first["counters"]["global_iteration"]
    assert stop_after <= stopped_at < stop_after + accumulation  # the end of its optimizer step
    resumed = train(make_trainer, tmp_path, samples, None, **arguments)
    assert differences(whole, resumed) == []


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_stopped_three_times(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    uninterrupted: Callable[..., dict[str, Any]],
    unit: str,
) -> None:
    arguments = {"train_unit": unit, **UNITS[unit, 1]}
    samples: list[Any] = []
    for batches in (3, 1, 9, None):
        resumed = train(make_trainer, tmp_path, samples, batches, **arguments)
    assert differences(uninterrupted(make_trainer, unit, 1, True), resumed) == []


class TwoPhases(TinyDataModule):
    """After two epochs, goes on with fewer samples in smaller batches."""

    def setup(self) -> None:
        super().setup()
        assert self._train_dataset is not None
        first = self._train_dataset
        self._add_train_phase(
            torch.utils.data.Subset(first.dataset, range(9)), {"batch_size": 2, "shuffle": True}
        )


class PhasedModel(NoisyModel):
    def should_advance_dataset_phase(self) -> bool:
        return self.trainer.state.global_epoch == 2


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize("stop_after", [5, 6, 11, 12, 13, 16, 17, 18])
def test_data_phases(
    make_trainer: Make, tmp_path: pathlib.Path, unit: str, stop_after: int
) -> None:
    arguments = {
        "train_unit": unit,
        "total_steps": 4 if unit == "epoch" else 22,
        "valid_frequency": 1 if unit == "epoch" else 7,
        "print_frequency": 4,
        "model": PhasedModel,
        "data": TwoPhases,
    }
    whole = train(make_trainer, tmp_path / "whole", [], None, **arguments)
    assert [len(samples) for samples in whole["samples"]][-10:] == [2, 2, 2, 2, 1] * 2
    samples: list[Any] = []
    train(make_trainer, tmp_path / "cut", samples, stop_after, **arguments)
    resumed = train(make_trainer, tmp_path / "cut", samples, None, **arguments)
    assert differences(whole, resumed) == []


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_longer_run_goes_on_from_a_finished_one(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    uninterrupted: Callable[..., dict[str, Any]],
    unit: str,
) -> None:
    arguments = {"train_unit": unit, **UNITS[unit, 1]}
    samples: list[Any] = []
    train(make_trainer, tmp_path, samples, None, **{**arguments, "total_steps": 2})
    resumed = train(make_trainer, tmp_path, samples, None, **arguments)
    assert differences(uninterrupted(make_trainer, unit, 1, True), resumed) == []


class _Crash(Exception):
    pass


class CrashAfter(StopAfter):
    """Fails after a number of batches of this process: nothing is saved on the way out."""

    def on_training_batch_end(self, state: TrainingState) -> None:
        if state.running_iter == self._batches:
            raise _Crash

    on_training_batch_end.helios_impl = StopAfter.on_training_batch_end.helios_impl  # type: ignore[attr-defined]  # pluggy's mark


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
@pytest.mark.parametrize(("stop_after", "crash_after"), [(5, 4), (6, 3), (8, 7), (12, 5)])
def test_crash_after_a_resume(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    uninterrupted: Callable[..., dict[str, Any]],
    unit: str,
    stop_after: int,
    crash_after: int,
) -> None:
    # What the crashed run has written after its last checkpoint is written again.
    arguments = {"train_unit": unit, **UNITS[unit, 1]}
    samples: list[Any] = []
    train(make_trainer, tmp_path, samples, stop_after, **arguments)
    with pytest.raises(_Crash):
        train(make_trainer, tmp_path, [], None, plugins=[CrashAfter(crash_after)], **arguments)
    resumed = train(make_trainer, tmp_path, samples, None, **arguments)
    whole = uninterrupted(make_trainer, unit, 1, True)
    assert differences(whole, resumed) == []


class WindowStop(Plugin):
    """Asks for a stop at the end of the first epoch."""

    def __init__(self) -> None:
        super().__init__("window-stop")

    def setup(self) -> None: ...

    def on_training_epoch_end(self, state: TrainingState) -> None:
        if state.global_epoch == 0:
            self.trainer.request_stop("between two epochs")


@pytest.mark.parametrize(("unit", "accumulation"), list(UNITS))
def test_stopped_between_epochs(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    uninterrupted: Callable[..., dict[str, Any]],
    unit: str,
    accumulation: int,
) -> None:
    arguments = {
        "train_unit": unit,
        "accumulation_steps": accumulation,
        **UNITS[unit, accumulation],
    }
    samples: list[Any] = []
    first = train(make_trainer, tmp_path, samples, None, plugins=[WindowStop()], **arguments)
    assert first["counters"]["global_iteration"] < BATCHES + accumulation
    resumed = train(make_trainer, tmp_path, samples, None, **arguments)
    assert differences(uninterrupted(make_trainer, unit, accumulation, True), resumed) == []


class DrawingAtTheEdges(NoisyModel):
    """Draws where only one of the two runs, the whole or the resumed one, comes by."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        draw()

    def on_training_start(self) -> None:
        draw()

    def append_metadata_to_chkpt_name(self, chkpt_name: str) -> str:
        return f"{chkpt_name}_{draw()}"

    def on_training_end(self) -> None:
        draw()


class DrawingWhenSaved(Plugin):
    def __init__(self) -> None:
        super().__init__("drawing")

    def setup(self) -> None:
        draw()

    def on_training_start(self) -> None:
        draw()

    def on_checkpoint_saved(self) -> None:
        draw()

    def on_checkpoint_loaded(self) -> None:
        draw()


@pytest.mark.parametrize("edge", ["model starts", "plug-in saves"])
def test_random_numbers_drawn_at_the_edges_of_a_run(
    make_trainer: Make, tmp_path: pathlib.Path, edge: str
) -> None:
    arguments: dict[str, Any] = {"total_steps": 2, "print_frequency": 2, "chkpt_frequency": 1}
    if edge == "model starts":
        arguments["model"] = DrawingAtTheEdges

    def plugins() -> list[Any]:
        return [DrawingWhenSaved()] if edge == "plug-in saves" else []

    whole = train(make_trainer, tmp_path / "whole", [], None, plugins=plugins(), **arguments)
    samples: list[Any] = []
    train(make_trainer, tmp_path / "cut", samples, 8, plugins=plugins(), **arguments)
    resumed = train(make_trainer, tmp_path / "cut", samples, None, plugins=plugins(), **arguments)
    del whole["rng"], resumed["rng"]  # on_training_end comes after all that is saved
    assert differences(whole, resumed) == []


def test_validation_does_not_move_training(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    arguments = {"total_steps": 2, "print_frequency": 4}
    without = train(make_trainer, tmp_path / "without", [], None, **arguments)
    with_it = train(make_trainer, tmp_path / "with", [], None, valid_frequency=1, **arguments)
    assert with_it["counters"]["validation_cycles"] == 2
    assert set(differences(without, with_it)) == {
        "plug-in",  # it follows validations, too
        "counters",
        "newest metrics",
        "metrics file",
    }


def test_validation_in_every_step_does_not_move_training(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    arguments = {"train_unit": "iteration", "total_steps": 9, "print_frequency": 4}
    without = train(make_trainer, tmp_path / "without", [], None, **arguments)
    with_it = train(make_trainer, tmp_path / "with", [], None, valid_frequency=1, **arguments)
    assert with_it["counters"]["validation_cycles"] == 9
    assert equal(without["model"], with_it["model"])
    assert equal(without["rng"], with_it["rng"])
    assert without["samples"] == with_it["samples"]


def test_saving_and_logging_do_not_move_training(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    arguments = {"train_unit": "iteration", "total_steps": 8}
    quiet = train(make_trainer, tmp_path / "quiet", [], None, print_frequency=8, **arguments)
    busy = train(
        make_trainer, tmp_path / "busy", [], None, print_frequency=1, chkpt_frequency=1, **arguments
    )
    assert set(differences(quiet, busy)) == {"metrics file"}


class Augmented(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Adds noise from every generator to each sample, as augmentation does."""

    def __init__(self, data: Dataset[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]  # it is sized

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        features, label = self._data[index]
        noise = torch.rand(4) + random.random() + np.random.rand()
        return features + 0.01 * noise.float(), label


class AugmentedData(TinyDataModule):
    def __init__(self, workers: int) -> None:
        super().__init__(valid_size=0)
        self._workers = workers

    def setup(self) -> None:
        super().setup()
        assert self._train_dataset is not None
        self._train_dataset.dataset = Augmented(self._train_dataset.dataset)
        self._train_dataset.params.num_workers = self._workers


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_after", [2, 6, 9])
def test_augmentation_does_not_depend_on_where_a_run_was_cut(
    make_trainer: Make, tmp_path: pathlib.Path, workers: int, stop_after: int
) -> None:
    arguments = {"total_steps": 2, "print_frequency": 4, "data": lambda: AugmentedData(workers)}
    whole = train(make_trainer, tmp_path / "whole", [], None, **arguments)
    samples: list[Any] = []
    train(make_trainer, tmp_path / "cut", samples, stop_after, **arguments)
    resumed = train(make_trainer, tmp_path / "cut", samples, None, **arguments)
    assert differences(whole, resumed) == []


def test_augmentation_does_not_depend_on_the_number_of_workers(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    arguments = {"total_steps": 1, "print_frequency": 4}
    alone, helped = (
        train(
            make_trainer,
            tmp_path / str(workers),
            [],
            None,
            data=lambda workers=workers: AugmentedData(workers),
            **arguments,
        )
        for workers in (0, 2)
    )
    assert alone["samples"] == helped["samples"]
    assert equal(alone["model"], helped["model"])


KILLED = """
    import os, signal, sys
    from helios import Trainer, hookimpl
    from helios.plugins.builtin.metrics_file import MetricsFilePlugin
    from helios.testing import TinyDataModule, TinyModel

    class KillAt:
        @hookimpl
        def on_training_batch_start(self, state):
            if state.global_iteration == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)

    Trainer(
        train_unit=sys.argv[2], total_steps={"epoch": 2, "iteration": 12}[sys.argv[2]],
        chkpt_frequency=1, valid_frequency=1, print_frequency=2, use_cpu=True, autoload=False,
        run_root=sys.argv[1], plugins=[MetricsFilePlugin(), KillAt()],
    ).fit(TinyModel(), TinyDataModule())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
@pytest.mark.parametrize(
    ("unit", "kill_at", "left"),
    [("epoch", 9, 6), ("iteration", 7, 6)],  # 6 batches are saved, in one the epoch's end is not
)
def test_killed(
    make_trainer: Make,
    tmp_path: pathlib.Path,
    python: list[str],
    unit: str,
    kill_at: int,
    left: int,
) -> None:
    def go_on(root: pathlib.Path) -> dict[str, Any]:
        model = TinyModel()
        state = make_trainer(
            train_unit=unit,
            total_steps=2 if unit == "epoch" else 12,
            chkpt_frequency=1,
            valid_frequency=1,
            print_frequency=2,
            run_root=root,
            plugins=[MetricsFilePlugin()],
        ).fit(model, TinyDataModule())
        lines = (root / "metrics.jsonl").read_text()
        return {"model": model.state_dict(), "lines": lines, "resumed": state.running_iter}

    child = subprocess.run(
        [
            *python,
            "-c",
            textwrap.dedent(KILLED),
            str(tmp_path / "killed"),
            unit,
            str(kill_at),
        ],
        env=os.environ | {"HELIOS_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    whole, resumed = go_on(tmp_path / "whole"), go_on(tmp_path / "killed")
    assert resumed.pop("resumed") == left
    assert whole.pop("resumed") == 12
    assert differences(whole, resumed) == []


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Leave the number of threads out of it; the networks are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
