"""A problem with a plug-in, and its remedies."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Literal, Self

from helios.errors import (
    AmbiguousPluginError,
    ConfigurationError,
    DuplicatePluginError,
    HeliosError,
    InvalidPluginError,
    PluginConflictError,
    PluginError,
    PluginFacts,
    PluginLoadError,
    PluginOrderError,
    UnknownNameError,
    UnmetRequirementError,
    describe,
    notes_of,
)
from helios.plugins.discovery.entry_points import EntryPointRecord

Severity = Literal["error", "warning"]

CODES: dict[type[HeliosError], str] = {
    PluginConflictError: "conflict",
    DuplicatePluginError: "duplicate-id",
    PluginOrderError: "order-cycle",
    PluginLoadError: "unusable-plugin",
    InvalidPluginError: "invalid-plugin",
    UnknownNameError: "unknown-name",
    AmbiguousPluginError: "ambiguous-name",
    UnmetRequirementError: "version-not-allowed",
    ConfigurationError: "wrong-configuration",
    HeliosError: "start-failed",
}
"""The code for each class of errors; the first class that fits counts."""

_GENERAL_REMEDIES = ("correct the code or the setting that the message names",)
_REMEDY_STARTS = ("Trainer(", "HELIOS_", "block = ", "pip ")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        code: the kind of the problem, in ``kebab-case``; docs/cli.md lists all codes.
        severity: ``"error"`` if something will not work, ``"warning"`` if it may surprise.
        subject: the plug-in, distribution, variable or file at fault.
        what: a description.
        where: the file, folder or lines that show the problem.
        remedies: commands, settings or instructions; any one of them helps.
        claims: the capabilities that several plug-ins claim, for a conflict.
        plugins: the plug-ins that the problem is about, for a conflict or an order.
    """

    code: str
    severity: Severity
    subject: str
    what: str
    where: str
    remedies: tuple[str, ...]
    claims: tuple[str, ...] = ()
    plugins: tuple[PluginFacts, ...] = ()

    @classmethod
    def from_error(cls, error: BaseException, subject: str, remedies: Sequence[str] = ()) -> Self:
        """Return the problem behind an error that a trainer would raise, or has raised.

        A message of Helios begins with a description, and gives each remedy a line of its own.

        Args:
            error: the error.
            subject: the plug-in, variable or file at fault.
            remedies: further remedies, beside those in the message.
        """
        if not isinstance(error, HeliosError):
            what = describe(error)
            notes = "\n".join(notes_of(error))
            return cls("start-failed", "error", subject, what, notes, _GENERAL_REMEDIES)
        code = next(code for kind, code in CODES.items() if isinstance(error, kind))
        what, *lines = str(error).splitlines()
        told = [_copyable(line) for line in lines if line.strip().startswith(_REMEDY_STARTS)]
        where = [line for line in lines if line.startswith("  ") and _copyable(line) not in told]
        if any(remedy.startswith("block = ") for remedy in remedies):  # one is enough
            told = [line for line in told if not line.startswith("block = ")]
        all_remedies = (*remedies, *told) or _GENERAL_REMEDIES
        about = error if isinstance(error, PluginError) else PluginError()
        facts = about.claims, about.plugins
        return cls(code, "error", subject, what, "\n".join(where), all_remedies, *facts)


def _copyable(line: str) -> str:
    """Return a line of a message with the remark after its gap turned into a comment."""
    setting, *remarks = re.split(" {3,}", line.strip())
    return f"{setting}    # {' '.join(remarks)}" if remarks else setting


def ways_to_disable(record: EntryPointRecord) -> tuple[str, ...]:
    """Return the settings and the command that disable a plug-in."""
    name = record.qualified_name
    return (
        f"HELIOS_BLOCK_PLUGINS={name}",
        f'block = ["{name}"]    # in [tool.helios] of pyproject.toml',
        f"pip uninstall {shlex.quote(record.distribution)}",
    )


def reinstall_command(distribution: str, version: str) -> str:
    """Return the command that installs the same version of a distribution again."""
    wanted = shlex.quote(f"{distribution}=={version}")
    return f"pip install --force-reinstall --no-deps {wanted}"
