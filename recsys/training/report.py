"""A run's report: one HTML file with a summary table and plots that opens anywhere, without a network.

Plots are drawn by matplotlib as SVG and set into the page; their colours are CSS variables, so that they
follow the reader's light or dark theme. Titles, axis names and legends are HTML: they wrap on a phone and can
be read aloud, and no text is taken for mathematics or lacks a glyph in matplotlib's font.
The same content gives the same bytes.
"""

import datetime
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from recsys.errors import DataError

# Stand-ins that matplotlib writes into the SVG and the page replaces by variables of its theme.
INK, GRID = "#010101", "#020202"
COLORS = [f"#03030{index}" for index in range(8)]
VARIABLES = {INK: "var(--muted)", GRID: "var(--line)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(COLORS)
}
DASHES = {"solid": "none", "dashed": "5 3", "dotted": "1.5 2.5"}

RC_PARAMS: dict[Any, Any] = {
    "svg.hashsalt": "recsys",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.left": False,
}

MOST_POINTS_WITH_MARKERS = 12
UNITS = {"seconds": "s", "ms": "ms", "bytes": "B", "percent": "%"}


@dataclass(frozen=True)
class Plot:
    """A line plot: each series is (x values, y values), equally many; nan leaves a gap. ``note`` is below.

    ``log_x`` sets the x values out by their logarithm; they have to be above 0.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    note: str = ""
    log_x: bool = False

    def __post_init__(self) -> None:
        for name, (xs, ys) in self.series.items():
            if self.log_x and min(xs, default=1) <= 0:
                raise DataError(f"plot {self.title!r}, series {name!r}: x {min(xs)} has no logarithm; give log_x=False")
            if len(xs) != len(ys):
                counts = f"{len(xs)} x but {len(ys)} y values"
                message = f"plot {self.title!r}, series {name!r}: {counts}; give a y per x"
                raise DataError(message)


def write_report(path: Path, *, title: str, summary: Mapping[str, object], plots: Sequence[Plot]) -> None:
    """Write the report to ``path`` (UTF-8 HTML), making its folder where absent.

    A summary key may end with its unit: ``train_seconds``, ``latency_ms``, ``table_bytes``,
    ``rows_per_second``, ``hit_percent``; ``format_value`` says how it then reads.
    All text is escaped; nothing in the file refers to another file or host.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(title, summary, plots), encoding="utf-8")


def label_of(key: str) -> str:
    """A summary key as people read it: without its unit and underscores.

    >>> label_of("peak_memory_bytes"), label_of("rows_per_second"), label_of("auc")
    ('peak memory', 'rows', 'auc')
    """
    words = key.replace("_", " ").split(" ")
    if words[-2:] == ["per", "second"]:
        words = words[:-2]
    elif words[-1] in UNITS:
        words = words[:-1]
    return " ".join(words) or key


def format_value(key: str, value: object) -> str:
    """A summary value as people read it, with the unit that its key ends with.

    >>> format_value("train_seconds", 75.3), format_value("table_bytes", 3 << 20), format_value("rows", 10**5)
    ('1 min 15 s', '3 MiB', '100,000')
    >>> format_value("rows_per_second", 2.3e6), format_value("auc", 0.78123456), format_value("exact", True)
    ('2,300,000 / s', '0.7812', 'yes')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{label_of(str(name))}: {format_value(str(name), part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_value(key, part) for part in value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if hasattr(value, "item"):  # a numpy or torch scalar
        return format_value(key, value.item())
    return _with_unit(key, value) if isinstance(value, int | float) else str(value)


def _with_unit(key: str, value: float) -> str:
    words = key.replace("_", " ").split(" ")
    if words[-2:] == ["per", "second"]:
        return f"{_number(value)} / s"
    if words[-1] == "seconds" and abs(value) >= 60:
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    if words[-1] == "bytes":
        return _bytes(value)
    unit = UNITS.get(words[-1])
    return f"{_number(value)} {unit}" if unit else _number(value)


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def _number(value: float) -> str:
    """Whole numbers in full, others to four digits; thousands apart by commas."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15) or 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _page(title: str, summary: Mapping[str, object], plots: Sequence[Plot]) -> str:
    rows = "\n".join(_summary_row(key, value) for key, value in summary.items())
    figures = "\n".join(_figure(plot, prefix=f"p{index}") for index, plot in enumerate(plots))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<table aria-label="Summary">
<tbody>
{rows}
</tbody>
</table>
<div class="plots">
{figures}
</div>
</main>
</body>
</html>
"""


def _summary_row(key: str, value: object) -> str:
    label, text = html.escape(label_of(key)), html.escape(format_value(key, value))
    return f'<tr><th scope="row">{label}</th><td title="{html.escape(f"{key} = {value}")}">{text}</td></tr>'


def _figure(plot: Plot, *, prefix: str) -> str:
    note = f'\n<p class="note">{html.escape(plot.note)}</p>' if plot.note else ""
    return f"""<figure>
