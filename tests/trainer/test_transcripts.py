"""Everything that happens in a run, in order: whole transcripts, with all arguments.

A plug-in that implements every hook and a model and data that override every method write down
each call. The transcripts are written by hand; a difference is either a fault or a decision.
"""

import contextlib
import inspect
import pathlib
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Plugin, Trainer, TrainingState
from helios.plugins.hookspecs import HOOKS

Make = Callable[..., Trainer]
Write = Callable[..., None]


def shown(value: Any) -> str:
    """Show an argument in a few characters."""
    if isinstance(value, TrainingState):
        counters = value.global_epoch, value.dataset_iter, value.current_iteration
        return "epoch {}, batch {}, step {}".format(*counters)
    if isinstance(value, pathlib.Path):
        return value.stem
    if isinstance(value, torch.Tensor):
        return str(value.tolist())
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], torch.Tensor):
        return f"batch {value[0].tolist()}"  # as the loader yields it
    if isinstance(value, str | int | float | tuple | BaseException) or value is None:
        return repr(value)
    if isinstance(value, dict) and all(isinstance(item, float) for item in value.values()):
        return repr(value)
    return f"<{type(value).__name__}>"


class Everything(Plugin):
    """Implements every hook."""

    def __init__(self, write: Write) -> None:
        super().__init__("everything")
        self._write = write

    def configure_trainer(self, trainer):
        self._write("configure_trainer", trainer)

    def configure_model(self, model):
        self._write("configure_model", model)

    def launch(self, trainer, target):
        self._write("launch", trainer)
        result = target()
        self._write("launched")
        return result

    def setup(self):
        self._write("setup")

    def prepare_module(self, module):
        self._write("prepare_module", module)
        return module

    def wrap_batches(self, batches, phase):
        self._write("wrap_batches", batches, phase)
        return batches

    @contextlib.contextmanager
    def _around(self, phase):
        self._write("enter step", phase)
        yield
        self._write("leave step", phase)

    def step_context(self, phase):
        return self._around(phase)

    def on_training_start(self):
        self._write("on_training_start")

    def on_training_epoch_start(self, state):
        self._write("on_training_epoch_start", state)

    def process_training_batch(self, batch, state):
        self._write("process_training_batch", batch, state)
        return batch[0] * 10

    def on_training_batch_start(self, state):
        self._write("on_training_batch_start", state)

    def on_before_optimizer_step(self, optimizer, state):
        gradient = optimizer.param_groups[0]["params"][0].grad.item()
        self._write("on_before_optimizer_step", optimizer, gradient, state)

    def on_after_optimizer_step(self, optimizer, state):
        gradient = optimizer.param_groups[0]["params"][0].grad
        self._write("on_after_optimizer_step", optimizer, gradient, state)

    def on_training_batch_end(self, outputs, state):
        self._write("on_training_batch_end", outputs, state)

    def on_log(self, metrics, state):
        self._write("on_log", metrics, state)

    def should_training_stop(self):
        self._write("should_training_stop")
        return False

    def on_training_epoch_end(self, state):
        self._write("on_training_epoch_end", state)

    def on_training_end(self):
        self._write("on_training_end")

    def on_validation_start(self, validation_cycle):
        self._write("on_validation_start", validation_cycle)

    def process_validation_batch(self, batch, step):
        self._write("process_validation_batch", batch, step)
        return batch[0] * 10

    def on_validation_batch_end(self, outputs, step):
        self._write("on_validation_batch_end", outputs, step)

    def on_validation_end(self, validation_cycle):
        self._write("on_validation_end", validation_cycle)

    def on_testing_start(self):
        self._write("on_testing_start")

    def process_testing_batch(self, batch, step):
        self._write("process_testing_batch", batch, step)
        return batch[0] * 10

    def on_testing_batch_end(self, outputs, step):
        self._write("on_testing_batch_end", outputs, step)

    def on_testing_end(self):
        self._write("on_testing_end")

    def on_checkpoint_saved(self, path, state):
        assert path.is_file()
        self._write("on_checkpoint_saved", path, state)

    def on_checkpoint_loaded(self, path, state):
        self._write("on_checkpoint_loaded", path, state)

    def on_exception(self, error, state):
        self._write("on_exception", error, state)

    def teardown(self):
        self._write("teardown")

    def state_dict(self):
        self._write("state_dict")
        return {"kept": 1}

    def load_state_dict(self, state_dict):
        self._write("load_state_dict", state_dict["kept"])


