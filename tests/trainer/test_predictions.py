"""``validate`` and ``predict``: their weights, their order and their results."""

import json
import pathlib
import re
from collections import namedtuple
from typing import Any

import pytest
import torch
from helpers import Make, Named
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from helios import DataLoaderParams, DataModule
from helios.data import ResumableRandomSampler
from helios.errors import ConfigurationError, StoppedError
from helios.plugins.builtin.metrics_file import MetricsFilePlugin
from helios.testing import TinyDataModule, TinyModel, equal
from helios.trainer.predictions import join

SAMPLES = 22


class Shuffled(TinyDataModule):
    """All sets are shuffled, and drop their last batch."""

    def setup(self) -> None:
        super().setup()
        params = {"batch_size": 5, "shuffle": True, "drop_last": True}
        for kind in ("train", "valid", "test"):
            dataset = getattr(self, f"{kind}_dataset")
            setattr(self, f"_{kind}_dataset", self._create_dataset(dataset, params))


def by_hand(model: TinyModel, dataset: Any) -> torch.Tensor:
    """Predict in plain PyTorch."""
    model.net.eval()
    with torch.no_grad():
        outputs: torch.Tensor = model.net(dataset.tensors[0])
    return outputs


@pytest.fixture
def trained(make_trainer: Make) -> tuple[Any, TinyModel]:
    trainer, model = make_trainer(), TinyModel()
    trainer.fit(model, TinyDataModule())
    return trainer, model


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_predictions_come_in_the_order_of_the_data(trained: Any, split: str) -> None:
    trainer, model = trained
    data = Shuffled()
    predictions = trainer.predict(model, data, split=split)
    expected = by_hand(model, getattr(data, f"{split}_dataset"))
    assert torch.allclose(predictions, expected, atol=1e-6)
    assert len(predictions) == (SAMPLES if split == "train" else 8)
    assert not predictions.requires_grad


