"""What training changes in the attributes of a model is the same in a resumed run."""

import pathlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from changing import Changing, everything
from helpers import Make

from helios.testing import StopAfter, TinyDataModule, TinyModel, equal

BATCHES = 6  # an epoch of TinyDataModule
EPOCHS = 3
CUTS = (1, 5, 6, 9, 14)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ChangingTiny(Changing, TinyModel):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed


def train(
    make_trainer: Make, root: pathlib.Path, model: TinyModel, stop_after: int | None = None
) -> dict[str, Any]:
    make_trainer(
        total_steps=EPOCHS, valid_frequency=1, chkpt_root=root, plugins=[StopAfter(stop_after)]
    ).fit(model, TinyDataModule())
    return everything(model)


@pytest.mark.parametrize("seed", range(12))
def test_random_models(make_trainer: Make, tmp_path: pathlib.Path, seed: int) -> None:
    whole = train(make_trainer, tmp_path / "whole", ChangingTiny(seed))
    for cut in random.Random(seed).sample(range(1, BATCHES * EPOCHS), 3):
        root = tmp_path / str(cut)
        train(make_trainer, root, ChangingTiny(seed), cut)
        train(make_trainer, root, ChangingTiny(seed), 1)  # and once more, a batch later
        resumed = train(make_trainer, root, ChangingTiny(seed))
        assert whole["attributes"] == resumed["attributes"], cut
        different = [name for name in whole if not equal(whole[name], resumed[name])]
        assert different == [], cut


class Frozen(TinyModel):
    """Trains the head first, and a module more from the second epoch on."""

    def setup(self, fast_init: bool = False) -> None:
        super().setup(fast_init)
        self.net[0].requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.net[2].parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=3)

    def on_training_epoch_start(self, current_epoch: int) -> None:
        if current_epoch == 1:
            self.net[0].requires_grad_(True)
            group = {"params": list(self.net[0].parameters()), "lr": 0.01}
            self.optimizer.add_param_group(group)


@pytest.mark.parametrize("cut", CUTS)
def test_parameter_groups(make_trainer: Make, tmp_path: pathlib.Path, cut: int) -> None:
    def fit(root: pathlib.Path, stop_after: int | None = None) -> Any:
        model = Frozen()
        make_trainer(total_steps=EPOCHS, chkpt_root=root, plugins=[StopAfter(stop_after)]).fit(
            model, TinyDataModule()
        )
        return model

    whole = fit(tmp_path / "whole")
    fit(tmp_path / "cut", cut)
    resumed = fit(tmp_path / "cut")
    assert equal(whole.state_dict(), resumed.state_dict())
    assert resumed.net[0].weight.requires_grad
    assert len(resumed.optimizer.param_groups) == 2