class EveryMethod(Model):
    """Overrides every method; one weight, and a loss whose gradient is the batch's mean."""

    def __init__(self, write: Write) -> None:
        super().__init__("m")
        self._write = write

    def setup(self, fast_init=False):
        self._write("setup", fast_init)
        self.net = self.prepare(torch.nn.Linear(1, 1, bias=False))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.5)

    def append_metadata_to_chkpt_name(self, chkpt_name):
        self._write("append_metadata_to_chkpt_name", chkpt_name)
        return chkpt_name + "_x"

    def append_to_banner(self, banner):
        self._write("append_to_banner", banner[:6])
        return banner

    def state_dict(self):
        self._write("state_dict")
        return super().state_dict()

    def load_state_dict(self, state_dict, fast_init=False):
        self._write("load_state_dict", tuple(state_dict), fast_init)
        super().load_state_dict(state_dict, fast_init)

    def trained_state_dict(self):
        self._write("trained_state_dict")
        return {}

    def load_for_testing(self):
        self._write("load_for_testing")

    def train(self):
        self._write("train")
        super().train()

    def eval(self):
        self._write("eval")
        super().eval()

    def on_training_start(self):
        self._write("on_training_start")

    def on_training_epoch_start(self, current_epoch):
        self._write("on_training_epoch_start", current_epoch)

    def on_training_batch_start(self, state):
        self._write("on_training_batch_start", state)

    def train_step(self, batch, state):
        assert self.net.training
        assert torch.is_grad_enabled()
        self._write("train_step", batch, state)
        self.log("mean", batch.mean())
        loss = (self.net.weight * batch.mean()).sum()
        return "stepped" if self.optimize(loss, self.optimizer) else "accumulated"

    def on_training_batch_end(self, state, should_log=False):
        self._write("on_training_batch_end", state, should_log)

    def on_training_epoch_end(self, current_epoch):
        self._write("on_training_epoch_end", current_epoch)

    def on_training_end(self):
        self._write("on_training_end")

    def should_training_stop(self):
        self._write("should_training_stop")
        return False

    def on_validation_start(self, validation_cycle):
        self._write("on_validation_start", validation_cycle)

    def on_validation_batch_start(self, step):
        self._write("on_validation_batch_start", step)

    def valid_step(self, batch, step):
        assert not self.net.training
        assert not torch.is_grad_enabled()
        self._write("valid_step", batch, step)
        self.log("valid", batch.mean())
        return "validated"

    def on_validation_batch_end(self, step):
        self._write("on_validation_batch_end", step)

    def on_validation_end(self, validation_cycle):
        self._write("on_validation_end", validation_cycle)

    def have_metrics_improved(self):
        self._write("have_metrics_improved", self.metrics)
        return False

    def should_advance_dataset_phase(self):
        self._write("should_advance_dataset_phase")
        return True

    def on_testing_start(self):
        self._write("on_testing_start")

    def on_testing_batch_start(self, step):
        self._write("on_testing_batch_start", step)

    def test_step(self, batch, step):
        assert not self.net.training
        assert not torch.is_grad_enabled()
        self._write("test_step", batch, step)
        self.log("tested", batch[0].mean())
        return "tested"

    def on_testing_batch_end(self, step):
        self._write("on_testing_batch_end", step)

    def on_testing_end(self):
        self._write("on_testing_end")


