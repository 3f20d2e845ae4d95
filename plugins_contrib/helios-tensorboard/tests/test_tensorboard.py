import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from helios_tensorboard import TensorBoardPlugin
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helios import Trainer, create_plugin
from helios.errors import ConfigurationError
from helios.testing import StopAfter, TinyDataModule, TinyModel, check_conformance


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLUGINS", "BLOCK_PLUGINS", "DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(f"HELIOS_{name}", raising=False)


def make_trainer(*plugins: Any, **arguments: Any) -> Trainer:
    defaults = {"total_steps": 2, "use_cpu": True, "print_banner": False, "autoload": False}
    return Trainer(**{**defaults, "plugins": plugins, **arguments})


class Logging(TinyModel):
    """Logs numbers that are known in advance, each under a name of its own."""

    def train_step(self, batch: Any, state: Any) -> Any:
        result = super().train_step(batch, state)
        self.log("step", state.current_iteration + 0.5)
        return result

    def test_step(self, batch: Any, step: int) -> None:
        self.log("tested", 7.0)


def read(root: pathlib.Path, name: str = "tensorboard") -> dict[str, list[tuple[int, float]]]:
    """Return the points of each curve, as TensorBoard shows them."""
    events = EventAccumulator(str(root / name), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def wait_for_next_second() -> None:
    # TensorBoard reads event files by their name, which begins with the second of their creation.
    time.sleep(1.05 - time.time() % 1)


def test_logged_metrics_become_scalars(tmp_path: pathlib.Path) -> None:
    received = []

    class Recorder(TensorBoardPlugin):
        def on_log(self, metrics: Any, state: Any) -> None:
            received.append((state.current_iteration, dict(metrics)))
            super().on_log(metrics, state)

    trainer = make_trainer(Recorder(), run_root=tmp_path, print_frequency=1, valid_frequency=1)
    trainer.fit(Logging(), TinyDataModule())
    curves = read(tmp_path)
    assert set(curves) == {"loss", "step", "accuracy"}
    assert curves["step"] == [(number, number + 0.5) for number in range(1, 13)]
    assert [step for step, _ in curves["accuracy"]] == [6, 12]
    for tag, points in curves.items():
        expected = [(step, metrics[tag]) for step, metrics in received if tag in metrics]
        assert [step for step, _ in points] == [step for step, _ in expected]
        assert [v for _, v in points] == pytest.approx([v for _, v in expected])


def test_step_counts_optimizer_steps(tmp_path: pathlib.Path) -> None:
    trainer = make_trainer(
        TensorBoardPlugin(), run_root=tmp_path, print_frequency=2, accumulation_steps=3
    )
    state = trainer.fit(Logging(), TinyDataModule())
    assert (state.current_iteration, state.global_iteration) == (4, 12)
    assert [step for step, _ in read(tmp_path)["loss"]] == [2, 4]


def test_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: pathlib.Path) -> None:
    class Crash(Exception):
        pass

    class Crashing(Logging):
        def train_step(self, batch: Any, state: Any) -> Any:
            if state.global_iteration == 10:
                raise Crash
            result = super().train_step(batch, state)
            self.log("step", 1000.0)  # to be told from what the resumed run logs
            return result

    options = {"print_frequency": 1, "valid_frequency": 1, "chkpt_frequency": 1}
    with pytest.raises(Crash):
        make_trainer(TensorBoardPlugin(), run_root=tmp_path, **options).fit(
            Crashing(), TinyDataModule()
        )
    before = read(tmp_path)
    assert [step for step, _ in before["step"]] == list(range(1, 10))
    wait_for_next_second()
    make_trainer(TensorBoardPlugin(), run_root=tmp_path, **options).fit(Logging(), TinyDataModule())
    after = read(tmp_path)
    # The checkpoint is of step 6: what was logged at it, validation included, stays.
    assert after["step"] == before["step"][:6] + [(n, n + 0.5) for n in range(7, 13)]
    assert [step for step, _ in after["accuracy"]] == [6, 12]
    assert after["accuracy"][0] == before["accuracy"][0]


def test_run_that_starts_again_has_a_folder_of_its_own(tmp_path: pathlib.Path) -> None:
    for _ in range(2):  # without a checkpoint in between
        trainer = make_trainer(
            TensorBoardPlugin(), StopAfter(3), run_root=tmp_path, print_frequency=1
        )
        trainer.chkpt_root = None
        trainer.fit(Logging(), TinyDataModule())
        wait_for_next_second()
    for name in ("tensorboard", "tensorboard-2"):
        assert read(tmp_path, name)["step"] == [(1, 1.5), (2, 2.5), (3, 3.5)]


