"""Validation and test sets with names: their metrics, and what judges them."""

from typing import Any

import pytest
import torch
from helpers import Make, ReadAhead
from torch.utils.data import DataLoader, TensorDataset

from helios import DataModule
from helios.data import DatasetSplit
from helios.errors import ConfigurationError, UnknownNameError
from helios.testing import TinyDataModule, TinyModel


def tiny() -> dict[str, TensorDataset]:
    """Return the three datasets of the tiny data module."""
    data = TinyDataModule()
    data.setup()
    return {"train": data.train_dataset, "one": data.valid_dataset, "two": data.test_dataset}


class Judged(TinyModel):
    """Remembers which set each batch is from."""

    def __init__(self) -> None:
        super().__init__()
        self._sets: list[Any] = []

    @property
    def sets(self) -> list[Any]:
        return self._sets

    def valid_step(self, batch: Any, step: int) -> torch.Tensor:
        self._sets.append((self.session.set_name, step, len(batch[0])))
        self.log("mean", batch[0].mean())
        return super().valid_step(batch, step)

    test_step = valid_step


def accuracy_of(model: TinyModel, dataset: TensorDataset) -> float:
    """Return the accuracy as a plain loop computes it."""
    model.net.eval()
    hits = 0.0
    for features, labels in DataLoader(dataset, 5):
        hits += (model.net(features).argmax(dim=1) == labels).sum().item()
    return hits / len(dataset)


@pytest.mark.parametrize("plugins", [[], [ReadAhead()]])
def test_each_set_has_its_metrics(make_trainer: Make, plugins: list[Any]) -> None:
    sets = tiny()
    both = {"one": sets["one"], "two": TensorDataset(*sets["train"][:5])}
    data = DataModule.of(train=sets["train"], valid=both, test=both, batch_size=3)
    model = Judged()
    trainer = make_trainer(total_steps=2, valid_frequency=2, plugins=plugins)
    trainer.fit(model, data)
    expected = {f"accuracy/{name}": accuracy_of(model, dataset) for name, dataset in both.items()}
    expected |= {f"mean/{name}": each.tensors[0].mean().item() for name, each in both.items()}
    assert model.metrics == pytest.approx(expected, abs=1e-6)
    assert model.sets == [
        *(("one", 0, 3), ("one", 1, 3), ("one", 2, 2)),
        *(("two", 3, 3), ("two", 4, 2)),
    ]
    model.metrics.clear()
    trainer.test(model, data)
    assert model.metrics == pytest.approx(expected, abs=1e-6)


def test_metrics_of_torchmetrics(make_trainer: Make) -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

    class Counting(TinyModel):
        def setup(self, fast_init: bool = False) -> None:
            super().setup(fast_init)
            self.accuracy = torchmetrics.classification.BinaryAccuracy()

        def valid_step(self, batch: Any, step: int) -> torch.Tensor:
            self.accuracy.update(self.net(batch[0]).argmax(dim=1), batch[1])
            self.log("accuracy", self.accuracy)
            return batch[0]  # type: ignore[no-any-return]  # whatever

    sets = tiny()
    model, both = Counting(), {"one": sets["one"], "two": sets["two"]}
    data = DataModule.of(train=sets["train"], valid=both, batch_size=3)
    make_trainer(total_steps=1, valid_frequency=1).fit(model, data)
    for name, dataset in both.items():
        assert model.metrics[f"accuracy/{name}"] == pytest.approx(accuracy_of(model, dataset))


def test_best_and_early_stopping_name_a_set(make_trainer: Make) -> None:
    sets = tiny()
    both = {"one": sets["one"], "two": sets["two"]}
    data = DataModule.of(train=sets["train"], valid=both, batch_size=3)
    best = ("accuracy/two", "max")
    trainer = make_trainer(total_steps=50, valid_frequency=1, best=best, early_stop_cycles=2)
    trainer.fit(TinyModel(), data)
    assert "no improvement of accuracy/two (max) for 2 validations" in str(trainer.stop_requests)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'accuracy/two' or 'acc"):
        make_trainer(valid_frequency=1, best=("accuracy", "max")).fit(TinyModel(), data)


class Named(TinyDataModule):
    """A class that assigns two sets."""

    def __init__(self, sets: Any) -> None:
        super().__init__()
        self.sets = sets

    def setup(self) -> None:
        super().setup()
        self._valid_dataset = self.sets and {
            name: self._create_dataset(dataset, {"batch_size": 3})
            for name, dataset in self.sets.items()
        }


def test_class_that_assigns_a_dictionary(make_trainer: Make) -> None:
    sets = tiny()
    model, data = TinyModel(), Named({"one": sets["one"], "two": sets["two"]})
    make_trainer(valid_frequency=1).fit(model, data)
    assert set(model.metrics) == {"accuracy/one", "accuracy/two"}
    assert data.valid_dataset == {"one": sets["one"], "two": sets["two"]}
    assert len(data.named_dataloader(DatasetSplit.VALID, "two")[0]) == 3


@pytest.mark.parametrize("name", [None, "tow"])
def test_unknown_name(name: str | None) -> None:
    sets = tiny()
    data = Named({"one": sets["one"], "two": sets["two"]})
    data.setup()
    hint = (
        "its sets have names; call named_dataloader("
        if name is None
        else "no valid set 'tow'. Did you mean 'two'?"
    )
    with pytest.raises(ConfigurationError) as caught:
        data.find_set(DatasetSplit.VALID, name)
    assert str(caught.value).startswith("Named._valid_dataset: ")
    assert hint in str(caught.value)
    assert "Its names are 'one', 'two'." in str(caught.value)


def test_empty_dictionary(make_trainer: Make) -> None:
    class Empty(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            self._valid_dataset = {}

    with pytest.raises(ConfigurationError, match="Empty has assigned an empty dictionary"):
        make_trainer(valid_frequency=1).fit(TinyModel(), Empty())
