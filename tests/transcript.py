"""A transcript of a run: a plug-in, a model and data that write down every call, in order.

The plug-in implements every hook; the model and the data override every method.
"""

import contextlib
import pathlib
import textwrap
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import TensorDataset

from helios import DataModule, Model, Plugin, TrainingState

Write = Callable[..., None]


def shown(value: Any) -> str:
    """Return an argument in a few characters."""
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

    def on_model_ready(self, model):
        self._write("on_model_ready", model)

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

    def on_training_batch_start(self, batch, samples, state):
        self._write("on_training_batch_start", batch, samples, state)

    def on_before_backward(self, loss, optimizer, state):
        self._write("on_before_backward", optimizer, state)

    def on_after_backward(self, loss, optimizer, state):
        self._write("on_after_backward", optimizer, state)

    def on_gradients_ready(self, optimizer, state):
        gradient = optimizer.param_groups[0]["params"][0].grad.item()
        self._write("on_gradients_ready", optimizer, gradient, state)

    def on_before_optimizer_step(self, optimizer, state):
        gradient = optimizer.param_groups[0]["params"][0].grad.item()
        self._write("on_before_optimizer_step", optimizer, gradient, state)

    def on_after_optimizer_step(self, optimizer, state):
        gradient = optimizer.param_groups[0]["params"][0].grad
        self._write("on_after_optimizer_step", optimizer, gradient, state)

    def on_optimizer_step_skipped(self, optimizer, reason, state):
        self._write("on_optimizer_step_skipped", optimizer, reason, state)

    def on_training_batch_end(self, outputs, batch, samples, state):
        self._write("on_training_batch_end", outputs, batch, samples, state)

    def on_log(self, metrics, phase, state):
        self._write("on_log", metrics, phase, state)

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

    def on_validation_batch_start(self, batch, samples, step):
        self._write("on_validation_batch_start", batch, samples, step)

    def on_validation_batch_end(self, outputs, batch, samples, step):
        self._write("on_validation_batch_end", outputs, batch, samples, step)

    def on_validation_end(self, validation_cycle):
        self._write("on_validation_end", validation_cycle)

    def on_validation_results(self, metrics, improved, validation_cycle):
        self._write("on_validation_results", metrics, improved, validation_cycle)

    def on_testing_start(self):
        self._write("on_testing_start")

    def process_testing_batch(self, batch, step):
        self._write("process_testing_batch", batch, step)
        return batch[0] * 10

    def on_testing_batch_start(self, batch, samples, step):
        self._write("on_testing_batch_start", batch, samples, step)

    def on_testing_batch_end(self, outputs, batch, samples, step):
        self._write("on_testing_batch_end", outputs, batch, samples, step)

    def on_testing_end(self):
        self._write("on_testing_end")

    def on_prediction_start(self):
        self._write("on_prediction_start")

    def process_prediction_batch(self, batch, step):
        self._write("process_prediction_batch", batch, step)
        return batch[0] * 10

    def on_prediction_batch_start(self, batch, samples, step):
        self._write("on_prediction_batch_start", batch, samples, step)

    def on_prediction_batch_end(self, outputs, batch, samples, step):
        self._write("on_prediction_batch_end", outputs, batch, samples, step)

    def on_prediction_end(self):
        self._write("on_prediction_end")

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

    def predict_step(self, batch, step):
        assert not self.net.training
        assert not torch.is_grad_enabled()
        self._write("predict_step", batch, step)
        self.log("predicted", batch.mean())
        return batch * 2


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


def check(transcript: Transcript, *expected: str) -> None:
    """Check that the transcript holds the expected lines, and no others."""
    wanted = [line for part in expected for line in textwrap.dedent(part).strip().splitlines()]
    assert transcript.lines == wanted


def resume(parts: Any, root: pathlib.Path) -> tuple[Any, ...]:
    """Train for two steps, and make the parts of a run that resumes from there."""
    arguments = {"train_unit": "iteration", "print_frequency": 3, "chkpt_root": root}
    trainer, model, data, _ = parts(total_steps=2, **arguments)
    trainer.fit(model, data)
    return parts(total_steps=3, **arguments)