class Three(DataModule):
    """Batches of one sample: 1, 2 and 3 to train on, 4 to validate, 5 to test."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    def prepare_data(self):
        self._write("prepare_data")

    def setup(self):
        self._write("setup")

        def samples(*values: float) -> TensorDataset:
            return TensorDataset(torch.tensor(values))

        self._train_dataset = self._create_dataset(samples(1.0, 2.0, 3.0), {})
        self._add_valid_dataset(samples(4.0), {})
        self._add_test_dataset(samples(5.0), {})

    def teardown(self):
        self._write("teardown")

    def advance_train_phase(self):
        self._write("advance_train_phase")
        return super().advance_train_phase()

    def state_dict(self):
        self._write("state_dict")
        return super().state_dict()

    def load_state_dict(self, state_dict):
        self._write("load_state_dict")
        super().load_state_dict(state_dict)


class Transcript:
    """What was called, one line a call."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def of(self, who: str) -> Write:
        def write(method: str, *arguments: Any) -> None:
            self.lines.append(f"{who}.{method}({'; '.join(map(shown, arguments))})")

        return write


@pytest.fixture
def parts(make_trainer: Make) -> Callable[..., tuple[Any, ...]]:
    """Make a trainer, a model and data that write into one new transcript."""

    def make(**arguments: Any) -> tuple[Any, ...]:
        transcript = Transcript()
        trainer = make_trainer(plugins=[Everything(transcript.of("plugin"))], **arguments)
        model, data = EveryMethod(transcript.of("model")), Three(transcript.of("data"))
        return trainer, model, data, transcript

    return make


def check(transcript: Transcript, *expected: str) -> None:
    wanted = [line for part in expected for line in textwrap.dedent(part).strip().splitlines()]
    assert transcript.lines == wanted


def own_methods(kind: type) -> set[str]:
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {name for name, function in functions if not name.startswith("_")}


def test_nothing_is_left_out() -> None:
    written = {name for name in vars(Everything) if not name.startswith("_")}
    assert written == {*HOOKS, "state_dict", "load_state_dict"}
    helpers = {"networks", "prepare", "log", "optimize"}  # called by models, not by the trainer
    assert {n for n in vars(EveryMethod) if not n.startswith("_")} == own_methods(Model) - helpers
    loaders = {"train_dataloader", "valid_dataloader", "test_dataloader"}
    helpers = loaders | {"get_train_steps_per_epoch"}
    assert {n for n in vars(Three) if not n.startswith("_")} == own_methods(DataModule) - helpers


