"""``helios plugins list``: the installed plug-ins, without importing them."""

import dataclasses

from helios.cli.decision import decide
from helios.cli.doctor import LocalSelection
from helios.cli.output import print_json, print_table, protect_stdout, say
from helios.plugins.discovery.entry_points import survey


def print_list(as_json: bool) -> bool:
    """Print the installed plug-ins; return true if the project's file can be read."""
    records, damages = survey()
    with protect_stdout():
        local = LocalSelection.read()
    decisions = {record: decide(record, local) for record in records}
    if as_json:
        plugins = [
            {**dataclasses.asdict(r), "status": d.status, "note": d.reason}
            for r, d in decisions.items()
        ]
        print_json("plugins list", plugins=plugins, unreadable=[damage.place for damage in damages])
    else:
        rows = [
            (r.name, r.distribution, r.version, r.value, d.reason) for r, d in decisions.items()
        ]
        print_table(("name", "distribution", "version", "entry point", "note"), rows)
        for damage in damages:
            say(f"cannot read {damage.place}: run helios plugins doctor for the details", err=True)
    for problem in local.problems if not local.is_readable else ():
        say(problem.what, err=True)
    return local.is_readable
