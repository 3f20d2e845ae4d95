"""Ranks with other optimizers or data sets end at the start, with the difference."""

import os
from typing import Any

from started_ranks import StartRanks
from torch.optim import SGD

from helios import Trainer
from helios.errors import ConfigurationError, RanksDifferError
from helios.testing import TinyDataModule, TinyModel


def rank() -> int:
    return int(os.environ["RANK"])


class MoreOptimizers(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        if rank():
            self.other = SGD([self.net[0].weight], lr=0.1)


class Longer(TinyDataModule):
    """Has as many batches in each rank, but not as many samples."""

    def __init__(self) -> None:
        super().__init__(27 + rank(), 8)


class Shuffled(TinyDataModule):
    def setup(self) -> None:
        super().setup()
        self._train_dataset = self._create_dataset(
            self._train_dataset.dataset if self._train_dataset is not None else [],
            {"batch_size": 8, "shuffle": rank() == 0},
        )


CASES: list[tuple[type[TinyModel], type[TinyDataModule], int | None, str]] = [
    (MoreOptimizers, TinyDataModule, None, "(SGD of 4 parameters, SGD of 1 parameters) than in"),
    (TinyModel, Longer, None, "27 samples of ResumableRandomSampler(seed=6691) on rank 0, 28"),
    (TinyModel, Shuffled, None, "22 samples of ResumableSequentialSampler() on rank 1"),
    (TinyModel, Longer, 2, "the training set differs between the processes of the run: '27"),
]


def messages() -> list[str]:
    found = []
    for model, data, virtual_ranks, _ in CASES:
        trainer = Trainer(
            total_steps=1, use_cpu=True, print_banner=False, virtual_ranks=virtual_ranks
        )
        try:
            trainer.fit(model(), data())
            found.append("")
        except (RanksDifferError, ConfigurationError) as error:
            found.append(str(error))
    return found


def test_ranks_with_other_optimizers_and_data(ranks: StartRanks) -> None:
    first, second = ranks(2, messages)
    results: list[Any] = [first.result, second.result]
    for (*_, text), one, other in zip(CASES, *results, strict=True):
        assert one == other
        assert text in one
