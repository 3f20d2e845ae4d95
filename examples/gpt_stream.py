"""The GPT of gpt.py, trained on a stream: a dataset without length that saves its own position."""

import random
from collections.abc import Iterator
from typing import Any

import common
import torch
from gpt import GPT, LENGTH, compute_loss
from torch.utils.data import DataLoader, IterableDataset

import helios
from helios.core import rng

EPOCHS = 3
BATCH_SIZE = 8
BUFFER_SIZE = 20


class Stream(IterableDataset[torch.Tensor]):
    """Reads the text from beginning to end, and shuffles its chunks in a buffer."""

    def __init__(self) -> None:
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Start from the beginning; Helios calls this before each epoch."""
        self.begin = 0
        self.buffer: list[torch.Tensor] = []
        self.random = random.Random(epoch)

    def __iter__(self) -> Iterator[torch.Tensor]:
        text = common.text()
        while True:
            while len(self.buffer) < BUFFER_SIZE and self.begin + LENGTH < len(text):
                self.buffer.append(text[self.begin : self.begin + LENGTH + 1])
                self.begin += LENGTH
            if not self.buffer:
                return
            yield self.buffer.pop(self.random.randrange(len(self.buffer)))

    def state_dict(self) -> dict[str, Any]:
        """Return the position, the buffer and the generator."""
        state = {"begin": self.begin, "buffer": self.buffer, "random": self.random.getstate()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict() returned."""
        self.begin, self.buffer = state["begin"], list(state["buffer"])
        self.random.setstate(state["random"])


class Text(helios.DataModule):
    """The stream."""

    def setup(self) -> None:
        """Create the training set."""
        self._train_dataset = self._create_dataset(Stream(), {"batch_size": BATCH_SIZE})


class LanguageModel(helios.Model):
    """Minimizes the cross entropy of the next characters."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.network = self.prepare(GPT())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-2)

    def train_step(self, batch: torch.Tensor, state: helios.TrainingState) -> None:
        """Train on a batch."""
        self.optimize(compute_loss(self.network, batch), self.optimizer)


def run(accumulate: int = 1, **arguments: Any) -> common.Networks:
    """Train with Helios."""
    model = LanguageModel("gpt-stream")
    common.fit(model, Text(), total_steps=EPOCHS, accumulation_steps=accumulate, **arguments)
    return {"network": model.network}


def plain(accumulate: int = 1) -> common.Networks:
    """Train with a plain PyTorch loop."""
    rng.seed_rngs(common.SEED)
    network = GPT()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    stream = Stream()
    for epoch in range(EPOCHS):
        stream.set_epoch(epoch)
        # Its own generator: by default, an iterator draws from the global generator.
        batches = list(DataLoader(stream, BATCH_SIZE, generator=torch.Generator()))
        for batch, size, is_last in common.in_windows(batches, accumulate):
            (compute_loss(network, batch) / size).backward()
            if is_last:
                optimizer.step()
                optimizer.zero_grad()
    return {"network": network}


@torch.no_grad()
def result(networks: common.Networks) -> str:
    """Return the loss on the whole text."""
    return f"loss: {compute_loss(networks['network'].eval(), torch.stack(list(Stream()))):.3f}"


if __name__ == "__main__":
    common.main(run, plain, result)
