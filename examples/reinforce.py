"""Reinforcement learning: a policy plays episodes, and learns from them by REINFORCE."""

import random
from typing import Any

import common
import torch
from torch import nn
from torch.utils.data import Dataset

import helios
from helios.core import rng

EPOCHS = 5
BATCH_SIZE = 16
EPISODES = 160  # in an epoch
MOVES = 10  # in an episode


class Episodes(Dataset[Any]):
    """The numbers and starting points of episodes, drawn from the global generators."""

    def __len__(self) -> int:
        return EPISODES

    def __getitem__(self, number: int) -> tuple[int, float]:
        return number, random.uniform(-4, 4)


def create_network() -> nn.Module:
    """Create a policy: from a position to the logits of a move to the left and to the right."""
    return nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2))


def play(policy: nn.Module, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Play an episode from each starting point: walk on a line, with wind, to its center.

    Returns:
        The logarithms of the probabilities of the moves, and the rewards; a row for each move.
    """
    position = starts.float().unsqueeze(1)
    logarithms, rewards = [], []
    for _ in range(MOVES):
        choices = torch.distributions.Categorical(logits=policy(position / 4))
        moves = choices.sample()
        logarithms.append(choices.log_prob(moves))
        position = position + (2 * moves - 1).unsqueeze(1) + 0.2 * torch.randn_like(position)
        rewards.append(-position.squeeze(1).abs())
    return torch.stack(logarithms), torch.stack(rewards)


def compute_loss(policy: nn.Module, starts: torch.Tensor) -> torch.Tensor:
    """Return the loss of REINFORCE; the baseline is the mean of the returns of a move."""
    logarithms, rewards = play(policy, starts)
    returns = rewards.flip(0).cumsum(dim=0).flip(0)
    return -(logarithms * (returns - returns.mean(dim=1, keepdim=True))).mean()


class Games(helios.DataModule):
    """The episodes."""

    def setup(self) -> None:
        """Create the training set; its samples draw from the random numbers of the training."""
        params = {"batch_size": BATCH_SIZE, "seeding": "none"}
        self._train_dataset = self._create_dataset(Episodes(), params)


class Player(helios.Model):
    """Plays a batch of episodes in each step."""

    def setup(self, fast_init: bool = False) -> None:
        """Create network and optimizer."""
        self.policy = self.prepare(create_network())
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=2e-2)

    def train_step(self, batch: list[torch.Tensor], state: helios.TrainingState) -> None:
        """Train on a batch."""
        _, starts = batch
        self.optimize(compute_loss(self.policy, starts), self.optimizer)


def run(accumulate: int = 1, **arguments: Any) -> common.Networks:
    """Train with Helios."""
    model = Player("reinforce")
    common.fit(model, Games(), total_steps=EPOCHS, accumulation_steps=accumulate, **arguments)
    return {"policy": model.policy}


def plain(accumulate: int = 1) -> common.Networks:
    """Train with a plain PyTorch loop."""
    rng.seed_rngs(common.SEED)
    policy = create_network()
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-2)
    for epoch in range(EPOCHS):
        batches = common.loader(Episodes(), BATCH_SIZE, epoch, shuffle=False)
        for (_, starts), size, is_last in common.in_windows(batches, accumulate):
            (compute_loss(policy, starts) / size).backward()
            if is_last:
                optimizer.step()
                optimizer.zero_grad()
    return {"policy": policy}


@torch.no_grad()
def result(networks: common.Networks) -> str:
    """Return the mean distance from the center after the last move."""
    _, rewards = play(networks["policy"], torch.linspace(-4, 4, 200))
    return f"mean distance from the center: {-rewards[-1].mean():.2f}"


if __name__ == "__main__":
    common.main(run, plain, result)
