"""The base class of samplers that choose whole batches."""

from collections.abc import Iterable, Iterator

from torch.utils.data import Sampler

from helios.errors import ConfigurationError


class ResumableBatchSampler(Sampler[list[int]]):
    """The base class of samplers that choose whole batches, and can start at any of them.

    A subclass writes :meth:`batches` and :meth:`__len__`. The batches may depend on
    :attr:`epoch`, but each epoch has the same number of them. In a distributed run, each process
    yields its own.

    Example:
        .. code-block:: python

            class SimilarLengths(helios.data.ResumableBatchSampler):
                def __init__(self, lengths: list[int], batch_size: int) -> None:
                    super().__init__()
                    order = sorted(range(len(lengths)), key=lengths.__getitem__)
                    self.all = [
                        order[i : i + batch_size] for i in range(0, len(order), batch_size)
                    ]

                def batches(self) -> list[list[int]]:
                    generator = random.Random(self.epoch)
                    return generator.sample(self.all, len(self.all))

                def __len__(self) -> int:
                    return len(self.all)
    """

    def __init__(self) -> None:
        self.epoch = 0
        """The epoch whose batches are chosen next."""
        self.start_iter = 0
        """The number of batches to skip at the beginning of each iteration."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose batches are chosen next."""
        self.epoch = epoch

    def batches(self) -> Iterable[list[int]]:
        """Return the indices of each batch of the whole epoch, in order."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[int]]:
        number = -1
        for number, batch in enumerate(self.batches()):
            if number >= self.start_iter:
                yield batch
        if number + 1 != len(self):
            raise ConfigurationError(
                f"{type(self).__name__} has {number + 1} batches in epoch {self.epoch}, but its"
                f" __len__ returns {len(self)}: each epoch needs that many batches."
            )

    def __len__(self) -> int:
        """Return the number of batches in each epoch, including skipped ones."""
        raise NotImplementedError
