"""An LSTM that reads a long text in parts, and carries its hidden state from batch to batch."""

from typing import Any

import common
import torch
from torch import nn
from torch.utils.data import TensorDataset

import helios
from helios.core import rng

EPOCHS = 3
BATCH_SIZE = 16
LENGTH = 16
WIDTH = 64

Hidden = tuple[torch.Tensor, torch.Tensor]


class Network(nn.Module):
    """Predicts the next character after each character."""

    def __init__(self) -> None:
        super().__init__()
        count = len(common.CHARACTERS)
        self.characters, self.head = nn.Embedding(count, WIDTH), nn.Linear(WIDTH, count)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.dropout = nn.Dropout(0.1)

    def forward(self, text: torch.Tensor, hidden: Hidden) -> tuple[torch.Tensor, Hidden]:
        """Return the logits of the next characters, and the new hidden state."""
        outputs, hidden = self.lstm(self.characters(text), hidden)
        return self.head(self.dropout(outputs)), hidden


def zeros() -> Hidden:
    """Return the hidden state before the first character."""
    return torch.zeros(1, BATCH_SIZE, WIDTH), torch.zeros(1, BATCH_SIZE, WIDTH)


def compute_loss(
    network: nn.Module, text: torch.Tensor, hidden: Hidden
) -> tuple[torch.Tensor, Hidden]:
    """Return the cross entropy of the next characters, and the new hidden state, detached."""
    logits, (h, c) = network(text[:, :-1], hidden)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
    return loss, (h.detach(), c.detach())


def create_dataset() -> TensorDataset:
    """Cut the text into as many rows as a batch has; each batch continues the batch before it."""
    text = common.text()
    rows = text[: len(text) // BATCH_SIZE * BATCH_SIZE].view(BATCH_SIZE, -1)
    parts = rows.unfold(1, LENGTH + 1, LENGTH)  # rows, parts of a row, characters
    return TensorDataset(parts.transpose(0, 1).flatten(0, 1))


class Text(helios.DataModule):
    """The text in its order."""

    def setup(self) -> None:
        """Create the training set."""
        self._train_dataset = self._create_dataset(create_dataset(), {"batch_size": BATCH_SIZE})


class Reader(helios.Model):
    """Minimizes the cross entropy of the next characters."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network, optimizer and hidden state. A checkpoint contains all three."""
        self.network = self.prepare(Network())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-2)
        self.hidden = zeros()

    def on_training_epoch_start(self, current_epoch: int) -> None:
        """Start from the beginning of the text."""
        self.hidden = zeros()

    def train_step(self, batch: list[torch.Tensor], state: helios.TrainingState) -> None:
        """Train on a batch."""
        loss, self.hidden = compute_loss(self.network, *batch, self.hidden)
        self.optimize(loss, self.optimizer, clip_norm=1.0)


def run(accumulate: int = 1, **arguments: Any) -> common.Networks:
    """Train with Helios."""
    model = Reader("lstm")
    common.fit(model, Text(), total_steps=EPOCHS, accumulation_steps=accumulate, **arguments)
    return {"network": model.network}


def plain(accumulate: int = 1) -> common.Networks:
    """Train with a plain PyTorch loop."""
    rng.seed_rngs(common.SEED)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for epoch in range(EPOCHS):
        hidden = zeros()
        batches = common.loader(create_dataset(), BATCH_SIZE, epoch, shuffle=False)
        for batch, size, is_last in common.in_windows(batches, accumulate):
            loss, hidden = compute_loss(network, *batch, hidden)
            (loss / size).backward()
            if is_last:
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return {"network": network}


@torch.no_grad()
def result(networks: common.Networks) -> str:
    """Return the loss on the first part of the text."""
    (parts,) = create_dataset().tensors
    loss, _ = compute_loss(networks["network"].eval(), parts[:BATCH_SIZE], zeros())
    return f"loss: {loss:.3f}"


if __name__ == "__main__":
    common.main(run, plain, result)
