"""The table at the end of training: each metric's first, last, smallest and largest value."""

import dataclasses
import sys

from helios.plugins.builtin import bar


@dataclasses.dataclass
class _Seen:
    """The values of a metric, each with the position at which it was logged."""

    first: tuple[float, str]
    last: tuple[float, str]
    smallest: tuple[float, str]
    largest: tuple[float, str]


class ResultTable:
    """Remembers the extreme values of metrics, and shows them as a table."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def add(self, metrics: dict[str, float], at: str) -> None:
        """Add the newest values of some metrics.

        Args:
            metrics: the values by name.
            at: the position in words.
        """
        for name, value in metrics.items():
            new, seen = (value, at), self._seen.get(name)
            if seen is None:
                self._seen[name] = _Seen(new, new, new, new)
                continue
            seen.last = new
            if not value >= seen.smallest[0]:  # also if the value is not a number
                seen.smallest = new
            if not value <= seen.largest[0]:
                seen.largest = new

    def show(self, title: str) -> None:
        """Write the table to the standard error, or show it in the notebook; nothing if empty."""
        if not self._seen:
            return
        from rich import box  # imported only if a table is shown
        from rich.console import Console
        from rich.table import Table

        is_shown = bar.is_terminal(sys.stderr)
        table = Table(box=box.SIMPLE_HEAD if is_shown else None, title_justify="left")
        table.title = title
        table.add_column("metric", overflow="fold")
        for name in ("first", "last", "smallest", "largest"):
            table.add_column(name, justify="right", overflow="fold")
        for name, seen in self._seen.items():
            ends = [f"{value:.4g}" for value, _ in (seen.first, seen.last)]
            extremes = [f"{value:.4g} ({at})" for value, at in (seen.smallest, seen.largest)]
            table.add_row(name, *ends, *extremes)
        if bar.in_notebook():
            Console().print(table)
        else:
            Console(stderr=True, width=None if is_shown else 120, highlight=False).print(table)
