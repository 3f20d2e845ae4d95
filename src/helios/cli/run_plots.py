"""Plots of metrics: as a line of characters in the terminal, and as one HTML file."""

import html
import importlib.util
import itertools
import math
from collections.abc import Mapping, Sequence

from helios.cli.run_records import RunRecord, finite

_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT, _EDGE = 640, 240, 45
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
_PAGE = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    "<style>body{{font-family:sans-serif;max-width:60em;margin:2em auto}}"
    "td,th{{padding:.2em .8em;text-align:left}}</style></head>\n<body><h1>{title}</h1>\n{body}\n"
    "</body></html>\n"
)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Return the values as a line of characters of different heights.

    Args:
        values: the values; each character is the mean of some of them. Those that are not finite
            become ``!``.
        width: the largest number of characters.
    """
    count = min(width, len(values)) or 1
    ends = [number * len(values) // count for number in range(count + 1)]
    parts = [values[start:end] for start, end in itertools.pairwise(ends)]
    means = [sum(part) / len(part) for part in parts if part]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _LEVELS[round((mean - low) * scale)] if math.isfinite(mean) else "!" for mean in means
    )


Rows = Sequence[Sequence[str]]
"""A table; the header is its first row."""


def page(title: str, runs: Sequence[RunRecord], tables: Mapping[str, Rows]) -> str:
    """Return an HTML page with a plot of each metric, which needs no other file.

    Args:
        title: the title of the page.
        runs: the runs to draw.
        tables: tables by title.
    """
    parts = [_table(name, rows) for name, rows in tables.items() if len(rows) > 1]
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    draw = _with_plotly if importlib.util.find_spec("plotly") else _with_svg
    parts += draw({name: _curves(name, runs) for name in names})
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


_Curves = dict[str, list[tuple[int, float]]]


def _curves(name: str, runs: Sequence[RunRecord]) -> _Curves:
    return {run.name: finite(run.metrics[name]) for run in runs if name in run.metrics}


def _with_plotly(metrics: Mapping[str, _Curves]) -> list[str]:
    import plotly.graph_objects

    parts: list[str] = []
    for name, curves in metrics.items():
        figure = plotly.graph_objects.Figure()
        for run, points in curves.items():
            x, y = [point[0] for point in points], [point[1] for point in points]
            figure.add_scatter(x=x, y=y, mode="lines+markers", name=html.escape(run))
        figure.update_layout(
            title=html.escape(name), xaxis_title="iteration", height=360, showlegend=len(curves) > 1
        )
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    return parts


def _with_svg(metrics: Mapping[str, _Curves]) -> list[str]:
    return [_figure(name, curves) for name, curves in metrics.items()]


def _figure(name: str, curves: _Curves) -> str:
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return f"<h2>{html.escape(name)}</h2><p>no finite value</p>"
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    across, up = (right - left) or 1, (high - low) or 1
    lines, legend = [], []
    for number, (run, curve) in enumerate(curves.items()):
        color = _COLORS[number % len(_COLORS)]
        places = " ".join(
            f"{_EDGE + (x - left) / across * (_WIDTH - 2 * _EDGE):.1f},"
            f"{_HEIGHT - _EDGE - (y - low) / up * (_HEIGHT - 2 * _EDGE):.1f}"
            for x, y in curve
        )
        lines.append(f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"/>')
        legend.append(f'<span style="color:{color}">&#9632; {html.escape(run)}</span>')
    bottom = _HEIGHT - _EDGE
    labels = (
        f'<text x="4" y="{_EDGE}">{high:.4g}</text><text x="4" y="{bottom}">{low:.4g}</text>'
        f'<text x="{_EDGE}" y="{_HEIGHT - 12}">{left}</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 12}" text-anchor="end">iteration {right}</text>'
    )
    return (
        f"<h2>{html.escape(name)}</h2><p>{' '.join(legend)}</p>"
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" font-size="11">{labels}{"".join(lines)}</svg>'
    )


def _table(title: str, rows: Rows) -> str:
    cells = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(["th"] + ["td"] * (len(rows) - 1), rows, strict=True)
    ]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<h2>{html.escape(title)}</h2><table>{body}</table>"
