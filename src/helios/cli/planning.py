"""``helios plugins plan``: what a trainer that is started in this folder would activate."""

import dataclasses

import typer

import helios
from helios.cli.examination import examine, print_findings
from helios.cli.inspection import start
from helios.cli.listing import Verdict, verdict
from helios.cli.name_checks import Wishes
from helios.cli.output import foreign_code, print_json, print_table
from helios.plugins import PluginPlan
from helios.plugins.discovery import EntryPointRecord, survey

ASKED = "would be imported and asked"


def plan_without_imports(as_json: bool) -> bool:
    """Print what metadata, environment and file decide; return whether nothing is in the way."""
    findings = examine(imports=False)
    with foreign_code():
        wishes = Wishes.gather()
    verdicts = _in_order({record: verdict(record, wishes) for record in survey()[0]}, wishes)
    if as_json:
        plugins = [
            {
                "name": record.name,
                "distribution": record.distribution,
                "version": record.version,
                "status": decision.status,
                "reason": _reason(decision),
            }
            for record, decision in verdicts.items()
        ]
        found = [dataclasses.asdict(finding) for finding in findings]
        print_json(imported=False, plugins=plugins, findings=found)
    else:
        rows = [
            (record.name, f"{record.distribution} {record.version}", _reason(decision))
            for record, decision in verdicts.items()
        ]
        print_table(("name", "distribution", "verdict"), rows)
        typer.echo(
            "\nNothing was imported: --import tells as well in which order they would be called,"
            " and which decline.\n"
        )
        print_findings(findings)
    return not any(finding.severity == "error" for finding in findings)


def plan_with_imports(as_json: bool) -> bool:
    """Print the plan of a real trainer, or all that keeps it from starting; return which."""
    with foreign_code():
        trainer, problems = start()
        plan = _plan_of(trainer) if trainer else None
    if as_json:
        told = [
            {"error": type(problem).__name__, "message": str(problem), "notes": _notes(problem)}
            for problem in problems
        ]
        print_json(imported=True, plan=plan and plan.to_dict(), problems=told)
    elif plan is not None:
        typer.echo(plan.as_text())
    else:
        typer.echo(f"A trainer cannot be started here; problems: {len(problems)}\n")
        for problem in problems:
            story = f"{type(problem).__name__}: {problem}"
            typer.echo("\n".join([story, *_notes(problem), ""]))
    return plan is not None


def _plan_of(trainer: helios.Trainer) -> PluginPlan:
    return trainer.plugin_manager.freeze(configured_in=str(trainer.configuration.path or ""))


def _in_order(
    verdicts: dict[EntryPointRecord, Verdict], wishes: Wishes
) -> dict[EntryPointRecord, Verdict]:
    """Sort as a trainer goes about it: what was asked for, then the rest by name."""
    asked = [str(name) for name, _ in wishes.selection.explicit]

    def place(record: EntryPointRecord) -> tuple[bool, int]:
        places = [i for i, name in enumerate(asked) if record.answers_to(name)]
        return not verdicts[record].is_imported, min(places, default=len(asked))

    return {record: verdicts[record] for record in sorted(verdicts, key=place)}


def _reason(decision: Verdict) -> str:
    if decision.status == "asked-for":
        return f"would be imported and built: {decision.reason}"
    return ASKED if decision.status == "candidate" else decision.reason


def _notes(problem: BaseException) -> list[str]:
    return list(getattr(problem, "__notes__", ()))
