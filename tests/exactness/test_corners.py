"""Corners of a resume, each of which broke once: unusual models, samplers and stops."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Make, files
from torch import nn
from torch.utils.data import DataLoader

from helios import DataLoaderParams, Model, Trainer, TrainingState, hookimpl
from helios.data import ResumableRandomSampler
from helios.errors import CheckpointError
from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

BATCHES = 6  # an epoch of TinyDataModule


def final(
    make_trainer: Make,
    root: pathlib.Path,
    model: Callable[[], Model],
    stop_after: int | None = None,
    data: Callable[[], Any] = TinyDataModule,
    **arguments: Any,
) -> dict[str, Any]:
    """Train in a new trainer, as far as it goes, and return the state of the model."""
    plugins = [StopAfter(stop_after), *arguments.pop("plugins", ())]
    trainer = make_trainer(chkpt_root=root, plugins=plugins, **arguments)
    trained = model()
    trainer.fit(trained, data())
    return trained.state_dict()


def assert_exact(make_trainer: Make, tmp_path: pathlib.Path, *given: Any, **arguments: Any) -> None:
    whole = final(make_trainer, tmp_path / "whole", *given, **arguments)
    for cut in (1, 3, BATCHES, BATCHES + 2):
        root = tmp_path / f"cut-{cut}"
        final(make_trainer, root, *given, stop_after=cut, **arguments)
        assert equal(whole, final(make_trainer, root, *given, **arguments)), cut


class Gan(Model):
    """The loss of one network reaches the other, too."""

    def __init__(self) -> None:
        super().__init__("gan")

    def setup(self, fast_init: bool = False) -> None:
        self.generator = self.prepare(nn.Linear(4, 4))
        self.critic = self.prepare(nn.Linear(4, 1))
        self.first = torch.optim.SGD(self.critic.parameters(), lr=0.05)
        self.second = torch.optim.SGD(self.generator.parameters(), lr=0.05)

    def train_step(self, batch: Any, state: TrainingState) -> None:
        real, _ = batch
        fake, loss = self.generator(torch.randn_like(real)), nn.functional.softplus
        both = loss(-self.critic(real)).mean() + loss(self.critic(fake.detach())).mean()
        self.optimize(both, self.first)
        self.optimize(loss(-self.critic(fake)).mean(), self.second)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_that_another_loss_has_left(
    make_trainer: Make, tmp_path: pathlib.Path, accumulation: int
) -> None:
    assert_exact(make_trainer, tmp_path, Gan, accumulation_steps=accumulation)


class Penalty(TinyModel):
    """Adds to the gradients by hand, before the helper does; that is not to be dropped."""

    weight = 0.1

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        penalty = self.weight * sum(p.square().sum() for p in self.net.parameters())
        penalty.backward()
        return super().train_step(batch, state)


def test_gradients_added_by_hand_in_a_step_count(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    class NoPenalty(Penalty):
        weight = 0.0

    assert_exact(make_trainer, tmp_path, Penalty)
    with_penalty = final(make_trainer, tmp_path / "with", Penalty)
    assert not equal(with_penalty, final(make_trainer, tmp_path / "without", NoPenalty))


class Bare(TinyModel):
    """Has a parameter and a generator outside of all modules."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.scale = nn.Parameter(torch.ones(()))
        self.noise = torch.Generator().manual_seed(5)
        self.other = torch.optim.SGD([self.scale], lr=0.1)

    def train_step(self, batch: Any, state: TrainingState) -> torch.Tensor:
        features, labels = batch
        features = features + 0.1 * torch.randn(features.shape, generator=self.noise)
        loss = nn.functional.cross_entropy(self.scale * self.net(features), labels)
        self.optimize(loss, self.other)
        return super().train_step((features, labels), state)


