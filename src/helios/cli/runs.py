"""``helios runs``: list, show and compare the runs in folders.

Exit codes: 0 for success, 1 if there is no such run or a file cannot be written, 2 for wrong usage.
"""

import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from helios.cli.output import fail, print_json, print_table, say
from helios.cli.run_plots import page, sparkline
from helios.cli.run_records import RunRecord, find_run, find_runs
from helios.errors import HeliosError

app = typer.Typer(
    help="List, show and compare runs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_SHOWN = 3  # metrics in the list, if none is named
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Html = Annotated[
    pathlib.Path | None, typer.Option("--html", help="Write plots to this file, as one HTML page.")
]
Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="Show this metric; repeat for several.")
]


@app.callback()
def runs() -> None:
    """Group the subcommands."""


@app.command("list")
def list_runs(
    folder: Annotated[pathlib.Path, typer.Argument(help="A folder with runs.")] = pathlib.Path(
        "runs"
    ),
    metric: Metrics = None,
    as_json: Json = False,
) -> None:
    """List the runs in a folder and in the folders below it, with their newest metrics.

    Exit code: 1 if the folder holds no run.
    """
    try:
        found = find_runs(folder)
    except (HeliosError, OSError) as error:
        fail("runs list", error, as_json=as_json)
    if as_json:
        print_json("runs list", runs=[_facts(run) for run in found])
        return
    names = metric or list(dict.fromkeys(n for run in found for n in run.metrics))[:_SHOWN]
    rows = [
        (
            *(run.name, run.model, str(run.epoch_number), str(run.iteration)),
            *(_last(run, name) for name in names),
        )
        for run in found
    ]
    print_table(("run", "model", "epoch", "iteration", *names), rows)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="The run_root of a run, or run_root#2.")],
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Show a run: its hyper-parameters, plug-ins and checkpoints, and a plot of each metric.

    Exit code: 1 if no run has this name.
    """
    try:
        found = find_run(run)
        if html is not None:
            rows = {"Hyper-parameters": [("name", "value"), *_arguments([found])]}
            html.write_text(page(found.name, [found], rows), encoding="utf-8")
    except (HeliosError, OSError) as error:
        fail("runs show", error, as_json=as_json)
    if as_json:
        series = {
            name: {"iterations": s.iterations, "epochs": s.epochs, "values": s.values}
            for name, s in found.metrics.items()
        }
        print_json("runs show", run={**_facts(found), "series": series})
    else:
        _print(found)


@app.command()
def compare(
    run: Annotated[list[str], typer.Argument(help="Two or more runs.")],
    html: Html = None,
    metric: Metrics = None,
    as_json: Json = False,
) -> None:
    """Compare runs: the hyper-parameters that differ, and the metrics.

    Exit code: 1 if no run has one of the names.
    """
    try:
        found = [find_run(each) for each in run]
        different = [row for row in _arguments(found) if len(set(row[1:])) > 1]
        if html is not None:
            table = {"Different hyper-parameters": [("name", *(r.name for r in found)), *different]}
            html.write_text(page("Comparison of runs", found, table), encoding="utf-8")
    except (HeliosError, OSError) as error:
        fail("runs compare", error, as_json=as_json)
    names = metric or list(dict.fromkeys(name for each in found for name in each.metrics))
    if as_json:
        values = {row[0]: [each.arguments().get(row[0]) for each in found] for row in different}
        metrics = {name: [_summary(each, name) for each in found] for name in names}
        facts = [_facts(each) for each in found]
        print_json("runs compare", runs=facts, different=values, metrics=metrics)
        return
    headers = [each.name for each in found]
    print_table(("hyper-parameter", *headers), different)
    for name in names:
        say()
        print_table((name, "last", "smallest", "largest", ""), _metric_rows(found, name))


def _facts(run: RunRecord) -> dict[str, Any]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "number": run.number,
        "model": run.model,
        "epoch": run.epoch,
        "iteration": run.iteration,
        "metrics": {name: series.summary() for name, series in run.metrics.items()},
        "tests": run.tests,
        "hyper-parameters": run.arguments(),
        "plug-ins": run.plugins(),
        "checkpoints": run.checkpoints,
        "unreadable lines": run.unreadable,
    }


def _summary(run: RunRecord, name: str) -> dict[str, Any] | None:
    return run.metrics[name].summary() if name in run.metrics else None


def _last(run: RunRecord, name: str) -> str:
    return f"{run.metrics[name].values[-1]:.4g}" if name in run.metrics else ""


def _arguments(runs: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """Return a row for each hyper-parameter: its name, and its value in each run."""
    known = [run.arguments() for run in runs]
    names = dict.fromkeys(name for each in known for name in each)
    return [(name, *(repr(e[name]) if name in e else "" for e in known)) for name in names]


def _metric_rows(runs: Sequence[RunRecord], name: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for run in runs:
        if name not in run.metrics:
            rows.append((run.name, "", "", "", ""))
            continue
        series = run.metrics[name]
        seen = series.summary()
        extremes = [
            "" if seen[key] is None else f"{seen[key]:.4g} ({seen[f'{key} at']})"
            for key in ("smallest", "largest")
        ]
        rows.append((run.name, f"{seen['last']:.4g}", *extremes, sparkline(series.values)))
    return rows


def _print(run: RunRecord) -> None:
    say(f"run {run.name}: epoch {run.epoch_number}, iteration {run.iteration}")
    say(f"plug-ins: {', '.join(run.plugins()) or 'none'}")
    newest = f", the last {run.checkpoints[-1]}" if run.checkpoints else ""
    say(f"checkpoints: {len(run.checkpoints)}{newest}")
    if run.tests:
        say("test: " + ", ".join(f"{name}={value:.4g}" for name, value in run.tests.items()))
    if run.unreadable:
        say(f"{run.unreadable} lines of its metrics file are damaged, and left out")
    arguments = _arguments([run])
    if arguments:
        say()
        print_table(("hyper-parameter", "value"), arguments)
    if run.metrics:
        say()
        rows = [(name, *_metric_rows([run], name)[0][1:]) for name in run.metrics]
        print_table(("metric", "last", "smallest (iteration)", "largest (iteration)", ""), rows)
