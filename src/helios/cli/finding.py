"""What may be wrong with plug-ins, and what to do about it."""

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
    PluginLoadError,
    PluginOrderError,
    UnknownNameError,
    UnmetRequirementError,
)
from helios.plugins.discovery import EntryPointRecord

Severity = Literal["error", "warning"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: what kind of thing, in ``kebab-case``; docs/cli.md has all of them.
        severity: ``"error"`` if something will not work, ``"warning"`` if it may surprise.
        subject: the plug-in, distribution, variable or file that is at fault.
        what: what is wrong.
        where: the file, folder or lines that show it.
        remedies: ways out, each a command, a setting or an instruction.
    """

    code: str
    severity: Severity
    subject: str
    what: str
    where: str
    remedies: tuple[str, ...]

    @classmethod
    def of(cls, error: BaseException, subject: str, remedies: Sequence[str] = ()) -> Self:
        """Return a finding for an error that a trainer would raise, or has raised.

        The messages of Helios begin with what is wrong, and have ways out on lines of their own.

        Args:
            error: the error.
            subject: what is at fault.
            remedies: ways out beside those that the message names.
        """
        if not isinstance(error, HeliosError):
            what = f"{type(error).__name__}: {error}"
            notes = "\n".join(getattr(error, "__notes__", ()))
            return cls("start-failed", "error", subject, what, notes, _IN_GENERAL)
        code = next(code for kind, code in CODES.items() if isinstance(error, kind))
        what, *lines = str(error).splitlines()
        ways_out = [_copyable(line) for line in lines if line.strip().startswith(_WAYS_OUT)]
        where = [
            line for line in lines if line.startswith("  ") and _copyable(line) not in ways_out
        ]
        return cls(
            code, "error", subject, what, "\n".join(where), (*remedies, *ways_out) or _IN_GENERAL
        )


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
_IN_GENERAL = ("correct what the message names",)
_WAYS_OUT = ("Trainer(", "HELIOS_", "pip ")


def _copyable(line: str) -> str:
    """Return a line of a message, what follows after a gap as a comment."""
    setting, *remarks = re.split(" {3,}", line.strip())
    return f"{setting}    # {' '.join(remarks)}" if remarks else setting


def ways_around(record: EntryPointRecord) -> tuple[str, ...]:
    """Return the settings and the command that keep a plug-in from being used."""
    name = record.qualified_name
    return (
        f"HELIOS_BLOCK_PLUGINS={name}",
        f'block = ["{name}"]    # in [tool.helios] of pyproject.toml',
        f"pip uninstall {shlex.quote(record.distribution)}",
    )


def reinstall(distribution: str, version: str) -> str:
    """Return the command that installs a distribution again, as it is."""
    wanted = shlex.quote(f"{distribution}=={version}")
    return f"pip install --force-reinstall --no-deps {wanted}"