def test_parameters_and_generators_outside_of_modules(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    assert_exact(make_trainer, tmp_path, Bare)


@pytest.mark.parametrize("saved", [True, False], ids=["checkpoint", "memory"])
def test_bare_parameter_reaches_the_test(
    make_trainer: Make, tmp_path: pathlib.Path, saved: bool
) -> None:
    trainer = make_trainer(chkpt_root=tmp_path if saved else None)
    model = Bare()
    trainer.fit(model, TinyDataModule())
    trained = model.scale.item()
    trainer.test(model, TinyDataModule())
    assert model.scale.item() == trained != 1.0


class UrgentStop:
    """Leaves a validation, or asks before training has begun."""

    def __init__(self, where: str) -> None:
        self._where = where

    @hookimpl
    def configure_trainer(self, trainer: Trainer) -> None:
        self._trainer = trainer
        trainer.interruptible = True

    @hookimpl
    def on_training_start(self) -> None:
        if self._where == "start":
            self._trainer.request_stop("for this test", urgent=True)

    @hookimpl
    def on_validation_batch_end(self) -> None:
        if self._where == "validation":
            self._trainer.request_stop("for this test", urgent=True)


def test_validation_that_was_left_twice_is_made_up_for(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    arguments = {"train_unit": "iteration", "total_steps": 12, "valid_frequency": BATCHES}
    cycles = []
    for where in ("validation", "start", "", None):
        plugins = [UrgentStop(where)] if where else []
        trainer = make_trainer(chkpt_root=tmp_path, plugins=plugins, **arguments)
        cycles.append(trainer.fit(TinyModel(), TinyDataModule()).validation_cycles)
    assert cycles == [0, 0, 2, 2]


def test_networks_are_in_training_mode_after_a_validation_that_was_left(
    make_trainer: Make,
) -> None:
    model = TinyModel()
    make_trainer(valid_frequency=1, plugins=[UrgentStop("validation")]).fit(model, TinyDataModule())
    assert model.net.training


class Deciding(TinyModel):
    def should_training_stop(self) -> bool:
        return self.trainer.state.current_iteration == 5


class Killed(BaseException):
    pass


class KillAtSave:
    @hookimpl
    def on_checkpoint_saved(self, state: TrainingState) -> None:
        if state.current_iteration == 5:
            raise Killed


def test_decision_to_stop_outlives_the_process(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    arguments = {"train_unit": "iteration", "total_steps": 12, "chkpt_frequency": 1}
    whole = final(make_trainer, tmp_path / "whole", Deciding, **arguments)
    with pytest.raises(Killed):
        final(make_trainer, tmp_path / "cut", Deciding, plugins=[KillAtSave()], **arguments)
    for _ in range(2):  # however often it is started again
        assert equal(whole, final(make_trainer, tmp_path / "cut", Deciding, **arguments))


def test_request_to_stop_does_not(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    final(make_trainer, tmp_path, TinyModel, stop_after=2)
    trainer = make_trainer(chkpt_root=tmp_path)
    assert trainer.fit(TinyModel(), TinyDataModule()).global_epoch == 2


class OwnSampler(TinyDataModule):
    """Brings a sampler that has not been told how large batches are."""

    def setup(self) -> None:
        super().setup()
        assert self._train_dataset is not None
        data: Any = self._train_dataset.dataset
        sampler = ResumableRandomSampler(data, 3)
        self._train_dataset = self._create_dataset(
            data, DataLoaderParams(batch_size=4, sampler=sampler)
        )


class OwnLoader(TinyDataModule):
    """Brings a loader without a generator."""

    def train_dataloader(self) -> Any:
        data: Any = self.train_dataset
        sampler = ResumableRandomSampler(data, 3, 4)
        return DataLoader(data, batch_size=4, sampler=sampler), sampler


@pytest.mark.parametrize("data", [OwnSampler, OwnLoader])
def test_samplers_and_loaders_of_the_users_own(
    make_trainer: Make, tmp_path: pathlib.Path, data: type[TinyDataModule]
) -> None:
    assert_exact(make_trainer, tmp_path, TinyModel, data=data)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (lambda: TinyDataModule(7, 6), {}, "batch_size=4.*batch_size=6"),
        (lambda: TinyDataModule(7, 4), {"random_seed": 9}, "random_seed=6691.*random_seed=9"),
    ],
    ids=["batch size", "seed"],
)
def test_another_order_inside_an_epoch_is_refused(
    make_trainer: Make, tmp_path: pathlib.Path, data: Any, arguments: Any, message: str
) -> None:
    final(make_trainer, tmp_path, TinyModel, stop_after=1, data=lambda: TinyDataModule(7, 4))
    with pytest.raises(CheckpointError, match=message):
        final(make_trainer, tmp_path, TinyModel, data=data, **arguments)


class Best(TinyModel):
    """Never improves on its first result."""

    def have_metrics_improved(self) -> bool:
        is_first = "best" not in self.metrics
        self.metrics["best"] = 1.0
        return is_first


def test_results_of_an_earlier_run_do_not_count(make_trainer: Make) -> None:
    model = Best()
    for _ in range(2):
        trainer = make_trainer(total_steps=9, valid_frequency=1, early_stop_cycles=2)
        assert trainer.fit(model, TinyDataModule()).global_epoch == 3


def test_results_that_the_model_begins_with_stay(make_trainer: Make) -> None:
    model = TinyModel()
    model.metrics["mine"] = 1.0
    for _ in range(2):
        make_trainer().fit(model, TinyDataModule())
        assert model.metrics["mine"] == 1.0


class NamedByResult(TinyModel):
    def append_metadata_to_chkpt_name(self, chkpt_name: str) -> str:
        return f"{chkpt_name}_acc-{self.metrics['accuracy']:.2f}"


def test_name_by_a_result_where_validations_may_be_left(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    trainer = make_trainer(chkpt_root=tmp_path, valid_frequency=1, max_time=3600)
    trainer.fit(NamedByResult(), TinyDataModule())
    assert len(list(files(tmp_path / "tiny", "*_acc-*.pth"))) == 1


SCRIPT = """
import multiprocessing, sys, time, torch
from helios import DataLoaderParams, Trainer
from helios.testing import TinyDataModule, TinyModel

class Many(torch.utils.data.Dataset):
    def __len__(self):
        return 100_000
    def __getitem__(self, index):
        x = torch.full((4,), float(index % 7 - 3))
        return x, (x.sum() > 0).long()

class Data(TinyDataModule):
    def setup(self):
        params = DataLoaderParams(batch_size=4, num_workers=2)
        self._train_dataset = self._create_dataset(Many(), params)

class Model(TinyModel):
    def train_step(self, batch, state):
        if state.global_iteration == 5:
            print("training", flush=True)
            while not self.trainer.stop_requests:
                pass
            # Workers would die of the signal soon, and take this process with them.
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                assert all(worker.is_alive() for worker in multiprocessing.active_children())
        return super().train_step(batch, state)

Trainer(
    total_steps=1, use_cpu=True, print_banner=False, autoload=False,
    plugins=["preemption"], chkpt_root=sys.argv[1],
).fit(Model(), Data())
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs groups of processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_to_all_processes_of_a_job(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    expected = -signal.SIGINT if number == signal.SIGINT else 128 + number
    assert process.returncode == expected, errors
    assert len(list(files(tmp_path / "tiny", "*.pth"))) == 1
