"""The runs whose checkpoints release 0.2 wrote: model, data and plug-ins.

The script ``fixtures/make_release_0_2.py`` trains them with release 0.2, and the test
``test_release_0_2.py`` resumes them with the present code. Both import this module, so it uses only
documented names of Helios. Every batch that is logged has 4 samples, a power of two: a mean over
samples then has the same bits as a mean over batches.
"""

import dataclasses
import hashlib
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, get_worker_info

import helios
from helios.core.rng import get_default_numpy_rng

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "release_0_2"
ARITHMETIC = FIXTURES / "arithmetic.pth"
SAVE_NAME = "resumed"


@dataclasses.dataclass(frozen=True)
class Case:
    """A run, and the places where release 0.2 stopped it.

    Attributes:
        covers: the parts of the format that only this case holds, for the reader.
        arguments: of the trainer.
        stops: the numbers of the training batches after which release 0.2 stopped, one a process.
            The fixture is the checkpoint of the last stop.
        data: the training set: ``"map"``, ``"phases"``, ``"stream"`` or ``"stream in workers"``.
        optimizer: ``"sgd"`` or ``"adamw"``.
        has_guest: a plug-in with state is active, except in the last process of release 0.2.
        leave_validation: the number of the validation in which the last stop, an urgent one, comes.
        decide_at: the number of the training batch after which the model itself ends training.
        overflow_at: the number of the training batch whose gradients overflow.
    """

    covers: str
    arguments: dict[str, Any]
    stops: tuple[int, ...] = ()
    data: str = "map"
    optimizer: str = "sgd"
    has_guest: bool = False
    leave_validation: int | None = None
    decide_at: int | None = None
    overflow_at: int | None = None

    @property
    def resumes_after(self) -> int:
        """The number of the last training batch before the checkpoint."""
        return self.decide_at if self.decide_at is not None else self.stops[-1]


CASES = {
    "epochs": Case(
        "epochs, accumulation, shuffled and augmented samples, metrics in flight, validation,"
        " momentum, a scheduler, buffers, a parameter and a generator outside of modules",
        {
            "total_steps": 3,
            "accumulation_steps": 2,
            "valid_frequency": 1,
            "print_frequency": 2,
            "early_stop_cycles": 3,
        },
        stops=(10,),
    ),
    "iterations": Case(
        "optimizer steps whose windows span epochs, data phases, a scaler that has skipped a step,"
        " sums of losses, another optimizer and scheduler",
        {
            "train_unit": "iteration",
            "total_steps": 9,
            "accumulation_steps": 3,
            "valid_frequency": 2,
            "print_frequency": 4,
            "precision": "fp16",
        },
        stops=(15,),
        data="phases",
        optimizer="adamw",
        overflow_at=8,
    ),
    "stream": Case(
        "a stream without state, in bf16, with a last batch that is not full",
        {"total_steps": 3, "valid_frequency": 2, "precision": "bf16"},
        stops=(9,),
        data="stream",
    ),
    "stream-in-workers": Case(
        "a stream with state, read in two worker processes",
        {"train_unit": "iteration", "total_steps": 15, "valid_frequency": 5},
        stops=(8,),
        data="stream in workers",
    ),
    "absent-plug-in": Case(
        "the state of an absent plug-in, and a validation that an urgent stop interrupted",
        {"train_unit": "iteration", "total_steps": 12, "valid_frequency": 4, "print_frequency": 3},
        stops=(5, 8),
        has_guest=True,
        leave_validation=1,
    ),
    "decided": Case(
        "a model that has ended the training itself: the run stays ended",
        {"total_steps": 3, "print_frequency": 4},
        decide_at=9,
    ),
}


def draw() -> float:
    """Take a number from every generator that a run saves."""
    drawn = torch.rand(()).item() + random.random() + float(np.random.rand())
    return drawn + float(get_default_numpy_rng().random())


Sample = tuple[torch.Tensor, torch.Tensor, int]


class Samples(Dataset[Sample]):
    """Random features with a label that can be learnt, augmented, and the number of each sample."""

    def __init__(self, size: int, seed: int) -> None:
        self._features = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
        self._first = 1000 * seed

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int) -> Sample:
        features = self._features[index]
        label = (features[0] > features[1]).long()
        return features + 0.01 * draw(), label, self._first + index


class Shuffled(IterableDataset[Sample]):
    """A stream without state, in an order that it draws as it begins."""

    def __iter__(self) -> Iterator[Sample]:
        samples = Samples(22, seed=1)
        order = list(range(len(samples)))
        random.shuffle(order)
        return (samples[index] for index in order)


