"""A search over scikit-learn's digits, which can be killed at a chosen moment.

    python digits.py ROOT TRIALS [KILL_AT]

It prints what the study knows at the end, and the number of files that were opened, as JSON.
"""

import functools
import json
import os
import signal
import sys
from typing import Any

import optuna
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import helios
from helios.plugins.optuna import tune

SPACE = {
    "lr": optuna.distributions.FloatDistribution(3e-4, 3e-2, log=True),
    "width": optuna.distributions.IntDistribution(64, 256),
    "activation": optuna.distributions.CategoricalDistribution(["ReLU", "Tanh"]),
}


class Digits(helios.DataModule):
    """Four fifths for training, and the rest for validation."""

    def setup(self) -> None:
        images, labels = load_digits(return_X_y=True)
        pixels = torch.tensor(images, dtype=torch.float32) / 16
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(2))
        parts = [
            TensorDataset(pixels[part], torch.tensor(labels)[part])
            for part in (order[360:], order[:360])
        ]
        self._add_train_phase(parts[0], {"batch_size": 64, "shuffle": True, "seeding": "none"})
        self._add_valid_dataset(parts[1], {"batch_size": 360})


class Classifier(helios.Model):
    """A network with one hidden layer."""

    def __init__(self, lr: float, width: int, activation: str) -> None:
        super().__init__("digits")
        self._lr, self._width, self._activation = lr, width, activation

    def setup(self, fast_init: bool = False) -> None:
        hidden = [nn.Linear(64, self._width), getattr(nn, self._activation)()]
        self.net = self.prepare(nn.Sequential(*hidden, nn.Linear(self._width, 10)))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=self._lr)

    def train_step(self, batch: Any, state: helios.TrainingState) -> None:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.optimize(loss, self.optimizer)

    def valid_step(self, batch: Any, step: int) -> None:
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())


class Kill:
    """Kills this process when it opens its n-th file from now on."""

    def __init__(self, at: int) -> None:
        self.opened = 0
        self._at = at
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename"):
            if self.opened == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.opened += 1


def search(root: str, trials: int, **options: Any) -> Any:
    return tune(
        Classifier,
        Digits(),
        SPACE,
        trials,
        trainer=functools.partial(
            helios.Trainer,
            total_steps=10,
            valid_frequency=1,
            chkpt_frequency=3,
            keep_last=1,
            use_cpu=True,
            print_banner=False,
            autoload=False,
        ),
        metric_name="accuracy",
        direction="maximize",
        root=root,
        sampler=functools.partial(optuna.samplers.TPESampler, n_startup_trials=5),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        seed=2,
        verbose=False,
        **options,
    )


def facts(study: Any) -> list[Any]:
    return [
        [t.number, t.state.name, t.params, t.value, sorted(t.intermediate_values.items())]
        for t in study.trials
    ]


def main(root: str, trials: str, kill_at: str = "-1") -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    kill = Kill(int(kill_at))
    study = search(root, int(trials))
    opened = kill.opened
    print(json.dumps({"trials": facts(study), "opened": opened}))


if __name__ == "__main__":
    main(*sys.argv[1:])
