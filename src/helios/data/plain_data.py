"""A data module of plain datasets, loaders and sources of batches, made in one line."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from helios.core.rng import DEFAULT_SEED
from helios.data.datamodule import DataModule, DatasetParams
from helios.data.loader import DataLoaderParams
from helios.data.named_sets import require_names
from helios.data.parameter_names import check_names
from helios.data.plain_loaders import is_plain, parameters_of
from helios.data.sources import is_source
from helios.errors import ConfigurationError

_OF_TRAINING = ("shuffle", "drop_last", "sampler", "batch_sampler", "in_order", "replay")
"""The parameters that concern only the training set."""
_OF_SOURCES = ("seeding", "random_seed", "replay", "collate_fn")
"""The parameters that sources have, too."""


class PlainData(DataModule):
    """The data module that :meth:`DataModule.of` returns.

    Args:
        train: a dataset, a loader, or a source of batches; ``None`` for none.
        valid: the same, or several in a dictionary by name.
        test: the same, or several in a dictionary by name.
        params: the parameters for datasets.
    """

    def __init__(self, train: Any, valid: Any, test: Any, params: dict[str, Any]) -> None:
        super().__init__()
        self._given = {"train": train, "valid": valid, "test": test}
        self._params = params
        check_names(params)
        self._check()
        self.setup()  # so that a wrong argument is an error here, and loaders exist before a run

    @property
    def batch_size(self) -> Any:
        """The number of samples in a batch of the datasets; a change has effect at once."""
        return self._params.get("batch_size", 1)

    @batch_size.setter
    def batch_size(self, value: int) -> None:
        self._params = {**self._params, "batch_size": value}
        self.setup()

    def setup(self) -> None:
        """Create the datasets."""
        made = {split: self._make(split, given) for split, given in self._given.items()}
        self._train_dataset = made["train"]
        self._valid_dataset = made["valid"]
        self._test_dataset = made["test"]

    def _check(self) -> None:
        sets = []
        for split, given in self._given.items():
            if isinstance(given, Mapping):
                if split == "train":
                    raise ConfigurationError(
                        "DataModule.of(train={...}): training reads one set. To train on several,"
                        " pass torch.utils.data.ConcatDataset([...])."
                    )
                require_names(given, DataModule)
            sets += list(given.values()) if isinstance(given, Mapping) else [given]
        sets = [each for each in sets if each is not None]
        if not sets:
            raise ConfigurationError("DataModule.of() got no dataset: pass train=..., for example.")
        for each in sets:
            _require_kind(each)
        kinds = {_kind(each) for each in sets}
        taken = set(_OF_SOURCES) if kinds == {"source"} else set(self._params)
        if ignored := [name for name in self._params if kinds == {"loader"} or name not in taken]:
            what = "DataLoader" if kinds == {"loader"} else "source of batches"
            raise ConfigurationError(
                f"DataModule.of(..., {ignored[0]}=...) has no effect, because each set is a"
                f" {what}: remove {ignored[0]}, or pass the datasets instead."
            )

    def _make(self, split: str, given: Any) -> Any:
        if isinstance(given, Mapping):
            return {name: self._make_one(split, each) for name, each in given.items()}
        return None if given is None else self._make_one(split, given)

    def _make_one(self, split: str, given: Any) -> DatasetParams:
        kind = _kind(given)
        if kind == "loader":
            seed = DEFAULT_SEED if self._trainer is None else self._trainer.random_seed
            return self._create_dataset(given.dataset, parameters_of(given, seed))
        params = dict(self._params)
        if kind == "source":
            params = {name: value for name, value in params.items() if name in _OF_SOURCES}
        elif split != "train":
            params = {name: value for name, value in params.items() if name not in _OF_TRAINING}
        elif not isinstance(given, IterableDataset):
            chooses = "sampler" in params or "batch_sampler" in params
            params.setdefault("shuffle", not chooses)
        return self._create_dataset(given, DataLoaderParams(**params))


def _kind(given: Any) -> str:
    """Return the kind of a set: ``"dataset"``, ``"loader"`` or ``"source"``."""
    if is_plain(given):
        return "loader"
    return "source" if is_source(given) or isinstance(given, DataLoader) else "dataset"


def _require_kind(given: Any) -> None:
    label = type(given).__name__
    if isinstance(given, DataModule):
        raise TypeError(f"DataModule.of() got a {label}: pass it to fit(model, datamodule).")
    if isinstance(given, type):
        raise TypeError(f"DataModule.of() got the class {given.__name__}: pass an instance of it.")
    if isinstance(given, tuple):
        raise TypeError(
            "DataModule.of() got a tuple: pass torch.utils.data.TensorDataset(inputs, labels) for"
            " samples of several tensors."
        )
    is_dataset = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if isinstance(given, str | bytes) or not (
        is_dataset or is_source(given) or isinstance(given, IterableDataset)
    ):
        raise TypeError(
            f"DataModule.of() got a {label}: pass a dataset, a DataLoader, an iterable of batches,"
            " or a function that returns an iterator of batches."
        )
