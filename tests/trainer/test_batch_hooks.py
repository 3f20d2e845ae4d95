"""The batch and its number of samples, which the hooks of each batch receive."""

from typing import Any

import pytest
from helpers import Make, Named

from helios.testing import TinyDataModule, TinyModel


class Batches(Named):
    """Notes the arguments of the hooks of each batch, and replaces the batches."""

    def __init__(self) -> None:
        super().__init__("batches")
        self._seen: list[Any] = []

    def process_training_batch(self, batch: Any) -> Any:  # type: ignore[override]
        return [part[:1] for part in batch]

    def on_training_batch_start(self, batch: Any, samples: int) -> None:  # type: ignore[override]
        self._seen.append(("start", len(batch[0]), samples))

    def on_training_batch_end(self, samples: int, batch: Any) -> None:  # type: ignore[override]
        self._seen.append(("end", len(batch[0]), samples))

    def on_validation_batch_start(self, batch: Any, samples: int, step: int) -> None:
        self._seen.append(("start", len(batch[0]), samples, step))

    def on_validation_batch_end(self, step: int, batch: Any, samples: int) -> None:  # type: ignore[override]
        self._seen.append(("end", len(batch[0]), samples, step))

    on_testing_batch_start = on_validation_batch_start
    on_testing_batch_end = on_validation_batch_end  # type: ignore[assignment]


VALIDATION = [
    (at, size, size, step) for step, size in enumerate([3, 3, 2]) for at in ("start", "end")
]
"""The validation and test sets have 8 samples in batches of 3."""


@pytest.mark.parametrize("resumes", [False, True])
def test_hooks_get_the_batch_and_the_samples_of_the_loader(
    resumes: bool, make_trainer: Make, tmp_path: Any
) -> None:
    steps = [3, 6] if resumes else [6]
    seen: list[Any] = []
    for total in steps:
        plugin = Batches()
        trainer = make_trainer(
            plugins=[plugin], train_unit="iteration", total_steps=total, run_root=tmp_path
        )
        trainer.fit(TinyModel(), TinyDataModule())  # 22 samples in batches of 4
        seen += plugin._seen
    assert seen == [(at, 1, size) for size in [4, 4, 4, 4, 4, 2] for at in ("start", "end")]


def test_evaluations_pass_batch_samples_and_step(make_trainer: Make) -> None:
    plugin = Batches()
    trainer = make_trainer(plugins=[plugin], total_steps=1, valid_frequency=1)
    trainer.fit(TinyModel(), TinyDataModule())
    assert plugin._seen[12:] == VALIDATION
    plugin._seen.clear()
    trainer.test(TinyModel(), TinyDataModule())
    assert plugin._seen == VALIDATION