def test_fit_in_epochs(parts: Any, tmp_path: pathlib.Path) -> None:
    trainer, model, data, transcript = parts(
        total_steps=2,
        valid_frequency=2,
        chkpt_frequency=1,
        print_frequency=2,
        accumulation_steps=2,
        chkpt_root=tmp_path,
    )
    trainer.fit(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.configure_trainer(<Trainer>)
        plugin.configure_model(<EveryMethod>)
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(False)
        plugin.prepare_module(<Linear>)
        plugin.on_training_start()
        model.on_training_start()
        model.train()
        plugin.on_training_epoch_start(epoch 0, batch 0, step 0)
        model.on_training_epoch_start(0)
        plugin.wrap_batches(<DataLoader>; 'training')
        plugin.process_training_batch(batch [1.0]; epoch 0, batch 0, step 0)
        plugin.on_training_batch_start(epoch 0, batch 0, step 0)
        model.on_training_batch_start(epoch 0, batch 0, step 0)
        plugin.enter step('training')
        model.train_step([10.0]; epoch 0, batch 0, step 0)
        plugin.leave step('training')
        plugin.on_training_batch_end('accumulated'; epoch 0, batch 0, step 0)
        model.on_training_batch_end(epoch 0, batch 0, step 0; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [2.0]; epoch 0, batch 1, step 1)
        plugin.on_training_batch_start(epoch 0, batch 1, step 1)
        model.on_training_batch_start(epoch 0, batch 1, step 1)
        plugin.enter step('training')
        model.train_step([20.0]; epoch 0, batch 1, step 1)
        plugin.on_before_optimizer_step(<SGD>; 15.0; epoch 0, batch 1, step 1)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 1, step 1)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 0, batch 1, step 1)
        model.on_training_batch_end(epoch 0, batch 1, step 1; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [3.0]; epoch 0, batch 2, step 2)
        plugin.on_training_batch_start(epoch 0, batch 2, step 2)
        model.on_training_batch_start(epoch 0, batch 2, step 2)
        plugin.enter step('training')
        model.train_step([30.0]; epoch 0, batch 2, step 2)
        plugin.on_before_optimizer_step(<SGD>; 30.0; epoch 0, batch 2, step 2)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 2, step 2)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 0, batch 2, step 2)
        model.on_training_batch_end(epoch 0, batch 2, step 2; True)
        plugin.on_log({'mean': 20.0}; epoch 0, batch 3, step 2)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.on_training_epoch_end(epoch 0, batch 3, step 2)
        model.on_training_epoch_end(0)
        model.should_advance_dataset_phase()
        data.advance_train_phase()
        model.append_metadata_to_chkpt_name('m_epoch_1_iter_2')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_1_iter_2_x; epoch 1, batch 0, step 2)
        plugin.on_training_epoch_start(epoch 1, batch 0, step 2)
        model.on_training_epoch_start(1)
        plugin.wrap_batches(<DataLoader>; 'training')
        plugin.process_training_batch(batch [1.0]; epoch 1, batch 0, step 2)
        plugin.on_training_batch_start(epoch 1, batch 0, step 2)
        model.on_training_batch_start(epoch 1, batch 0, step 2)
        plugin.enter step('training')
        model.train_step([10.0]; epoch 1, batch 0, step 2)
        plugin.leave step('training')
        plugin.on_training_batch_end('accumulated'; epoch 1, batch 0, step 2)
        model.on_training_batch_end(epoch 1, batch 0, step 2; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [2.0]; epoch 1, batch 1, step 3)
        plugin.on_training_batch_start(epoch 1, batch 1, step 3)
        model.on_training_batch_start(epoch 1, batch 1, step 3)
        plugin.enter step('training')
        model.train_step([20.0]; epoch 1, batch 1, step 3)
        plugin.on_before_optimizer_step(<SGD>; 15.0; epoch 1, batch 1, step 3)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 1, batch 1, step 3)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 1, batch 1, step 3)
        model.on_training_batch_end(epoch 1, batch 1, step 3; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [3.0]; epoch 1, batch 2, step 4)
        plugin.on_training_batch_start(epoch 1, batch 2, step 4)
        model.on_training_batch_start(epoch 1, batch 2, step 4)
        plugin.enter step('training')
        model.train_step([30.0]; epoch 1, batch 2, step 4)
        plugin.on_before_optimizer_step(<SGD>; 30.0; epoch 1, batch 2, step 4)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 1, batch 2, step 4)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 1, batch 2, step 4)
        model.on_training_batch_end(epoch 1, batch 2, step 4; True)
        plugin.on_log({'mean': 20.0}; epoch 1, batch 3, step 4)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.wrap_batches(<DataLoader>; 'validation')
        model.eval()
        plugin.on_validation_start(0)
        model.on_validation_start(0)
        plugin.process_validation_batch(batch [4.0]; 0)
        model.on_validation_batch_start(0)
        plugin.enter step('validation')
        model.valid_step([40.0]; 0)
        plugin.leave step('validation')
        plugin.on_validation_batch_end('validated'; 0)
        model.on_validation_batch_end(0)
        model.train()
        plugin.on_validation_end(0)
        model.on_validation_end(0)
        plugin.on_log({'valid': 40.0}; epoch 1, batch 3, step 4)
        model.have_metrics_improved({'valid': 40.0})
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.on_training_epoch_end(epoch 1, batch 3, step 4)
        model.on_training_epoch_end(1)
        model.should_advance_dataset_phase()
        data.advance_train_phase()
        model.append_metadata_to_chkpt_name('m_epoch_2_iter_4')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_2_iter_4_x; epoch 2, batch 0, step 4)
        plugin.on_training_end()
        model.on_training_end()
        data.teardown()
        plugin.teardown()
        plugin.launched()
        """,
    )


def test_fit_in_iterations(parts: Any, tmp_path: pathlib.Path) -> None:
    trainer, model, data, transcript = parts(
        train_unit="iteration",
        total_steps=4,
        valid_frequency=4,
        chkpt_frequency=2,
        print_frequency=3,
        chkpt_root=tmp_path,
    )
    trainer.fit(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.configure_trainer(<Trainer>)
        plugin.configure_model(<EveryMethod>)
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(False)
        plugin.prepare_module(<Linear>)
        plugin.on_training_start()
        model.on_training_start()
        model.train()
        plugin.on_training_epoch_start(epoch 0, batch 0, step 0)
        model.on_training_epoch_start(0)
        plugin.wrap_batches(<DataLoader>; 'training')
        plugin.process_training_batch(batch [1.0]; epoch 0, batch 0, step 1)
        plugin.on_training_batch_start(epoch 0, batch 0, step 1)
        model.on_training_batch_start(epoch 0, batch 0, step 1)
        plugin.enter step('training')
        model.train_step([10.0]; epoch 0, batch 0, step 1)
        plugin.on_before_optimizer_step(<SGD>; 10.0; epoch 0, batch 0, step 1)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 0, step 1)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 0, batch 0, step 1)
        model.on_training_batch_end(epoch 0, batch 0, step 1; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.process_training_batch(batch [2.0]; epoch 0, batch 1, step 2)
        plugin.on_training_batch_start(epoch 0, batch 1, step 2)
        model.on_training_batch_start(epoch 0, batch 1, step 2)
        plugin.enter step('training')
        model.train_step([20.0]; epoch 0, batch 1, step 2)
        plugin.on_before_optimizer_step(<SGD>; 20.0; epoch 0, batch 1, step 2)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 1, step 2)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 0, batch 1, step 2)
        model.on_training_batch_end(epoch 0, batch 1, step 2; False)
        plugin.should_training_stop()
        model.should_training_stop()
        model.append_metadata_to_chkpt_name('m_epoch_0_iter_2')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_0_iter_2_x; epoch 0, batch 2, step 2)
        plugin.process_training_batch(batch [3.0]; epoch 0, batch 2, step 3)
        plugin.on_training_batch_start(epoch 0, batch 2, step 3)
        model.on_training_batch_start(epoch 0, batch 2, step 3)
        plugin.enter step('training')
        model.train_step([30.0]; epoch 0, batch 2, step 3)
        plugin.on_before_optimizer_step(<SGD>; 30.0; epoch 0, batch 2, step 3)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 2, step 3)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 0, batch 2, step 3)
        model.on_training_batch_end(epoch 0, batch 2, step 3; True)
        plugin.on_log({'mean': 20.0}; epoch 0, batch 3, step 3)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.on_training_epoch_end(epoch 0, batch 3, step 3)
        model.on_training_epoch_end(0)
        model.should_advance_dataset_phase()
        data.advance_train_phase()
        plugin.on_training_epoch_start(epoch 1, batch 0, step 3)
        model.on_training_epoch_start(1)
        plugin.wrap_batches(<DataLoader>; 'training')
        plugin.process_training_batch(batch [1.0]; epoch 1, batch 0, step 4)
        plugin.on_training_batch_start(epoch 1, batch 0, step 4)
        model.on_training_batch_start(epoch 1, batch 0, step 4)
        plugin.enter step('training')
        model.train_step([10.0]; epoch 1, batch 0, step 4)
        plugin.on_before_optimizer_step(<SGD>; 10.0; epoch 1, batch 0, step 4)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 1, batch 0, step 4)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 1, batch 0, step 4)
        model.on_training_batch_end(epoch 1, batch 0, step 4; False)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.wrap_batches(<DataLoader>; 'validation')
        model.eval()
        plugin.on_validation_start(0)
        model.on_validation_start(0)
        plugin.process_validation_batch(batch [4.0]; 0)
        model.on_validation_batch_start(0)
        plugin.enter step('validation')
        model.valid_step([40.0]; 0)
        plugin.leave step('validation')
        plugin.on_validation_batch_end('validated'; 0)
        model.on_validation_batch_end(0)
        model.train()
        plugin.on_validation_end(0)
        model.on_validation_end(0)
        plugin.on_log({'valid': 40.0}; epoch 1, batch 1, step 4)
        model.have_metrics_improved({'valid': 40.0})
        plugin.should_training_stop()
        model.should_training_stop()
        model.append_metadata_to_chkpt_name('m_epoch_1_iter_4')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_1_iter_4_x; epoch 1, batch 1, step 4)
        plugin.on_training_end()
        model.on_training_end()
        data.teardown()
        plugin.teardown()
        plugin.launched()
        """,
    )


