"""The trainer of transformers beside the raw loop."""

import tempfile
import warnings
from typing import Any

import torch
from alternate import Alternation, Features, first, loss_of, network, optimizer_of
from common import Fit, report
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments


class Net(torch.nn.Module):
    """Returns the loss, as this trainer wants it."""

    def __init__(self, alternation: Alternation) -> None:
        super().__init__()
        self.alternation = alternation
        self.net = network()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss."""
        self.alternation.tick()
        return {"loss": loss_of(self.net, (x, y))}


class Busy(TrainerCallback):
    """Is called at the end of each step."""

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
        """Do nothing."""


class Idle(TrainerCallback):
    """Is not called in a step."""

    def on_train_end(self, *arguments: Any, **keywords: Any) -> None:
        """Do nothing."""


def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
    return dict(zip("xy", first(samples), strict=True))


def fit(callbacks: int = 0, kind: type[TrainerCallback] = Busy) -> Fit:
    def run(steps: int) -> Alternation:
        alternation = Alternation()
        net = Net(alternation)
        optimizer = optimizer_of(net)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=1,
                report_to=[],
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                max_grad_norm=0.0,
                remove_unused_columns=False,
            )
            trainer = Trainer(
                net,
                settings,
                data_collator=collate,
                train_dataset=Features(steps),
                optimizers=(optimizer, schedule),
                callbacks=[kind() for _ in range(callbacks)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return alternation

    return run


warnings.simplefilter("ignore")
report(
    "transformers",
    "transformers.trainer",
    fit(),
    {
        "10 plug-ins at each batch's end": fit(10),
        "100 plug-ins at each batch's end": fit(100),
        "100 idle plug-ins": fit(100, Idle),
    },
    steps=300,
)
