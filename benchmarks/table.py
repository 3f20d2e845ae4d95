"""The rows of a benchmark: printed as lines of JSON, and written to RESULTS.md by ``run.py``."""

import dataclasses
import json
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Row:
    """A measured figure.

    Attributes:
        name: the subject.
        unit: the unit of the figures.
        values: a figure of each round.
        target: the largest median that is allowed; ``None`` if none was set.
        by: the program that was measured.
        memory: the memory that was added at the peak, in MB, if it was measured.
    """

    name: str
    unit: str
    values: Sequence[float]
    target: float | None = None
    by: str = "Helios"
    memory: float | None = None

    def emit(self) -> None:
        """Print the row for ``run.py``."""
        print(json.dumps(dataclasses.asdict(self)), flush=True)

    @classmethod
    def parse(cls, line: str) -> "Row | None":
        """Return the row in a line of output; ``None`` for any other line."""
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError):
            return None

    def render(self) -> str:
        """Return the line of a Markdown table."""
        median, low, high = statistics.median(self.values), min(self.values), max(self.values)
        target = verdict = ""
        if self.target is not None:
            target = f"{self.target:g}"
            verdict = "met" if median <= self.target else "**missed**"
        memory = "" if self.memory is None else _shown(self.memory)
        figures = [*map(_shown, (median, low, high)), self.unit, target, verdict, memory]
        cells = [self.name, self.by, *figures]
        return f"| {' | '.join(cells)} |"


HEADER = """\
| what | of | median | min | max | unit | at most | | peak MB |
| --- | --- | ---: | ---: | ---: | --- | ---: | --- | ---: |"""


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
