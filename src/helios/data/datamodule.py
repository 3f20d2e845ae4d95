"""The base class of data modules, which provide the datasets and the loaders of a run."""

import abc
import copy
import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset

from helios.core import Ranked, Registry
from helios.core.arguments import TakesArguments
from helios.data.batch_samplers import ResumableBatchSampler
from helios.data.loader import DataLoaderParams, create_dataloader
from helios.data.named_sets import names_of, original, require_names, select
from helios.data.parameter_names import check_names
from helios.data.reader import reading_rank
from helios.data.samplers import ResumableSamplerType
from helios.data.sources import is_source, require_source
from helios.data.splits import DatasetSplit
from helios.data.streams import StreamPosition
from helios.errors import nearest

if TYPE_CHECKING:
    from helios.trainer import Trainer

_logger = logging.getLogger(__name__)
_KINDS = ("train", "valid", "test")

LoaderAndPosition = tuple[
    DataLoader[Any], ResumableSamplerType | ResumableBatchSampler | StreamPosition
]
"""A loader and the object that knows its position: a sampler, or a stream's position."""

DATASET_REGISTRY = Registry("dataset")
"""The registry of datasets; empty at first."""

TRANSFORM_REGISTRY = Registry("transform")
"""The registry of transforms; empty at first."""


def create_dataset(type_name: str, *args: Any, **kwargs: Any) -> Dataset[Any]:
    """Create a registered dataset from its name and arguments."""
    dataset: Dataset[Any] = DATASET_REGISTRY.get(type_name)(*args, **kwargs)
    return dataset


def create_transform(type_name: str, *args: Any, **kwargs: Any) -> Any:
    """Create a registered transform from its name and arguments."""
    return TRANSFORM_REGISTRY.get(type_name)(*args, **kwargs)


@dataclasses.dataclass
class DatasetParams:
    """A dataset with its loader parameters; created by :meth:`DataModule._create_dataset`.

    Attributes:
        dataset: a map-style or an iterable-style dataset, or a source of batches.
        params: the parameters of its data loader.
        is_of_setup: ``True`` if ``setup()`` created it. The next run then creates it again.
    """

    dataset: Dataset[Any]
    params: DataLoaderParams
    is_of_setup: bool = False


EvaluationSets = DatasetParams | Mapping[str, DatasetParams] | None
"""The set of a split, several by name, or none."""


