"""The purposes of datasets in a run."""

import enum
from typing import Self

from helios.errors import ConfigurationError


class DatasetSplit(enum.Enum):
    """The purpose of a dataset in a run."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"

    @classmethod
    def from_str(cls, label: str) -> Self:
        """Return the split of this name.

        Raises:
            ConfigurationError: no split has this name.
        """
        try:
            return cls(label.lower())
        except ValueError:
            raise ConfigurationError(
                f"{label!r} is not a dataset split: write 'train', 'valid' or 'test'."
            ) from None
