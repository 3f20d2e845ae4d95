"""Every error of Helios that a user can meet.

Each class derives from :class:`HeliosError` and from the built-in type that a reader would expect
(``ValueError`` for a conflict, ``KeyError`` for an unknown name), so both kinds of ``except`` work.
Messages say what is wrong, where it came from, and what to write instead.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Self


class HeliosError(Exception):
    """Base class of all errors that Helios raises on its own account."""

    def __str__(self) -> str:
        # KeyError would show repr(message): quotes around it, line breaks escaped.
        return str(self.args[0]) if self.args else ""


class ConfigurationError(HeliosError, ValueError):
    """An argument, environment variable or file asks for something that cannot be."""


class RegistrationError(HeliosError, KeyError, AssertionError):
    """A name in a registry is taken.

    Also an ``AssertionError``, because earlier releases raised that.
    """


class UnknownNameError(HeliosError, KeyError):
    """A name is not in a registry, or is not a plug-in that is installed or registered."""


class NoRunError(HeliosError, RuntimeError):
    """A model asked for what it has only while a trainer runs it."""


class CheckpointError(HeliosError, RuntimeError):
    """A checkpoint is damaged, too new, or does not fit what it is loaded into."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not as it was written; an older one can be used instead."""


class PluginError(HeliosError):
    """Base class of the errors of the plug-in framework."""


class InvalidPluginError(PluginError, TypeError):
    """An object cannot be a plug-in: not a plug-in at all, or with a hook that cannot be called."""


class DuplicatePluginError(PluginError, KeyError):
    """Another plug-in is registered under the same id."""


class PluginConflictError(PluginError, ValueError):
    """Two plug-ins want to do what only one may."""


class PluginOrderError(PluginError, ValueError):
    """The plug-ins' wishes to come before or after one another contradict each other."""


class UnmetRequirementError(PluginError, ValueError):
    """What is installed is not the version that was asked for."""


class PlanDriftError(PluginError, RuntimeError):
    """The plug-ins of a resumed run are not those of its checkpoint."""


class AmbiguousPluginError(PluginError, LookupError):
    """Several distributions offer a plug-in of this name."""


class PluginLoadError(PluginError, ImportError):
    """An installed plug-in could not be imported or built; the original error is the cause."""


class FrozenPlanError(PluginError, RuntimeError):
    """The set of plug-ins was to be changed while a run is using it."""


class PluginProblems(PluginError, ExceptionGroup[HeliosError], ValueError, KeyError):
    """Several things are wrong with the plug-ins; ``exceptions`` holds them all, each whole.

    It is a ``ValueError`` and a ``KeyError``, as conflicts and duplicate ids alone are.
    """

    def __new__(cls, problems: Sequence[HeliosError]) -> Self:
        """Sum up the problems: the first line of each."""
        lines = [
            f"  {number}. {str(problem).partition(chr(10))[0]}"
            for number, problem in enumerate(problems, start=1)
        ]
        message = f"{len(problems)} things are wrong with the plug-ins:\n" + "\n".join(lines)
        return super().__new__(cls, message, problems)

    def __str__(self) -> str:
        return self.message

    def derive(self, excs: Sequence[HeliosError]) -> "PluginProblems":  # type: ignore[override]  # typeshed wants it generic
        """Return a group of some of the problems, as ``except*`` needs it."""
        return PluginProblems(excs)


def each_of(problem: HeliosError) -> Sequence[HeliosError]:
    """Return what a :class:`PluginProblems` holds, or any other error alone."""
    if isinstance(problem, PluginProblems):
        return [each for each in problem.exceptions if isinstance(each, HeliosError)]
    return [problem]


def raise_all(problems: Sequence[HeliosError]) -> None:
    """Raise the only problem itself, several as one :class:`PluginProblems`; nothing for none."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise PluginProblems(problems)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known names closest to ``name``, or ``""``.

    Args:
        name: what was written.
        known: the names that would have been right.
    """
    by_folded = {candidate.lower(): candidate for candidate in known}
    close = [by_folded[match] for match in get_close_matches(name.lower(), by_folded, n=3)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