def test_testing_drops_nothing(tmp_path: pathlib.Path) -> None:
    options = {"run_root": tmp_path, "print_frequency": 1, "chkpt_frequency": 1}
    make_trainer(TensorBoardPlugin(), **options).fit(Logging(), TinyDataModule())
    # As if the run had been killed after the second epoch, before its checkpoint was saved.
    (tmp_path / "checkpoints" / "tiny" / "tiny_epoch_2_iter_12.pth").unlink()
    wait_for_next_second()
    make_trainer(TensorBoardPlugin(), run_root=tmp_path).test(Logging(), TinyDataModule())
    curves = read(tmp_path)
    assert curves["tested"] == [(6, 7.0)]
    assert [step for step, _ in curves["step"]] == list(range(1, 13))


def test_fit_and_test_in_one_trainer(tmp_path: pathlib.Path) -> None:
    trainer, model = (
        make_trainer(TensorBoardPlugin(), run_root=tmp_path, print_frequency=6),
        Logging(),
    )
    trainer.fit(model, TinyDataModule())
    trainer.test(model, TinyDataModule())
    curves = read(tmp_path)
    assert [step for step, _ in curves["loss"]] == [6, 12]
    assert curves["tested"] == [(12, 7.0)]


def test_nothing_logged_leaves_nothing(tmp_path: pathlib.Path) -> None:
    class Silent(TinyModel):
        def test_step(self, batch: Any, step: int) -> None:
            pass

    make_trainer(TensorBoardPlugin(), run_root=tmp_path).test(Silent(), TinyDataModule())
    assert (tmp_path / "helios.log").exists()
    assert not (tmp_path / "tensorboard").exists()


def test_failing_run_closes_its_file(tmp_path: pathlib.Path) -> None:
    class Failing(Logging):
        def on_training_epoch_end(self, current_epoch: int) -> None:
            raise KeyboardInterrupt

    writers = []

    class Peeking(TensorBoardPlugin):
        def on_log(self, metrics: Any, state: Any) -> None:
            super().on_log(metrics, state)
            writers.append(self._writer)

    plugin = Peeking()
    trainer = make_trainer(plugin, run_root=tmp_path, print_frequency=1)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(Failing(), TinyDataModule())
    assert plugin._writer is None
    assert writers[-1].file_writer is None  # as SummaryWriter.close() leaves it
    assert [step for step, _ in read(tmp_path)["loss"]] == list(range(1, 7))


_KILLED = """
import os, signal, sys, time
from helios import Trainer
from helios.testing import TinyDataModule, TinyModel
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

fast = LocalFileSystem.append

def slow(*arguments):  # as disks of clusters are
    time.sleep(0.1)
    fast(*arguments)

LocalFileSystem.append = slow

class Killed(TinyModel):
    def on_training_epoch_start(self, current_epoch):
        if current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

trainer = Trainer(total_steps=2, use_cpu=True, autoload=False, plugins=["tensorboard"],
                  run_root=sys.argv[1], print_frequency=1, chkpt_frequency=1)
trainer.fit(Killed(), TinyDataModule())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_what_a_checkpoint_covers_is_on_disk(tmp_path: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [step for step, _ in read(tmp_path)["loss"]] == list(range(1, 7))


def test_run_without_a_folder_is_refused_before_anything_is_computed() -> None:
    class Untouched(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            raise AssertionError

    with pytest.raises(ConfigurationError, match=r"pass Trainer\(run_root=\.\.\.\)"):
        make_trainer(TensorBoardPlugin()).fit(Untouched(), TinyDataModule())


def test_conformance() -> None:
    check_conformance(TensorBoardPlugin)


def test_created_by_name() -> None:
    plugin = create_plugin("tensorboard")
    assert isinstance(plugin, TensorBoardPlugin)
    assert plugin.plug_id == "tensorboard"


def test_autoloaded_where_there_is_a_folder(tmp_path: pathlib.Path) -> None:
    assert "tensorboard" not in make_trainer(autoload=["tensorboard"]).plugins
    trainer = make_trainer(autoload=["tensorboard"], run_root=tmp_path, print_frequency=3)
    trainer.fit(Logging(), TinyDataModule())
    entry = next(entry for entry in trainer.plan.active if entry.id == "tensorboard")
    assert entry.distribution == "helios-tensorboard"
    assert [step for step, _ in read(tmp_path)["loss"]] == [3, 6, 9, 12]


_LAZY = """
import sys
from helios import Trainer
from helios.testing import TinyDataModule, TinyModel

class Silent(TinyModel):
    def log(self, *args, **kwargs):
        pass

trainer = Trainer(total_steps=1, use_cpu=True, autoload=["tensorboard"], run_root=sys.argv[1])
assert "tensorboard" in trainer.plugins
trainer.fit(Silent(), TinyDataModule())
assert "tensorboard" not in sys.modules, "imported too early"
"""


def test_tensorboard_is_not_imported_before_it_is_needed(tmp_path: pathlib.Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HELIOS_")}
    done = subprocess.run(
        [sys.executable, "-c", _LAZY, str(tmp_path)], capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
