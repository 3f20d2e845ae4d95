"""The progress, the best trials and the plots of a search."""

import contextlib
import importlib.util
import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from helios.plugins.optuna import trials

_logger = logging.getLogger(__name__)

_PLOTS = (
    "optimization_history",
    "intermediate_values",
    "slice",
    "parallel_coordinate",
    "param_importances",
)


@contextlib.contextmanager
def progress(study: Any, n_trials: int, verbose: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar of trials; yield the function to call after each."""
    from tqdm import tqdm

    done = sum(trial.state in _ended() for trial in study.get_trials(deepcopy=False))
    with tqdm(total=n_trials, initial=done, unit="trial", disable=not verbose) as bar:

        def advance() -> None:
            found = best(study, 1)
            if found:
                bar.set_postfix(best=f"{found[0].value:g}", refresh=False)
            bar.update()

        yield advance


def _ended() -> tuple[Any, Any]:
    return trials.states().COMPLETE, trials.states().PRUNED


def best(study: Any, count: int) -> list[Any]:
    """Return the best complete trials, the best first."""
    complete = study.get_trials(deepcopy=False, states=(trials.states().COMPLETE,))
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    return sorted(complete, key=lambda trial: (sign * trial.value, trial.number))[:count]


def print_best(study: Any, count: int = 5) -> None:
    """Print a table of the best trials."""
    from rich.console import Console
    from rich.table import Table

    known = study.get_trials(deepcopy=False)
    numbers = [sum(trial.state == state for trial in known) for state in _ended()]
    table = Table(
        title=f"{study.study_name}: {numbers[0]} trials complete, {numbers[1]} pruned",
        title_justify="left",
    )
    rows = best(study, count)
    names = sorted({name for trial in rows for name in trial.params})
    for column in ("trial", "value", *names):
        table.add_column(column)
    for trial in rows:
        shown = [f"{trial.value:.6g}", *(_text(trial.params.get(name, "")) for name in names)]
        table.add_row(str(trial.number), *shown)
    Console().print(table)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_plots(study: Any, folder: pathlib.Path) -> None:
    """Write Optuna's plots as HTML, if plotly is installed."""
    if importlib.util.find_spec("plotly") is None:
        return
    import optuna

    folder.mkdir(parents=True, exist_ok=True)
    for name in _PLOTS:
        try:
            with warnings.catch_warnings():  # of parts that are experimental, or of few trials
                warnings.simplefilter("ignore")
                figure = getattr(optuna.visualization, f"plot_{name}")(study)
        except (ImportError, RuntimeError, ValueError) as error:
            # Some need several complete trials, or scikit-learn.
            _logger.info("Optuna plug-in: no plot of %s: %s", name, error)
        else:
            figure.write_html(folder / f"{name}.html", include_plotlyjs="directory")
