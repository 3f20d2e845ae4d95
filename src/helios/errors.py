"""The errors that Helios raises.

Each class derives from :class:`HeliosError` and from the built-in type that a reader would expect
(``ValueError`` for a conflict, ``KeyError`` for an unknown name), so both kinds of ``except`` work.
Messages name the problem, its source, and a remedy that the user can copy.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Self


class HeliosError(Exception):
    """Base class of all Helios errors."""

    def __str__(self) -> str:
        # KeyError would show repr(message): quotes around it, line breaks escaped.
        return str(self.args[0]) if self.args else ""


class ConfigurationError(HeliosError, ValueError):
    """Raised if an argument, an environment variable or a file has an invalid value."""


class RegistrationError(HeliosError, KeyError, AssertionError):
    """Raised if a name in a registry is already in use.

    The class derives from ``AssertionError`` too, because earlier releases raised that.
    """


class UnknownNameError(HeliosError, KeyError):
    """Raised if a registry does not contain a name, or no plug-in has this name."""


class NoRunError(HeliosError, RuntimeError):
    """Raised if a model needs a running trainer, but no trainer runs it."""


class StoppedError(HeliosError, RuntimeError):
    """A run was stopped before it had the result that it was started for."""


class CheckpointError(HeliosError, RuntimeError):
    """Raised if a checkpoint is damaged, is too new, or does not match the run."""


class RankFailedError(HeliosError, RuntimeError):
    """Raised in the other processes of a run if one of them has failed, ended or stopped.

    Attributes:
        rank: the global rank that failed; ``None`` if nobody knows.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class RanksDifferError(HeliosError, RuntimeError):
    """Raised if the ranks of a run no longer train one model."""


class StudyError(HeliosError, RuntimeError):
    """Raised if a study of hyperparameters cannot be created, loaded or continued."""


class DamagedCheckpointError(CheckpointError):
    """Raised if a checkpoint is damaged; an older checkpoint can replace it."""


@dataclasses.dataclass(frozen=True)
class PluginFacts:
    """A plug-in that an error is about.

    Attributes:
        id: the id of the plug-in; its name if it was not built.
        distribution: the name of its distribution; empty if the code is not installed.
        version: the version of the distribution.
        source: ``file:line`` of the definition, or the entry point.
        claims: the capabilities that it claims, each with the reason.
    """

    id: str
    distribution: str
    version: str
    source: str
    claims: Mapping[str, str] = dataclasses.field(default_factory=dict)


class PluginError(HeliosError):
    """Base class of all errors of the plug-in framework.

    Attributes:
        plugins: the plug-ins that the error is about, if it is about several.
        claims: the capabilities that several of them claim.
    """

    plugins: tuple[PluginFacts, ...] = ()
    claims: tuple[str, ...] = ()

    def about(self, plugins: Iterable[PluginFacts], claims: Iterable[str] = ()) -> Self:
        """Store the plug-ins that the error is about, for programs, and return the error."""
        self.plugins, self.claims = tuple(plugins), tuple(claims)
        return self


class InvalidPluginError(PluginError, TypeError):
    """Raised if an object is not a plug-in, or has a hook that Helios cannot call."""


class DuplicatePluginError(PluginError, KeyError):
    """Raised if two plug-ins have the same id."""


class PluginConflictError(PluginError, ValueError):
    """Raised if several plug-ins claim a capability that only one may have."""


class PluginOrderError(PluginError, ValueError):
    """Raised if the attributes ``before`` and ``after`` of plug-ins contradict each other."""


class UnmetRequirementError(PluginError, ValueError):
    """Raised if a plug-in that is required is not active, or has another version."""


class PlanDriftError(PluginError, RuntimeError):
    """Raised if the plug-ins of a resumed run differ from those of its checkpoint."""


class AmbiguousPluginError(PluginError, LookupError):
    """Raised if several distributions offer a plug-in with the same name."""


class PluginLoadError(PluginError, ImportError):
    """Raised if Helios cannot import or build an installed plug-in.

    The original error is the ``__cause__``.
    """


class NotApplicable(PluginError):
    """Raised by the function or class of a plug-in that has no work in this process.

    The header of a run shows the reason, and the run continues without the plug-in.

    Args:
        reason: the reason, for the header of a run.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class FrozenPlanError(PluginError, RuntimeError):
    """Raised if the set of plug-ins is changed during a run."""


class PluginProblems(PluginError, ExceptionGroup[HeliosError], ValueError, KeyError):
    """Raised if the plug-ins have several problems; ``exceptions`` contains all of them.

    The class derives from ``ValueError`` and ``KeyError``, because a single conflict is a
    ``ValueError`` and a single duplicate id is a ``KeyError``.
    """

    def __new__(cls, problems: Sequence[HeliosError]) -> Self:
        """Create the group, with the first line of each problem in the message."""
        lines = [
            f"  {number}. {str(problem).partition(chr(10))[0]}"
            for number, problem in enumerate(problems, start=1)
        ]
        message = f"the plug-ins have {len(problems)} problems:\n" + "\n".join(lines)
        return super().__new__(cls, message, problems)

    def __str__(self) -> str:
        return self.message

    def derive(self, excs: Sequence[HeliosError]) -> "PluginProblems":  # type: ignore[override]  # typeshed wants it generic
        """Return a group of the given problems; ``except*`` calls this method."""
        return PluginProblems(excs)


def each_of(problem: HeliosError) -> Sequence[HeliosError]:
    """Return the errors in a :class:`PluginProblems`, or a list of any other error."""
    if isinstance(problem, PluginProblems):
        return [each for each in problem.exceptions if isinstance(each, HeliosError)]
    return [problem]


def raise_all(problems: Sequence[HeliosError]) -> None:
    """Raise a single problem directly, and several as one :class:`PluginProblems`."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise PluginProblems(problems)


def printable(text: str) -> str:
    """Return a text in which escapes replace line breaks and other characters without a glyph.

    A name from another package, printed as it is, could forge lines or control the terminal.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def name_of(kind: type) -> str:
    """Return the name of a class, as text that can be printed."""
    return printable(kind.__name__)


def kind_of(value: object) -> str:
    """Return the name of the class of an object, as text that can be printed."""
    return name_of(type(value))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` with the closest known names, or ``""``.

    Args:
        name: the name that the user wrote.
        known: the valid names.
    """
    by_folded = {candidate.lower(): candidate for candidate in known}
    close = [by_folded[match] for match in get_close_matches(name.lower(), by_folded, n=3)]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""


def describe(error: BaseException) -> str:
    """Return type and text of an error of somebody else's code, as text that can be printed."""
    shown = "\n".join(map(printable, text_of(error).splitlines()))
    return f"{kind_of(error)}: {shown}"


def text_of(error: BaseException) -> str:
    """Return the text of an error of somebody else's code, even if the text cannot be read."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # even SystemExit: the code is not ours
        return f"(its text cannot be read: {kind_of(failure)})"


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an error; somebody else's code may have set anything in their place."""
    notes = getattr(error, "__notes__", ())
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
