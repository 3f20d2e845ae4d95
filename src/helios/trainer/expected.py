"""The exceptions that a run expects, and does not log as errors."""

from collections.abc import Iterable
from typing import Any, SupportsIndex

from helios.core.rules import shown
from helios.errors import ConfigurationError

ExceptionType = type[Exception]


class ExpectedExceptions(list[ExceptionType]):
    """A list of exception types. It refuses anything else, and then does not change."""

    def append(self, kind: ExceptionType) -> None:
        """Add a type."""
        super().append(_checked(kind))

    def extend(self, kinds: Iterable[ExceptionType]) -> None:
        """Add several types."""
        super().extend([_checked(kind) for kind in kinds])

    def insert(self, index: SupportsIndex, kind: ExceptionType) -> None:
        """Add a type at a place."""
        super().insert(index, _checked(kind))

    def __iadd__(self, kinds: Iterable[ExceptionType]) -> "ExpectedExceptions":  # type: ignore[override,misc]  # typeshed wants Self
        self.extend(kinds)
        return self

    def __setitem__(self, place: Any, kinds: Any) -> None:
        is_slice = isinstance(place, slice)
        new = [_checked(kind) for kind in kinds] if is_slice else _checked(kinds)
        super().__setitem__(place, new)


def is_exception_type(value: object) -> bool:
    """Return whether a value is an exception type."""
    return isinstance(value, type) and issubclass(value, BaseException)


def check_expected(kinds: Iterable[Any]) -> list[ExceptionType]:
    """Return exception types as a list, or refuse what is none."""
    return [_checked(kind) for kind in kinds]


def _checked(kind: Any) -> ExceptionType:
    if not is_exception_type(kind):
        raise ConfigurationError(
            f"{shown(kind)} is not an exception type, so a run cannot expect it: append a class"
            " that derives from Exception, such as ValueError."
        )
    return kind  # type: ignore[no-any-return]  # checked
