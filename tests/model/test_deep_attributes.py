"""Attributes of a model with many levels: saved up to a limit, and refused by name beyond it."""

import collections
import pathlib
from typing import Any

import pytest
from helpers import Make

from helios.errors import CheckpointError
from helios.testing import TinyDataModule, TinyModel


class Holding(TinyModel):
    """Holds a value from set-up or from the first step on."""

    def __init__(self, value: Any, moment: str) -> None:
        super().__init__()
        self._given, self._moment = value, moment

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.nodes = self._given if self._moment == "set-up" else None

    def on_training_epoch_start(self, current_epoch: int) -> None:
        self.nodes = self._given


def nested(kind: Any, levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {"inner": value} if kind is dict else kind([value])
    return value


MOMENTS = pytest.mark.parametrize("moment", ["set-up", "the first step"])
KINDS = pytest.mark.parametrize("kind", [list, tuple, dict, collections.deque, frozenset])


@MOMENTS
@KINDS
@pytest.mark.parametrize("levels", [101, 2000])
def test_attribute_that_is_too_deep(
    make_trainer: Make, tmp_path: pathlib.Path, kind: Any, levels: int, moment: str
) -> None:
    trainer = make_trainer(chkpt_root=tmp_path)
    with pytest.raises(
        CheckpointError, match=r"the attribute nodes.* is more than 100 levels deep"
    ):
        trainer.fit(Holding(nested(kind, levels + 1), moment), TinyDataModule())


@MOMENTS
@KINDS
def test_attribute_of_many_levels_is_saved(
    make_trainer: Make, tmp_path: pathlib.Path, kind: Any, moment: str
) -> None:
    for steps in (1, 2):
        model = Holding(nested(kind, 30), moment)
        make_trainer(total_steps=steps, chkpt_root=tmp_path).fit(model, TinyDataModule())
        assert model.nodes == nested(kind, 30)
