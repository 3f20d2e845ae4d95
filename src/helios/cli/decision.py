"""The decision of a trainer about an installed plug-in, as far as it needs no import."""

import dataclasses
import os
from collections.abc import Mapping

from helios.cli.doctor import LocalSelection
from helios.plugins.activation.selection import autoload_off
from helios.plugins.discovery.entry_points import EntryPointRecord


@dataclasses.dataclass(frozen=True)
class Decision:
    """The decision about one plug-in.

    Attributes:
        status: ``"asked-for"``, ``"candidate"``, ``"blocked"``, ``"off"``, ``"not-allowed"``, or
            ``"needs"``.
        reason: the reason in words.
    """

    status: str
    reason: str

    @property
    def is_imported(self) -> bool:
        """True if a trainer would import the plug-in."""
        return self.status in ("asked-for", "candidate")


def decide(
    record: EntryPointRecord, local: LocalSelection, environ: Mapping[str, str] = os.environ
) -> Decision:
    """Return the decision about a plug-in; the rules apply in the same order as in a trainer."""
    selection = local.selection
    blocked_by = selection.blocks.of_record(record)
    if blocked_by is not None:
        return Decision("blocked", f"blocked by {blocked_by}")
    needs = f"needs {', '.join(record.missing)}" if record.missing else ""
    sources = [source for name, source in selection.explicit if record.answers_to(str(name))]
    if sources:
        reasons = [f"asked for by {sources[0]}", *filter(None, [needs])]
        return Decision("asked-for", "; ".join(reasons))
    if selection.autoload is False:
        off = autoload_off(environ) or f"autoloading is off: {selection.autoload_source}"
        return Decision("off", off)
    if record not in local.allowed:
        return Decision("not-allowed", f"not in the allow-list: {selection.autoload_source}")
    if needs:
        return Decision("needs", needs)
    return Decision("candidate", "may be autoloaded, if its class allows it")