def resume(parts: Any, root: pathlib.Path) -> tuple[Any, ...]:
    """Train for two steps, and make the parts of a run that goes on from there."""
    arguments = {"train_unit": "iteration", "print_frequency": 3, "chkpt_root": root}
    trainer, model, data, _ = parts(total_steps=2, **arguments)
    trainer.fit(model, data)
    return parts(total_steps=3, **arguments)


def test_resumed_fit(parts: Any, tmp_path: pathlib.Path) -> None:
    trainer, model, data, transcript = resume(parts, tmp_path)
    trainer.fit(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.configure_trainer(<Trainer>)
        plugin.configure_model(<EveryMethod>)
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(False)
        plugin.prepare_module(<Linear>)
        model.load_state_dict(('net', 'optimizer'); False)
        plugin.load_state_dict(1)
        data.load_state_dict()
        plugin.on_checkpoint_loaded(m_epoch_0_iter_2_x; epoch 0, batch 2, step 2)
        plugin.on_training_start()
        model.on_training_start()
        model.train()
        plugin.wrap_batches(<DataLoader>; 'training')
        plugin.process_training_batch(batch [3.0]; epoch 0, batch 2, step 3)
        plugin.on_training_batch_start(epoch 0, batch 2, step 3)
        model.on_training_batch_start(epoch 0, batch 2, step 3)
        plugin.enter step('training')
        model.train_step([30.0]; epoch 0, batch 2, step 3)
        plugin.on_before_optimizer_step(<SGD>; 30.0; epoch 0, batch 2, step 3)
        plugin.on_after_optimizer_step(<SGD>; None; epoch 0, batch 2, step 3)
        plugin.leave step('training')
        plugin.on_training_batch_end('stepped'; epoch 0, batch 2, step 3)
        model.on_training_batch_end(epoch 0, batch 2, step 3; True)
        plugin.on_log({'mean': 20.0}; epoch 0, batch 3, step 3)
        plugin.should_training_stop()
        model.should_training_stop()
        plugin.on_training_epoch_end(epoch 0, batch 3, step 3)
        model.on_training_epoch_end(0)
        model.should_advance_dataset_phase()
        data.advance_train_phase()
        model.append_metadata_to_chkpt_name('m_epoch_1_iter_3')
        model.state_dict()
        data.state_dict()
        plugin.state_dict()
        plugin.on_checkpoint_saved(m_epoch_1_iter_3_x; epoch 1, batch 0, step 3)
        plugin.on_training_end()
        model.on_training_end()
        data.teardown()
        plugin.teardown()
        plugin.launched()
        """,
    )


TESTING = """
    plugin.wrap_batches(<DataLoader>; 'testing')
    plugin.on_testing_start()
    model.on_testing_start()
    model.eval()
    plugin.process_testing_batch(batch [5.0]; 0)
    model.on_testing_batch_start(0)
    plugin.enter step('testing')
    model.test_step([50.0]; 0)
    plugin.leave step('testing')
    plugin.on_testing_batch_end('tested'; 0)
    model.on_testing_batch_end(0)
    plugin.on_testing_end()
    model.on_testing_end()
    plugin.on_log({'tested': 50.0}; %s)
    data.teardown()
    plugin.teardown()
    plugin.launched()
"""


def test_test_without_a_checkpoint(parts: Any) -> None:
    trainer, model, data, transcript = parts()
    trainer.test(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.configure_trainer(<Trainer>)
        plugin.configure_model(<EveryMethod>)
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(True)
        plugin.prepare_module(<Linear>)
        model.load_for_testing()
        """,
        TESTING % "epoch 0, batch 0, step 0",
    )


