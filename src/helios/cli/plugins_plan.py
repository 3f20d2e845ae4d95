"""``helios plugins plan``: the plug-ins that a trainer in this folder would activate."""

import dataclasses

import helios
from helios.cli.decision import Decision, decide
from helios.cli.doctor import LocalSelection, find_problems, print_problems
from helios.cli.load import construct_trainer
from helios.cli.output import error_facts, print_json, print_table, protect_stdout, say
from helios.errors import describe, notes_of
from helios.plugins import PluginPlan
from helios.plugins.discovery.entry_points import EntryPointRecord, survey


def print_plan_without_imports(as_json: bool) -> bool:
    """Print the decision about each plug-in; return true if no problem is an error."""
    problems = find_problems(imports=False)
    with protect_stdout():
        local = LocalSelection.read()
    decisions = _in_order({record: decide(record, local) for record in survey()[0]}, local)
    if as_json:
        plugins = [
            {
                "name": record.name,
                "distribution": record.distribution,
                "version": record.version,
                "status": decision.status,
                "reason": _reason(decision),
            }
            for record, decision in decisions.items()
        ]
        findings = [dataclasses.asdict(problem) for problem in problems]
        print_json("plugins plan", imported=False, plugins=plugins, findings=findings)
    else:
        rows = [
            (record.name, f"{record.distribution} {record.version}", _reason(decision))
            for record, decision in decisions.items()
        ]
        print_table(("name", "distribution", "verdict"), rows)
        say(
            "\nNothing was imported. Add --import to see the order of the calls, and the plug-ins"
            " that do not apply here.\n"
        )
        print_problems(problems)
    return not any(problem.severity == "error" for problem in problems)


def print_plan_with_imports(as_json: bool) -> bool:
    """Print the plan of a real trainer, or the errors; return true if the trainer can start."""
    with protect_stdout():
        trainer, errors = construct_trainer()
        plan = _plan_of(trainer) if trainer else None
    if as_json:
        problems = [error_facts(error) for error in errors]
        document = plan and plan.to_dict()
        print_json("plugins plan", imported=True, plan=document, problems=problems)
    elif plan is not None:
        say(plan.as_text())
    else:
        say(f"A trainer cannot start here. Problems: {len(errors)}\n")
        for error in errors:
            say("\n".join([describe(error), *notes_of(error), ""]))
    return plan is not None


def _plan_of(trainer: helios.Trainer) -> PluginPlan:
    return trainer.plugin_manager.freeze(configured_in=str(trainer.configuration.path or ""))


def _in_order(
    decisions: dict[EntryPointRecord, Decision], local: LocalSelection
) -> dict[EntryPointRecord, Decision]:
    """Sort as a trainer does: explicitly named plug-ins first, then the others by name."""
    named = [str(name) for name, _ in local.selection.explicit]

    def key(record: EntryPointRecord) -> tuple[bool, int]:
        indices = [i for i, name in enumerate(named) if record.answers_to(name)]
        return not decisions[record].is_imported, min(indices, default=len(named))

    return {record: decisions[record] for record in sorted(decisions, key=key)}


def _reason(decision: Decision) -> str:
    match decision.status:
        case "asked-for":
            return f"would be imported and built: {decision.reason}"
        case "candidate":
            return "would be imported and asked whether it applies"
        case _:
            return decision.reason
