"""The loaders of the validation and test sets, which one run creates only once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from helios.data import DataModule, DatasetParams, DatasetSplit
from helios.data.datamodule import LoaderAndPosition, require_pair


class EvaluationLoaders:
    """The loaders of the sets of a split.

    Args:
        datamodule: the data module.
        split: the split.
        in_order: ``True`` to read all samples in the order of the data.
    """

    def __init__(
        self, datamodule: DataModule, split: DatasetSplit, *, in_order: bool = False
    ) -> None:
        self._datamodule = datamodule
        self._split = split
        self._in_order = in_order
        self._loaders: dict[str | None, EvaluationLoader] = {}

    def names(self) -> list[str]:
        """Return the names of the sets; none if the split has one set without a name."""
        return self._datamodule.set_names(self._split)

    def get(self, name: str | None = None) -> LoaderAndPosition | None:
        """Return the loader of a set, ready for an evaluation; ``None`` without a set."""
        if name not in self._loaders:
            self._loaders[name] = self._create(name)
        return self._loaders[name].get()

    def forget(self) -> None:
        """Create new loaders for the next evaluation."""
        self._loaders = {}

    def _create(self, name: str | None) -> "EvaluationLoader":
        datamodule, split = self._datamodule, self._split

        def create() -> LoaderAndPosition | None:
            if self._in_order and datamodule.find_set(split, name) is not None:
                return datamodule.ordered_dataloader(split, name)
            if name is not None:
                return datamodule.named_dataloader(split, name)
            return require_pair(datamodule, f"{split.value}_dataloader")

        return EvaluationLoader(create, lambda: datamodule.find_set(split, name))


class EvaluationLoader:
    """The loader of the validation or test set.

    Each evaluation reads the same batches: the generators of the loader start again.

    Args:
        create: returns a new loader; ``None`` without a set.
        find_set: returns the set with its parameters. If they change, a new loader replaces the
            old one.
    """

    def __init__(
        self,
        create: Callable[[], LoaderAndPosition | None],
        find_set: Callable[[], DatasetParams | None],
    ) -> None:
        self._create = create
        self._find_set = find_set
        self._loader: LoaderAndPosition | None = None
        self._made_of: tuple[Any, Any] | None = None
        self._generators: list[tuple[torch.Generator, torch.Tensor]] = []

    def get(self) -> LoaderAndPosition | None:
        """Return the loader, ready for an evaluation; ``None`` without a set."""
        data = self._find_set()
        made_of = None
        if isinstance(data, DatasetParams):  # or else, creating the loader shows what is wrong
            made_of = data.dataset, dataclasses.replace(data.params)
        if self._loader is None or not _is_same(made_of, self._made_of):
            self._loader, self._made_of = self._create(), made_of
            loader = None if self._loader is None else self._loader[0]
            if not isinstance(loader, DataLoader):  # the user's own, which may end with one use
                created, self._loader = self._loader, None
                return created
            self._generators = [(each, each.get_state()) for each in _generators_of(loader)]
        for generator, state in self._generators:
            generator.set_state(state)
        return self._loader


def _is_same(one: tuple[Any, Any] | None, other: tuple[Any, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one[0] is other[0] and bool(one[1] == other[1])


def _generators_of(loader: DataLoader[Any]) -> list[torch.Generator]:
    found = [getattr(part, "generator", None) for part in (loader, loader.sampler)]
    return [generator for generator in found if isinstance(generator, torch.Generator)]