def test_test_of_a_checkpoint(parts: Any, tmp_path: pathlib.Path) -> None:
    trainer, model, data, transcript = resume(parts, tmp_path)
    trainer.test(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.configure_trainer(<Trainer>)
        plugin.configure_model(<EveryMethod>)
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(True)
        plugin.prepare_module(<Linear>)
        model.load_state_dict(('net', 'optimizer'); True)
        plugin.load_state_dict(1)
        plugin.on_checkpoint_loaded(m_epoch_0_iter_2_x; epoch 0, batch 2, step 2)
        """,
        TESTING % "epoch 0, batch 2, step 2",
    )


def test_test_after_fit(parts: Any) -> None:
    trainer, model, data, transcript = parts(total_steps=1)
    trainer.fit(model, data)
    transcript.lines.clear()
    trainer.test(model, data)
    check(
        transcript,
        """
        data.prepare_data()
        plugin.launch(<Trainer>)
        model.append_to_banner('Helios')
        plugin.setup()
        data.setup()
        model.setup(True)
        plugin.prepare_module(<Linear>)
        model.load_state_dict(('net', 'optimizer'); True)
        plugin.load_state_dict(1)
        """,
        TESTING % "epoch 1, batch 0, step 3",
    )


def test_failing_fit(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, model, data, transcript = parts()
    error = ValueError("in a step")

    def fail(batch: Any, state: TrainingState) -> None:
        raise error

    monkeypatch.setattr(model, "train_step", fail)
    with pytest.raises(ValueError, match="in a step"):
        trainer.fit(model, data)
    lines = transcript.lines
    begin = lines.index("plugin.enter step('training')")
    assert lines[begin:] == [
        "plugin.enter step('training')",
        "plugin.on_exception(ValueError('in a step'); epoch 0, batch 0, step 1)",
        "data.teardown()",
        "plugin.teardown()",
    ]


def test_plugins_in_order_before_the_model(make_trainer: Make) -> None:
    transcript = Transcript()

    class Named(Plugin):
        def __init__(self, plug_id: str) -> None:
            super().__init__(plug_id)
            self._write = transcript.of(plug_id)

        def setup(self) -> None:
            self._write("setup")

        @contextlib.contextmanager
        def _around(self, phase: str) -> Iterator[None]:
            self._write("enter", phase)
            yield
            self._write("leave", phase)

        def step_context(self, phase: str) -> Any:
            return self._around(phase) if phase == "testing" else None

        def on_testing_start(self) -> None:
            self._write("on_testing_start")

        def on_testing_end(self) -> None:
            self._write("on_testing_end")

        def teardown(self) -> None:
            self._write("teardown")

    trainer = make_trainer(plugins=[Named("first"), Named("second")])
    trainer.test(EveryMethod(transcript.of("model")), Three(transcript.of("data")))
    check(
        transcript,
        """
        data.prepare_data()
        model.append_to_banner('Helios')
        first.setup()
        second.setup()
        data.setup()
        model.setup(True)
        model.load_for_testing()
        first.on_testing_start()
        second.on_testing_start()
        model.on_testing_start()
        model.eval()
        model.on_testing_batch_start(0)
        first.enter('testing')
        second.enter('testing')
        model.test_step(batch [5.0]; 0)
        second.leave('testing')
        first.leave('testing')
        model.on_testing_batch_end(0)
        first.on_testing_end()
        second.on_testing_end()
        model.on_testing_end()
        data.teardown()
        second.teardown()
        first.teardown()
        """,
    )
