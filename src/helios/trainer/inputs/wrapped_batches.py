"""The batches that the hook ``wrap_batches`` returns, counted while they are read.

A plug-in that loses or repeats batches would train on other data than the loader's, and move the
position from which a run resumes.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from helios.errors import InvalidPluginError
from helios.plugins import PluginManager
from helios.plugins.registration.attribution import describe_owners


class WrapBatches(Protocol):
    """A function that wraps the batches of a loader, and counts them."""

    def __call__(self, batches: Iterable[Any], phase: str, number: int | None) -> Iterable[Any]:
        """Return the wrapped batches.

        Args:
            batches: the batches that are left in the epoch.
            phase: ``"training"``, ``"validation"`` or ``"testing"``.
            number: the number of these batches; ``None`` if it is unknown, as for a stream.
        """


def counted_hook(manager: PluginManager) -> WrapBatches | None:
    """Return a function that calls ``wrap_batches``; ``None`` if no plug-in implements it.

    Args:
        manager: the manager, whose plan is frozen.
    """
    if manager.callers.wrap_batches is None:
        return None

    def wrap(batches: Iterable[Any], phase: str, number: int | None) -> Iterable[Any]:
        hook = manager.callers.wrap_batches
        if hook is None:  # Helios has switched the plug-in off
            return batches
        owners = functools.partial(describe_owners, manager, "wrap_batches")
        source = _Source(batches) if number is None else None
        wrapped = hook(batches=batches if source is None else source, phase=phase)
        return _counted(wrapped, phase, number, source, owners)

    return wrap


class _Source:
    """Batches of an unknown number, counted when the plug-in reads them."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.read = 0
        self.is_exhausted = False

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.read += 1
            yield batch
        self.is_exhausted = True

    def __len__(self) -> int:
        return len(self._batches)


def _counted(
    wrapped: Iterable[Any],
    phase: str,
    number: int | None,
    source: _Source | None,
    describe: Callable[[], str],
) -> Iterator[Any]:
    count = 0
    for batch in wrapped:
        count += 1
        most = number if source is None else source.read
        if most is not None and count > most:
            raise InvalidPluginError(
                f"plug-in {describe()} yielded more batches from wrap_batches than the loader:"
                f" batch {count} of {phase}, but the loader gave {most}. Yield each batch once."
            )
        yield batch
    if source is not None:
        if not source.is_exhausted or count < source.read:
            more = "" if source.is_exhausted else " or more"
            raise _lost(describe(), count, f"{source.read}{more}", phase)
    elif number is not None and count < number:
        raise _lost(describe(), count, str(number), phase)


def _lost(plugin: str, count: int, number: str, phase: str) -> InvalidPluginError:
    return InvalidPluginError(
        f"plug-in {plugin} yielded {count} batches from wrap_batches, but the loader has {number}"
        f" for the rest of this {phase}: yield each batch once, also the last ones that it has"
        " fetched."
    )
