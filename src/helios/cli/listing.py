"""``helios plugins list``: what is installed, and what is known of it without importing it."""

import dataclasses
import os
from collections.abc import Mapping

import typer

from helios.cli.name_checks import Wishes
from helios.cli.output import foreign_code, print_json, print_table
from helios.plugins.discovery import EntryPointRecord, survey
from helios.plugins.selection import autoload_off


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of an installed plug-in, as far as that is known without importing it.

    Attributes:
        status: ``"asked-for"``, ``"candidate"``, ``"blocked"``, ``"off"``, ``"not-allowed"``, or
            ``"needs"``.
        reason: why, in words.
    """

    status: str
    reason: str

    @property
    def is_imported(self) -> bool:
        """Whether a trainer would import the plug-in."""
        return self.status in ("asked-for", "candidate")


def verdict(
    record: EntryPointRecord, wishes: Wishes, environ: Mapping[str, str] = os.environ
) -> Verdict:
    """Return what environment, file and metadata decide, in the order in which a trainer asks."""
    selection = wishes.selection
    blocked_by = selection.blocked_record(record)
    if blocked_by is not None:
        return Verdict("blocked", f"blocked by {blocked_by}")
    needs = f"needs {', '.join(record.missing)}" if record.missing else ""
    sources = [source for name, source in selection.explicit if record.answers_to(str(name))]
    if sources:
        reasons = [f"asked for by {sources[0]}", *filter(None, [needs])]
        return Verdict("asked-for", "; ".join(reasons))
    if selection.autoload is False:
        off = autoload_off(environ) or f"autoloading is off: {selection.autoload_source}"
        return Verdict("off", off)
    if record not in wishes.allowed:
        return Verdict("not-allowed", f"not in the allow-list: {selection.autoload_source}")
    if needs:
        return Verdict("needs", needs)
    return Verdict("candidate", "may be autoloaded, if its class agrees")


def list_installed(as_json: bool) -> bool:
    """Print what is installed; return whether the project's file can be read."""
    records, damages = survey()
    with foreign_code():
        wishes = Wishes.gather()
    verdicts = {record: verdict(record, wishes) for record in records}
    if as_json:
        plugins = [
            {**dataclasses.asdict(r), "status": v.status, "note": v.reason}
            for r, v in verdicts.items()
        ]
        print_json(plugins=plugins, unreadable=[damage.place for damage in damages])
    else:
        rows = [(r.name, r.distribution, r.version, r.value, v.reason) for r, v in verdicts.items()]
        print_table(("name", "distribution", "version", "entry point", "note"), rows)
        for damage in damages:
            typer.echo(f"{damage.place} cannot be read: helios plugins doctor tells more", err=True)
    for finding in wishes.findings if not wishes.is_readable else ():
        typer.echo(finding.what, err=True)
    return wishes.is_readable