class Shared(IterableDataset[Sample]):
    """A stream that two workers share, with its state in the iterator."""

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        assert worker is not None
        return Share(range(16) if worker.id == 0 else range(16, 24))


class Share:
    """Yields samples in an order that it draws one by one."""

    def __init__(self, indices: range) -> None:
        self._samples, self._left = Samples(24, seed=1), list(indices)

    def __iter__(self) -> Iterator[Sample]:
        return self

    def __next__(self) -> Sample:
        if not self._left:
            raise StopIteration
        return self._samples[self._left.pop(random.randrange(len(self._left)))]

    def state_dict(self) -> dict[str, Any]:
        return {"left": list(self._left)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._left = list(state["left"])


class Data(helios.DataModule):
    """The training set of a case, and a validation set."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def setup(self) -> None:
        if self._kind == "stream":
            self._train_dataset = self._create_dataset(Shuffled(), {"batch_size": 4})
        elif self._kind == "stream in workers":
            params = {"batch_size": 4, "num_workers": 2}
            self._train_dataset = self._create_dataset(Shared(), params)
        else:
            params = {"batch_size": 4, "shuffle": True}
            self._add_train_phase(Samples(24, seed=1), params)
        if self._kind == "phases":
            self._add_train_phase(Samples(16, seed=2), {"batch_size": 4, "shuffle": True})
        self._valid_dataset = self._create_dataset(Samples(8, seed=3), {"batch_size": 4})


def network() -> nn.Module:
    """Create a network with weights, buffers and dropout."""
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))


class Classifier(helios.Model):
    """Has state of every kind that a checkpoint can hold."""

    def __init__(self, case: Case) -> None:
        super().__init__(SAVE_NAME)
        self._case = case

    def setup(self, fast_init: bool = False) -> None:
        self.net = self.prepare(network())
        self.bias = nn.Parameter(torch.zeros(2))
        self.noise = torch.Generator().manual_seed(5)
        parameters = [*self.net.parameters(), self.bias]
        if self._case.optimizer == "sgd":
            self.optimizer: Any = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
            self.scheduler: Any = torch.optim.lr_scheduler.StepLR(self.optimizer, 3, gamma=0.9)
        else:
            self.optimizer = torch.optim.AdamW(parameters, lr=0.05)
            self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=0)

    def train_step(self, batch: Any, state: helios.TrainingState) -> dict[str, Any]:
        features, labels, numbers = batch
        loss = self._loss(features + 0.01 * draw(), labels)
        self.log("loss", loss)
        self._loss_items["loss"] = loss
        overflows = self._case.overflow_at == state.global_iteration
        scaled = loss * float("inf") if overflows else loss
        is_taken = self.optimize(scaled, self.optimizer, clip_norm=1.0)
        if is_taken and self._case.optimizer == "sgd":
            self.scheduler.step()
        return {"loss": loss.detach(), "numbers": numbers.tolist(), "is_taken": is_taken}

    def valid_step(self, batch: Any, step: int) -> None:
        features, labels, _ = batch
        self.log("valid/loss", self._loss(features + 0.01 * draw(), labels))

    def on_validation_end(self, validation_cycle: int) -> None:
        self.metrics["sum of losses"] = float(self._running_losses["loss"])
        super().on_validation_end(validation_cycle)

    def have_metrics_improved(self) -> bool:
        newest = self.metrics["valid/loss"]
        best = self.metrics.get("best", float("inf"))
        self.metrics["best"] = min(best, newest)
        if self._case.optimizer == "adamw":
            self.scheduler.step(newest)
        return bool(newest < best)

    def should_training_stop(self) -> bool:
        return self.trainer.state.global_iteration == self._case.decide_at

    def should_advance_dataset_phase(self) -> bool:
        return self.trainer.state.global_epoch == 2

    def results(self) -> dict[str, Any]:
        """Return the states of all attributes, whatever a release saves of them."""
        return {
            "weights": dict(self.net.state_dict()),
            "bias": self.bias.detach(),
            "noise": self.noise.get_state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "metrics": dict(self.metrics),
        }

    def _loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        noise = 0.01 * torch.randn(2, generator=self.noise)
        return nn.functional.cross_entropy(self.net(features) + self.bias + noise, labels)


class Recorder(helios.Plugin):
    """Keeps what it was told, and an average with noise in it."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self._average = torch.zeros(())
        self._batches: list[Any] = []
        self._lines: list[Any] = []

    def setup(self) -> None: ...

    def on_training_batch_end(self, outputs: Any, state: helios.TrainingState) -> None:
        self._average = 0.5 * self._average + outputs["loss"] + draw()
        self._batches.append([state.global_epoch, outputs["numbers"], outputs["is_taken"]])

    def on_log(self, metrics: dict[str, float], state: helios.TrainingState) -> None:
        self._lines.append([state.current_iteration, dict(metrics)])

    def on_validation_end(self, validation_cycle: int) -> None:
        self._lines.append([validation_cycle, draw()])

    def state_dict(self) -> dict[str, Any]:
        return {
            "average": self._average,
            "batches": list(self._batches),
            "lines": list(self._lines),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average = state_dict["average"]
        self._batches, self._lines = list(state_dict["batches"]), list(state_dict["lines"])


class Guest(helios.Plugin):
    """Keeps numbers that it drew in the first epoch; its absence changes nothing afterwards."""

    def __init__(self) -> None:
        super().__init__("guest")
        self._drawn = torch.zeros(3)

    def setup(self) -> None: ...

    def on_training_epoch_start(self, state: helios.TrainingState) -> None:
        if state.global_epoch == 0:
            self._drawn = torch.rand(3)

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._drawn = state_dict["drawn"]


class Stop(helios.Plugin):
    """Stops a run.

    Args:
        batch: after the training batch of this number.
        validation: in the middle of the validation of this number.
    """

    def __init__(self, batch: int | None, validation: int | None) -> None:
        super().__init__("stop")
        self._batch, self._validation = batch, validation
        self._cycle = 0

    def setup(self) -> None:
        self.trainer.interruptible = self._validation is not None

    def on_training_batch_end(self, state: helios.TrainingState) -> None:
        if state.global_iteration == self._batch and self._validation is None:
            self.trainer.request_stop("enough for this process")

    def on_validation_start(self, validation_cycle: int) -> None:
        self._cycle = validation_cycle

    def on_validation_batch_end(self, step: int) -> None:
        if self._cycle == self._validation:
            self.trainer.request_stop("enough for this process", urgent=True)


def train(
    case: Case, root: pathlib.Path, stop: int | None = None, *, guest: bool = True
) -> tuple[dict[str, Any], int]:
    """Train or resume a case; return all that must be equal, and how many batches this took.

    Args:
        case: the run.
        root: the folder of the checkpoints.
        stop: the batch of the case after which to stop; ``None`` to train to the end.
        guest: let the guest of the case be active.
    """
    is_last = stop is not None and stop == case.stops[-1]
    recorder, visitor = Recorder(), Guest()
    plugins: list[Any] = [recorder, Stop(stop, case.leave_validation if is_last else None)]
    if case.has_guest and guest:
        plugins.append(visitor)
    trainer = helios.Trainer(
        chkpt_root=root,
        random_seed=7,
        use_cpu=True,
        autoload=False,
        print_banner=False,
        plugins=plugins,
        **case.arguments,
    )
    model = Classifier(case)
    state = trainer.fit(model, Data(case.data))
    results = {
        **model.results(),
        "counters": {
            "global_iteration": state.global_iteration,
            "current_iteration": state.current_iteration,
            "global_epoch": state.global_epoch,
            "dataset_iter": state.dataset_iter,
            "validation_cycles": state.validation_cycles,
            "early_stop_count": state.early_stop_count,
        },
        "recorder": recorder.state_dict(),
        "guest": visitor.state_dict() if case.has_guest else {},
        "generators": generators(),
    }
    return results, state.running_iter


def generators() -> dict[str, str]:
    """Return a digest of the state of each random number generator."""
    kind, keys, *others = np.random.get_state(legacy=True)
    states = {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": [kind, keys.tolist(), *others],
        "default numpy": get_default_numpy_rng().bit_generator.state,
    }
    return {name: hashlib.sha256(repr(s).encode()).hexdigest() for name, s in states.items()}


def arithmetic() -> dict[str, torch.Tensor]:
    """Return the bits that PyTorch alone computes here for networks like those of the cases.

    They depend on the processor, with or without Helios: another one may round differently.
    """
    results = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(3)
        net = network()
        optimizers = [
            torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
            torch.optim.AdamW(net.parameters(), lr=0.05),
        ]
        for step in range(20):
            features, labels = torch.randn(4 if step % 2 else 2, 4), torch.arange(2)
            with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
                loss = nn.functional.cross_entropy(net(features), labels.repeat(1 + step % 2))
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizers[step % 2].step()
            net.zero_grad()
        results[str(dtype)] = torch.cat([value.flatten() for value in net.state_dict().values()])
    return results