class DataModule(TakesArguments, Ranked, abc.ABC):
    """The base class of data modules: the datasets of a run and their loaders.

    A subclass writes :meth:`setup`, which assigns ``self._train_dataset``,
    ``self._valid_dataset`` and ``self._test_dataset``. The trainer skips a dataset that is
    ``None``, the default. Training may use several datasets, one per phase: see
    :meth:`_add_train_phase`. A dictionary of validation or test sets gives them names.
    :meth:`of` makes a data module of plain datasets or loaders.

    Example:
        .. code-block:: python

            class Digits(helios.DataModule):
                def setup(self) -> None:
                    params = helios.DataLoaderParams(batch_size=32, shuffle=True)
                    self._train_dataset = self._create_dataset(digits, params)
    """

    def __init__(self) -> None:
        super().__init__()
        self._trainer: Trainer | None = None
        self._train_phases: list[DatasetParams] = []
        self._phase = 0
        self._is_in_setup = False
        self._valid_dataset: EvaluationSets = None
        self._test_dataset: EvaluationSets = None

    @staticmethod
    def of(
        train: Any = None, *, valid: Any = None, test: Any = None, **params: Any
    ) -> "DataModule":
        """Make a data module of plain datasets, loaders, or sources of batches.

        Args:
            train: the training set: a dataset, a ``DataLoader`` of PyTorch, or a source of
                batches, which is an iterable or a function that returns an iterator.
            valid: the validation set, or several in a dictionary by name.
            test: the test set, or several in a dictionary by name.
            params: the parameters of :class:`~helios.DataLoaderParams` for all datasets, such as
                ``batch_size``. ``shuffle``, ``True`` by default, and other parameters that choose
                samples only concern the training set. Loaders keep their own parameters.

        Raises:
            ConfigurationError: a parameter is unknown or has no effect, or a source cannot be
                read twice.
            TypeError: one of the sets is something else.
        """
        from helios.data.plain_data import PlainData  # it derives from this class

        return PlainData(train, valid, test, params)

    @property
    def trainer(self) -> "Trainer":
        """The trainer of the newest run.

        Raises:
            AssertionError: no run has started yet.
        """
        assert self._trainer is not None, "trainer is known once fit() or test() has started"
        return self._trainer

    @trainer.setter
    def trainer(self, value: "Trainer") -> None:
        self._trainer = value

    def prepare_data(self) -> None:
        """Download or convert data; called before anything else.

        Called in the process that calls ``fit`` or ``test``. If ``torchrun`` started several of
        them, it is called in one process of each node, and the others wait.
        """

    @abc.abstractmethod
    def setup(self) -> None:
        """Create the datasets. Called in every process, before the model's ``setup``."""

    def run_setup(self) -> None:
        """Call :meth:`setup`, and replace the phases of an earlier call. For the trainer only."""
        self._train_phases = [phase for phase in self._train_phases if not phase.is_of_setup]
        self._phase = 0
        self._is_in_setup = True
        try:
            self.setup()
        finally:
            self._is_in_setup = False
        self._check_datasets()

    def teardown(self) -> None:
        """Release what :meth:`setup` created. Called at the end of a run, even if the run fails."""

    @property
    def train_dataset(self) -> Any:
        """The training set of the current phase."""
        return original(self._train_dataset)

    @property
    def valid_dataset(self) -> Any:
        """The validation set; a dictionary of them if they have names."""
        return original(self._valid_dataset)

    @property
    def test_dataset(self) -> Any:
        """The test set; a dictionary of them if they have names."""
        return original(self._test_dataset)

    def find_set(self, split: DatasetSplit, name: str | None = None) -> DatasetParams | None:
        """Return a set with the parameters of its loader. For the trainer only."""
        found: DatasetParams | None = select(self._sets(split), name, type(self), split.value)
        return found

    def set_names(self, split: DatasetSplit) -> list[str]:
        """Return the names of the sets of a split; none if it has one set without a name."""
        return names_of(self._sets(split))

    def _sets(self, split: DatasetSplit) -> EvaluationSets:
        sets: dict[DatasetSplit, EvaluationSets] = {
            DatasetSplit.TRAIN: self._train_dataset,
            DatasetSplit.VALID: self._valid_dataset,
            DatasetSplit.TEST: self._test_dataset,
        }
        return sets[split]

    def train_dataloader(self) -> LoaderAndPosition | None:
        """Return a new loader of the training set and its sampler; ``None`` without a set."""
        return self._create_dataloader(self._train_dataset)

    def valid_dataloader(self) -> LoaderAndPosition | None:
        """Return a new loader of the validation set and its sampler; ``None`` without a set."""
        return self._create_dataloader(self.find_set(DatasetSplit.VALID))

    def test_dataloader(self) -> LoaderAndPosition | None:
        """Return a new loader of the test set and its sampler; ``None`` without a set."""
        return self._create_dataloader(self.find_set(DatasetSplit.TEST))

    def named_dataloader(self, split: DatasetSplit, name: str) -> LoaderAndPosition:
        """Return a new loader of a set with a name, and its sampler."""
        pair = self._create_dataloader(self.find_set(split, name))
        assert pair is not None, "sets with names are no None"
        return pair

    def ordered_dataloader(
        self, split: DatasetSplit, name: str | None = None
    ) -> LoaderAndPosition | None:
        """Return a new loader that reads all samples of a set in their order, and its sampler."""
        data = self.find_set(split, name)
        if data is None:
            return None
        params = dataclasses.replace(
            data.params,
            shuffle=False,
            drop_last=False,
            sampler=None,
            batch_sampler=None,
            in_order=True,
        )
        return self._create_dataloader(dataclasses.replace(data, params=params))

    def get_train_steps_per_epoch(self) -> int:
        """Return the number of batches in one epoch of the current phase.

        These are not optimizer steps: with ``Trainer(accumulation_steps=N)``, a step uses the
        gradients of up to N batches.

        Raises:
            RuntimeError: no training set was assigned, or it is a stream.
        """
        loader_and_sampler = require_pair(self, "train_dataloader")
        if loader_and_sampler is None:
            raise RuntimeError(
                f"{type(self).__name__} has no training set: assign self._train_dataset in setup()."
            )
        loader, position = loader_and_sampler
        if isinstance(position, StreamPosition):
            kind = "a source" if is_source(self.train_dataset) else "an iterable-style dataset"
            raise RuntimeError(
                f"{type(self.train_dataset).__name__} is {kind}: its number"
                " of batches is known only at the end of an epoch. To know it in advance, write"
                " a map-style dataset, with __getitem__ and __len__."
            )
        return len(loader)

    def advance_train_phase(self) -> bool:
        """Switch to the next training set.

        Returns:
            ``True`` if a next one exists. In the last phase, nothing changes.
        """
        if self._phase + 1 >= len(self._train_phases):
            return False
        self._phase += 1
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the current phase if the run has several; otherwise nothing."""
        return {"phase": self._phase} if len(self._train_phases) > 1 else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._phase = state_dict.get("phase", 0)

    @property
    def _train_dataset(self) -> DatasetParams | None:
        return self._train_phases[self._phase] if self._train_phases else None

    @_train_dataset.setter
    def _train_dataset(self, value: DatasetParams | None) -> None:
        self._train_phases = [] if value is None else [value]
        self._phase = 0

    def _create_dataset(
        self, dataset: Any, params: DataLoaderParams | dict[str, Any]
    ) -> DatasetParams:
        """Return a dataset with its loader parameters, to assign in :meth:`setup`.

        Args:
            dataset: a map-style or an iterable-style dataset, or a source of batches: an iterable,
                or a function that returns an iterator.
            params: the parameters of its data loader; copied, so datasets can share one object.

        Raises:
            ConfigurationError: a parameter is unknown; the message suggests the nearest name.
        """
        if isinstance(params, dict):
            check_names(params)
            params = DataLoaderParams(**params)
        params = copy.deepcopy(params)
        require_source(dataset, params)
        return DatasetParams(dataset, params, self._is_in_setup)

    def _add_train_phase(self, dataset: Any, params: DataLoaderParams | dict[str, Any]) -> None:
        """Add a training set, which becomes the last training phase."""
        self._train_phases.append(self._create_dataset(dataset, params))

    def _add_valid_dataset(self, dataset: Any, params: DataLoaderParams | dict[str, Any]) -> None:
        """Set the validation set."""
        self._valid_dataset = self._create_dataset(dataset, params)

    def _add_test_dataset(self, dataset: Any, params: DataLoaderParams | dict[str, Any]) -> None:
        """Set the test set."""
        self._test_dataset = self._create_dataset(dataset, params)

    def _check_datasets(self) -> None:
        """Refuse datasets without parameters, and warn about those in attributes of other names."""
        used: list[Any] = list(self._train_phases)
        for sets in (self._valid_dataset, self._test_dataset):
            if isinstance(sets, Mapping):
                require_names(sets, type(self))
            used += sets.values() if isinstance(sets, Mapping) else [sets]
        for data in used:
            if data is not None:
                self._require_params(data)
        loaders = [getattr(type(self), f"{kind}_dataloader") for kind in _KINDS]
        if any(loader not in vars(DataModule).values() for loader in loaders):
            return  # a loader of the subclass may use them
        for name, value in vars(self).items():
            if isinstance(value, DatasetParams) and not any(value is each for each in used):
                known = [f"_{kind}_dataset" for kind in _KINDS]
                _logger.warning(
                    "%s.%s holds a dataset that no run uses.%s Assign it to %s.",
                    type(self).__name__,
                    name,
                    nearest(name, known),
                    " or ".join(f"self.{each}" for each in known),
                )

    def _require_params(self, data: object) -> None:
        if not isinstance(data, DatasetParams):
            raise TypeError(
                f"{type(self).__name__} has assigned a {type(data).__name__} as one of its"
                " datasets: wrap the dataset and its loader parameters, as in"
                " self._create_dataset(dataset, {'batch_size': 32})."
            )

    def _create_dataloader(self, data: DatasetParams | None) -> LoaderAndPosition | None:
        if data is None:
            return None
        self._require_params(data)
        params = dataclasses.replace(data.params)
        if params.is_distributed is None:
            params.is_distributed = self._is_distributed or reading_rank()[1] > 1
        if params.random_seed is None and self._trainer is not None:
            params.random_seed = self._trainer.random_seed
        return create_dataloader(data.dataset, params)


def require_pair(datamodule: DataModule, method: str) -> LoaderAndPosition | None:
    """Return what a method returns: a loader and its sampler, or ``None``.

    Args:
        datamodule: the data module.
        method: the name of the method, such as ``"train_dataloader"``.

    Raises:
        TypeError: the method returned something else, such as a loader alone.
    """
    pair: Any = getattr(datamodule, method)()
    if pair is None or (isinstance(pair, tuple) and len(pair) == 2):
        return pair
    attribute = f"_{method.removesuffix('_dataloader')}_dataset"
    raise TypeError(
        f"{type(datamodule).__name__}.{method}() returned a {type(pair).__name__}, but Helios needs"
        " a loader with a sampler that can start in the middle of an epoch: write no"
        f" {method}(), and assign self.{attribute} = self._create_dataset(dataset, {{'batch_size':"
        " 32}) in setup(). Or return the pair of helios.data.create_dataloader(...)."
    )