def test_sampler_does_not_change_the_order(trained: Any) -> None:
    class Sampled(TinyDataModule):
        def setup(self) -> None:
            super().setup()
            params: Any = {"sampler": ResumableRandomSampler(self.train_dataset, 3)}
            self._train_dataset = self._create_dataset(
                self.train_dataset, {"batch_size": 3, **params}
            )

    trainer, model = trained
    predictions = trainer.predict(model, Sampled(), split="train")
    data = TinyDataModule()
    data.setup()
    assert torch.allclose(predictions, by_hand(model, data.train_dataset), atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_and_workers(trained: Any, workers: int) -> None:
    class Numbers(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from TensorDataset(torch.arange(40.0).reshape(10, 4))

    class Stream(DataModule):
        def setup(self) -> None:
            rows = TensorDataset(torch.arange(40.0).reshape(10, 4))
            params = DataLoaderParams(batch_size=3, num_workers=workers)
            self._valid_dataset = self._create_dataset(rows, params)
            self._test_dataset = self._create_dataset(Numbers(), {"batch_size": 3})

    trainer, model = trained
    streamed = trainer.predict(model, Stream())
    assert streamed.shape == (10, 2)
    assert equal(streamed, trainer.predict(model, Stream(), split="valid"))


def test_sets_with_names_and_limits(make_trainer: Make) -> None:
    rows = {
        name: TensorDataset(torch.full((5, 4), value)) for name, value in (("a", 0.0), ("b", 1.0))
    }
    trainer, model = make_trainer(limit_batches={"prediction": 1}), TinyModel()
    data = DataModule.of(test=rows, batch_size=3)
    predictions = trainer.predict(model, data)
    assert list(predictions) == ["a", "b"]
    assert all(len(each) == 3 for each in predictions.values())
    assert not equal(predictions["a"], predictions["b"])


def test_structures_of_predictions(trained: Any) -> None:
    Pair = namedtuple("Pair", ["logits", "classes"])

    class Structured(TinyModel):
        def predict_step(self, batch: Any, step: int) -> Any:
            logits = self.net(batch[0])
            names = [str(int(each)) for each in logits.argmax(1)]
            return {"pair": Pair(logits, logits.argmax(1)), "names": names, "loss": 0.5}

    predictions = make_predictions(trained[0], Structured())
    assert predictions["pair"].logits.shape == (8, 2)
    assert predictions["names"] == [str(each) for each in predictions["pair"].classes.tolist()]
    assert predictions["loss"] == [0.5, 0.5, 0.5]


def make_predictions(trainer: Any, model: Any) -> Any:
    return trainer.predict(model, TinyDataModule())


@pytest.mark.parametrize(
    ("outputs", "joined"),
    [
        ([], []),
        ([torch.ones(2, 3), torch.ones(1, 3)], torch.ones(3, 3)),
        ([torch.ones(1, 2), torch.zeros(1, 3)], [torch.ones(2), torch.zeros(3)]),
        ([torch.tensor(1.0), torch.tensor(2.0)], [torch.tensor(1.0), torch.tensor(2.0)]),
        ([[1, 2], [3]], [1, 2, 3]),
        ([([1], {"x": [2]}), ([3], {"x": [4]})], ([1, 3], {"x": [2, 4]})),
        ([{"x": [1]}, {"y": [1]}], [{"x": [1]}, {"y": [1]}]),
        ([None, None], [None, None]),
    ],
)
def test_joining(outputs: list[Any], joined: Any) -> None:
    assert equal(join(outputs), joined)


def test_writer_receives_each_batch(trained: Any) -> None:
    trainer, model = trained
    whole, written = trainer.predict(model, TinyDataModule()), {}

    def write(outputs: torch.Tensor, step: int) -> None:
        written[step] = outputs

    assert trainer.predict(model, TinyDataModule(), writer=write) is None
    assert list(written) == [0, 1, 2]
    assert torch.equal(torch.cat([*written.values()]), whole)


def test_plugin_receives_each_batch(make_trainer: Make) -> None:
    class Writing(Named):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[Any] = []

        def on_prediction_batch_end(self, outputs: Any, samples: int, step: int) -> None:
            assert len(outputs) == samples
            self.rows += outputs.tolist()

    plugin = Writing()
    trainer = make_trainer(plugins=[plugin])
    assert trainer.predict(TinyModel(), TinyDataModule()).tolist() == plugin.rows


def test_weights_of_evaluations(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    arguments = {"chkpt_root": tmp_path, "chkpt_frequency": 1}
    trainer, model = make_trainer(**arguments), TinyModel()
    trainer.fit(model, TinyDataModule())
    newest = trainer.predict(model, TinyDataModule())
    first = tmp_path / "tiny" / "tiny_epoch_1_iter_6.pth"
    assert not torch.equal(trainer.predict(model, TinyDataModule(), first), newest)
    again = TinyModel()
    assert torch.equal(make_trainer(**arguments).predict(again, TinyDataModule()), newest)
    accuracy = make_trainer(**arguments).validate(again, TinyDataModule(), checkpoint="last")
    tested = make_trainer(total_steps=1, **arguments)
    assert accuracy == {"accuracy": trainer.validate(again, TinyDataModule())["accuracy"]}
    assert tested.validate(again, TinyDataModule(), first)["accuracy"] == pytest.approx(
        model_accuracy(again)
    )


def model_accuracy(model: TinyModel) -> float:
    """Return the accuracy on the validation set, in plain PyTorch."""
    data = TinyDataModule()
    data.setup()
    labels = data.valid_dataset.tensors[1]
    return float((by_hand(model, data.valid_dataset).argmax(1) == labels).float().mean())


def test_validation_alone_judges_nothing(make_trainer: Make, tmp_path: pathlib.Path) -> None:
    class Judged(TinyModel):
        def have_metrics_improved(self) -> bool:
            raise AssertionError("nothing judges a validation alone")

    told: list[Any] = []

    class Telling(Named):
        def on_log(self, metrics: dict[str, float], phase: str) -> None:
            told.append((phase, *metrics))

        def on_validation_results(self) -> None:
            told.append("results")

    trainer, model = make_trainer(plugins=[Telling()]), Judged()
    results = trainer.validate(model, TinyDataModule())
    assert results["accuracy"] == pytest.approx(model_accuracy(model))
    assert results == model.metrics
    assert told == [("validation", "accuracy")]
    assert trainer.state.validation_cycles == trainer.state.early_stop_count == 0
    assert not model.net.training


def test_evaluations_change_neither_files_nor_later_training(
    make_trainer: Make, tmp_path: pathlib.Path
) -> None:
    def run(root: pathlib.Path, *, evaluates: bool) -> TinyModel:
        arguments = {"run_root": root, "chkpt_frequency": 1, "valid_frequency": 1}
        for epochs in (1, 2):
            model = TinyModel()
            plugins = [MetricsFilePlugin()]
            trainer = make_trainer(total_steps=epochs, plugins=plugins, **arguments)
            trainer.fit(model, TinyDataModule())
            if evaluates:
                first = root / "checkpoints" / "tiny" / "tiny_epoch_1_iter_6.pth"
                trainer.validate(model, TinyDataModule(), checkpoint=first)
                trainer.predict(model, TinyDataModule())
        return model

    plain = run(tmp_path / "plain", evaluates=False)
    mixed = run(tmp_path / "mixed", evaluates=True)
    assert equal(dict(plain.net.state_dict()), dict(mixed.net.state_dict()))
    lines = {
        name: [
            json.loads(line)
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("plain", "mixed")
    }
    assert [line for line in lines["mixed"] if "phase" not in line] == lines["plain"]
    assert [line["phase"] for line in lines["mixed"] if "phase" in line] == ["validation"] * 2


def test_stopped_prediction_is_an_error(make_trainer: Make) -> None:
    class Stopping(Named):
        def on_prediction_batch_end(self, step: int) -> None:
            self.trainer.request_stop("enough")

    with pytest.raises(StoppedError, match="stopped before it was complete: enough"):
        make_trainer(plugins=[Stopping()]).predict(TinyModel(), TinyDataModule())


class Two(TinyModel):
    def setup(self, fast_init: bool = False) -> None:
        super().setup()
        self.head = self.prepare(nn.Linear(2, 2))
        self.loss = nn.CrossEntropyLoss()  # has no weights, so it predicts nothing


class Dictionaries(TinyDataModule):
    def setup(self) -> None:
        super().setup()
        self._test_dataset = self._create_dataset([{"x": 1.0}], {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (Two(), TinyDataModule(), "Two has 2 networks (net, head), so Helios does not know"),
        (TinyModel(), Dictionaries(), "TinyModel receives batches of type dict, so Helios"),
        (TinyModel(), TinyDataModule(valid_size=0), "TinyDataModule has no test set: assign"),
    ],
)
def test_what_cannot_be_predicted(make_trainer: Make, model: Any, data: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make_trainer().predict(model, data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "testing"}, "split='testing': write 'train', 'valid', 'test'. Did you mean"),
        ({"split": 3}, "split=3: write"),
        ({"writer": "file"}, "writer='file': write a function that takes"),
        ({"checkpoint": "newest"}, "checkpoint='newest' is not a file"),
    ],
)
def test_arguments_that_make_no_sense(
    make_trainer: Make, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make_trainer().predict(TinyModel(), TinyDataModule(), **arguments)


@pytest.mark.parametrize(
    ("run", "name", "instead"),
    [
        ("validate", "ckpt_path", 'pass checkpoint="best", "last"'),
        ("predict", "ckpt_path", 'pass checkpoint="best", "last"'),
        ("predict", "return_predictions", "returned without a writer"),
        ("predict", "dataloaders", "a DataModule as the second argument"),
    ],
)
def test_argument_of_another_trainer(make_trainer: Make, run: str, name: str, instead: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f"{run}() has no argument {name!r}")) as caught:
        getattr(make_trainer(), run)(TinyModel(), TinyDataModule(), **{name: 1})
    assert instead in str(caught.value)


def test_nothing_to_validate_is_said(make_trainer: Make, caplog: Any) -> None:
    make_trainer().validate(TinyModel(), TinyDataModule(valid_size=0))
    assert "nothing is validated, because TinyDataModule has no validation set" in caplog.text