<figcaption>{html.escape(plot.title)}</figcaption>
<ul class="legend">{"".join(_legend_entry(index, name, plot) for index, name in enumerate(plot.series))}</ul>
<p class="axis">{html.escape(plot.y_label)}</p>
{_svg(plot, prefix)}
<p class="axis x">{html.escape(plot.x_label)}</p>{note}
</figure>"""


def _legend_entry(index: int, name: str, plot: Plot) -> str:
    color, dashes = _line_of(index)
    last = _last_value(plot.series[name][1])
    style = f"stroke: {VARIABLES[color]}; stroke-dasharray: {DASHES[dashes]}"
    line = f'<line x1="0" y1="4" x2="22" y2="4" style="{style}"/>'
    swatch = f'<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true">{line}</svg>'
    return f"<li>{swatch}{html.escape(name)} <b>{last}</b></li>"


def _line_of(index: int) -> tuple[str, str]:
    """Colour and dashes of a series: eight colours solid, then the same dashed, then dotted."""
    return COLORS[index % len(COLORS)], list(DASHES)[index // len(COLORS) % len(DASHES)]


def _last_value(ys: Sequence[float]) -> str:
    finite = [float(y) for y in ys if math.isfinite(y)]
    return _number(finite[-1]) if finite else "–"


def _description(plot: Plot) -> str:
    ends = "; ".join(f"{name} ends at {_last_value(ys)}" for name, (_, ys) in plot.series.items())
    return f"{plot.title}: {plot.y_label} by {plot.x_label}. {ends or 'No data'}."


def _svg(plot: Plot, prefix: str) -> str:
    """The plot's lines, grid and tick numbers as an SVG element whose ids all start with ``prefix``."""
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        _draw(plot, figure.add_subplot())
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _fit_into_page(buffer.getvalue(), prefix, _description(plot))


def _draw(plot: Plot, axes: Axes) -> None:
    for index, (xs, ys) in enumerate(plot.series.values()):
        color, dashes = _line_of(index)
        marker = "o" if len(xs) <= MOST_POINTS_WITH_MARKERS else ""
        axes.plot(xs, ys, color=color, linestyle=dashes, linewidth=2, marker=marker, markersize=4)
    if plot.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        if not (plot.log_x and axis is axes.xaxis):
            axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.8g}"))
    axes.margins(x=0.02)


def _fit_into_page(svg: str, prefix: str, description: str) -> str:
    """The <svg> element alone, without a fixed size; theme colours, ids of its own, a spoken description."""
    body = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="([^"]*)"', body)
    assert view_box is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", body)
    for color, variable in VARIABLES.items():
        body = body.replace(color, variable)
    label = html.escape(description)
    return f'<svg class="plot" role="img" aria-label="{label}" viewBox="{view_box.group(1)}">{body.strip()}'


STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1c2128; --muted: #59636e; --line: #d8dee4;
  --series-0: #0969da; --series-1: #d1580a; --series-2: #1a7f37; --series-3: #a8328f;
  --series-4: #7a6000; --series-5: #0e7c86; --series-6: #6e40c9; --series-7: #cf222e; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --ink: #e6edf3; --muted: #9198a1; --line: #30363d;
    --series-0: #58a6ff; --series-1: #f0883e; --series-2: #56d364; --series-3: #f778ba;
    --series-4: #e3b341; --series-5: #39c5cf; --series-6: #bc8cff; --series-7: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; max-width: 40rem; margin-bottom: 2rem; }
tr { border-bottom: 1px solid var(--line); }
th { text-align: left; vertical-align: top; font-weight: 400; color: var(--muted);
  padding: .4rem 1.5rem .4rem 0; }
td { text-align: right; font-variant-numeric: tabular-nums; padding: .4rem 0; overflow-wrap: anywhere; }
.plots { display: grid; gap: 2.25rem 2.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; min-width: 0; max-width: 36rem; }
figcaption { font-weight: 600; overflow-wrap: anywhere; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; padding: 0;
  margin: .15rem 0 .6rem; font-size: .875rem; }
.legend b { font-variant-numeric: tabular-nums; }
.swatch { width: 22px; height: 8px; margin-right: .4rem; stroke-width: 2.5; vertical-align: middle; }
.axis { margin: 0; font-size: .8125rem; color: var(--muted); }
.axis.x { text-align: center; }
.plot { display: block; width: 100%; height: auto; }
.plot * { stroke-linejoin: round; stroke-linecap: butt; }
.plot text { font-family: inherit !important; }
.note { margin: .5rem 0 0; font-size: .875rem; color: var(--muted); }
"""
