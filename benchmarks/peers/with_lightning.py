"""Lightning beside the raw loop."""

import logging
import warnings
from typing import Any

import lightning
import torch
from alternate import Alternation, Features, first, loss_of, network, optimizer_of, raw_loader
from common import Fit, report


class Module(lightning.LightningModule):
    """The usual step."""

    def __init__(self, alternation: Alternation) -> None:
        super().__init__()
        self.alternation = alternation
        self.net = network()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """Return the loss."""
        self.alternation.tick()
        return loss_of(self.net, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return optimizer_of(self.net)


class Busy(lightning.Callback):
    """Is called at the end of each batch."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Do nothing."""


class Idle(lightning.Callback):
    """Is not called in a step."""

    def on_train_end(self, *arguments: Any) -> None:
        """Do nothing."""


def fit(callbacks: int = 0, kind: type[lightning.Callback] = Busy) -> Fit:
    def run(steps: int) -> Alternation:
        alternation = Alternation()
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[kind() for _ in range(callbacks)],
        )
        trainer.fit(Module(alternation), raw_loader(Features(steps), collate_fn=first))
        return alternation

    return run


logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")
report(
    "lightning",
    "lightning",
    fit(),
    {
        "10 plug-ins at each batch's end": fit(10),
        "100 plug-ins at each batch's end": fit(100),
        "100 idle plug-ins": fit(100, Idle),
    },
    steps=300,
)
