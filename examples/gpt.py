"""A small GPT that learns to add; steps count, the gradients are clipped, the rate warms up."""

import itertools
from typing import Any

import common
import torch
from torch import nn
from torch.utils.data import TensorDataset

import helios
from helios.core import rng

STEPS = 24
BATCH_SIZE = 8
LENGTH = 32


class Block(nn.Module):
    """A transformer block that attends only to earlier characters."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input with the results of attention and MLP added."""
        parts = self.attention(self.norms[0](x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.projection(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.norms[1](x)))


class GPT(nn.Module):
    """Predicts the next character after each character."""

    def __init__(self, width: int = 32, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(common.CHARACTERS), width)
        self.positions = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(common.CHARACTERS)))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next characters."""
        positions = self.positions(torch.arange(text.shape[1]))
        return self.head(self.blocks(self.characters(text) + positions))


def compute_loss(network: nn.Module, text: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of the next characters."""
    return nn.functional.cross_entropy(network(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())


def create_dataset() -> TensorDataset:
    """Cut the text into chunks; the last character of a chunk is the first one of the next."""
    return TensorDataset(common.text().unfold(0, LENGTH + 1, LENGTH))


class Text(helios.DataModule):
    """The chunks of the text in random order."""

    def setup(self) -> None:
        """Create the training set."""
        params = {"batch_size": BATCH_SIZE, "shuffle": True}
        self._train_dataset = self._create_dataset(create_dataset(), params)


class LanguageModel(helios.Model):
    """Minimizes the cross entropy of the next characters."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network, optimizer and scheduler."""
        self.network = self.prepare(GPT())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.1, total_iters=8)

    def train_step(self, batch: list[torch.Tensor], state: helios.TrainingState) -> None:
        """Train on a batch; the scheduler counts optimizer steps."""
        loss = compute_loss(self.network, *batch)
        if self.optimize(loss, self.optimizer, clip_norm=1.0):
            self.scheduler.step()


def run(accumulate: int = 1, **arguments: Any) -> common.Networks:
    """Train with Helios."""
    settings = {"train_unit": "iteration", "total_steps": STEPS, "accumulation_steps": accumulate}
    model = LanguageModel("gpt")
    common.fit(model, Text(), **settings, **arguments)
    return {"network": model.network}


def plain(accumulate: int = 1) -> common.Networks:
    """Train with a plain PyTorch loop."""
    rng.seed_rngs(common.SEED)
    network = GPT()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=8)
    epochs = (common.loader(create_dataset(), BATCH_SIZE, epoch) for epoch in itertools.count())
    batches = itertools.islice(itertools.chain.from_iterable(epochs), STEPS * accumulate)
    for number, batch in enumerate(batches, start=1):
        (compute_loss(network, *batch) / accumulate).backward()
        if number % accumulate == 0:
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return {"network": network}


@torch.no_grad()
def result(networks: common.Networks) -> str:
    """Return the loss on the whole text."""
    (chunks,) = create_dataset().tensors
    return f"loss: {compute_loss(networks['network'].eval(), chunks):.3f}"


if __name__ == "__main__":
    common.main(run, plain, result)
