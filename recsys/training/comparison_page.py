"""The page of a comparison: by data set and model a plot of quality against bytes, the front drawn, and all figures."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from recsys.training.comparison import Gap, Line, Point, gaps, newest, pareto_front, points_of

SHARED, APART = "unified", "hash"  # one table for all features, and one for each
_COLUMNS = {
    "table": "",
    "asked": "r",
    "seeds": "r",
    "{quality}": "r",
    "{other}": "r",
    "served, kB": "r",
    "of it maps": "r",
    "times smaller": "r",
    "trained, kB": "r",
    "optimizer, kB": "r",
    "examples/s": "r",
    "lookup, µs": "r",
    "best epoch": "r",
    "CPU s": "r",
}
_INTRODUCTION = """# Quality against bytes

Made by

```sh
{commands}
```

a run of `jobs.train` each, a line each in [`{results}`]({results}); it goes on where it stopped.
*Asked* is how many times smaller than full tables of float32 they were asked to be, first-order companions counted;
*served* is what they take in Redis' row formats with everything but its names and pointers, *trained* what they take in
training without the optimizer's state, at their most. Examples a second are of CPU time, training alone, at the median
step; a lookup is of 1,000 ids of the largest vocabulary, rows in the same process. AUC, or recall of items, is of the
test part, by the epoch that validated best: means over the seeds, the lowest and the highest in brackets. In bold is
the front: what nothing else is better and smaller than.
"""


def write_page(path: Path, lines: Sequence[Line]) -> list[Path]:
    """Write the page of all ``lines`` to ``path``, and an SVG beside it for each data set and model; their paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = newest(lines)
    commands = "\n".join(dict.fromkeys(line.command for line in lines))
    parts, paths = [_INTRODUCTION.format(commands=commands, results=f"{path.stem}.parquet")], [path]
    for number, section in enumerate(dict.fromkeys(line.section for line in lines), 1):
        chosen = [line for line in lines if line.section == section]
        plot = path.with_name(f"{path.stem}-{number}-{chosen[0].data}-{chosen[0].model}.svg")
        parts.append(_section(chosen, plot))
        paths.append(plot)
    path.write_text("\n".join(parts), encoding="utf-8")
    return paths


def _section(lines: Sequence[Line], plot: Path) -> str:
    """What is compared with each other; its plot is drawn."""
    data, model, told = lines[0].section
    points = points_of(lines)
    told_all = f" All told `{told}`." if told else ""
    shown = [f"## {data}, {model}\n", _cost(lines) + told_all + _told_besides(lines) + "\n"]
    if points:
        _draw(plot, points)
        shown += [f"![{_measures(points)[0]} against bytes served]({plot.name})\n", _table(points)]
    return "\n".join([*shown, *_gap_table(gaps(points, SHARED, APART)), *_failures(lines)])


def _cost(lines: Sequence[Line]) -> str:
    """How many runs there are, and what they took."""
    seconds = [line.cpu_seconds for line in lines if line.cpu_seconds is not None and line.error is None]
    return f"{len(seconds)} runs, {sum(seconds) / 3600:.2f} h of one core."


def _told_besides(lines: Sequence[Line]) -> str:
    """What some tables were told besides."""
    told = dict.fromkeys((line.table.split()[0], line.overrides) for line in lines if line.overrides)
    return "".join(f" `{table}` besides: `{overrides}`." for table, overrides in told)


def _table(points: Sequence[Point]) -> str:
    """A row a point, the best first."""
    quality, other = _measures(points)
    front = set(map(id, pareto_front(points)))
    rows = [
        f"| {' | '.join(_COLUMNS)} |".format(quality=quality, other=other),
        "|" + "|".join("---:" if side else "---" for side in _COLUMNS.values()) + "|",
    ]
    for point in sorted(points, key=lambda point: -point.mean("quality")):
        name = f"**`{point.table}`**" if id(point) in front else f"`{point.table}`"
        rows.append(f"| {' | '.join([name, *_cells(point)])} |")
    return "\n".join(rows) + "\n"


def _measures(points: Sequence[Point]) -> tuple[str, str]:
    """What quality is in a section, and what is shown beside it."""
    return ("test AUC", "logloss") if points[0].runs[0].recall is None else ("test recall@20", "ndcg@20")


def _cells(point: Point) -> list[str]:
    smaller = point.mean("full_bytes") / point.mean("serving_bytes") if point.mean("serving_bytes") else float("nan")
    return [
        "" if point.compression is None else f"{point.compression:g}×",
        str(len(point.runs)),
        _spread(point.values("quality")),
        _number(point.mean("logloss" if point.runs[0].recall is None else "ndcg"), 4),
        _number(point.mean("serving_bytes") / 1000, 1),
        _number(point.mean("map_bytes") / 1000, 1) if point.mean("map_bytes") else "",
        _number(smaller, 1),
        _number(point.mean("train_bytes") / 1000, 1),
        _number(point.mean("optimizer_bytes") / 1000, 1),
        _number(point.mean("examples_per_second"), 0),
        _number(point.mean("lookup_us"), 0),
        _number(point.mean("best_epoch"), 0),
        _number(point.mean("cpu_seconds"), 0),
    ]


def _number(value: float, digits: int) -> str:
    """A number, a dash where there is none.

    >>> _number(1234.56, 1), _number(float("nan"), 1)
    ('1,234.6', '–')
    """
    return "–" if np.isnan(value) else f"{value:,.{digits}f}"


def _spread(values: Sequence[float]) -> str:
    """The mean; of several, with the lowest and the highest.

    >>> _spread([0.5]), _spread([0.5, 0.25])
    ('0.5000', '0.3750 (0.2500–0.5000)')
    """
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4f}–{max(values):.4f})"


def _gap_table(found: Sequence[Gap]) -> list[str]:
    """One table for all features beside one for each, where both are there in two sizes or more."""
    if len(found) < 2:
        return []
    rows = [
        f"One table for all features (`{SHARED}`) beside one for each (`{APART}`) in as many bytes, of seeds that both"
        " have:\n",
        f"| asked | seeds | {SHARED} | {APART} | the first above the second |",
        "|---:|---:|---:|---:|---:|",
    ]
    for gap in found:
        cells = [f"{gap.compression:g}×", str(len(gap.better)), *map(_spread, (gap.better, gap.worse, gap.differences))]
        rows.append(f"| {' | '.join(cells)} |")
    means = [float(np.mean(gap.differences)) for gap in found]
    ordered, grows = all(mean > 0 for mean in means), bool(np.all(np.diff(means) > 0))
    rows.append(
        f"\n`{SHARED}` is above `{APART}` at every size: {'yes' if ordered else 'no'}; the gap grows with every step to"
        f" a smaller one: {'yes' if grows else 'no'}, from {means[0]:+.4f} to {means[-1]:+.4f}.\n"
    )
    return rows


def _failures(lines: Iterable[Line]) -> list[str]:
    """What is not there, and why."""
    failed = [line for line in lines if line.error is not None]
    if not failed:
        return []
    reasons = [
        f"- `{line.table}`{'' if line.compression is None else f' {line.compression:g}×'}, seed {line.seed}: "
        f"{' '.join((line.error or '').split())}"
        for line in failed
    ]
    return ["Not there:\n", *reasons, ""]


# --- the plot


def _draw(path: Path, points: Sequence[Point]) -> None:
    """Quality against bytes served, a line a table, the front as steps, the full table's quality across."""
    tables = list(dict.fromkeys(point.table for point in points))
    with matplotlib.rc_context({"svg.hashsalt": "recsys", "font.size": 9}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.add_subplot()
        colors = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
        for number, table in enumerate(tables):
            found = sorted((p for p in points if p.table == table), key=lambda point: point.mean("serving_bytes"))
            style = {"color": colors[number % len(colors)], "marker": "osD^v*"[number // len(colors) % 6]}
            _draw_table(axes, table, found, style)
        _draw_front(axes, pareto_front(points))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.8g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("kB served (logarithmic)")
        axes.set_ylabel(_measures(points)[0])
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _draw_table(axes: Axes, table: str, points: Sequence[Point], style: dict[str, object]) -> None:
    """Means joined by a line, from the lowest to the highest seed a bar; across, the quality of full tables."""
    kilobytes_P = [point.mean("serving_bytes") / 1000 for point in points]
    quality_P = np.array([point.mean("quality") for point in points])
    below_P = quality_P - [min(point.values("quality")) for point in points]
    above_P = np.array([max(point.values("quality")) for point in points]) - quality_P
    axes.errorbar(
        kilobytes_P, quality_P, yerr=[below_P, above_P], label=table, linewidth=1, markersize=4, **style  # type: ignore[arg-type]
    )  # fmt: skip
    if table == "full":
        axes.axhline(float(quality_P[0]), color=style["color"], linewidth=0.8, linestyle=":")


def _draw_front(axes: Axes, front: Sequence[Point]) -> None:
    """Steps: the best that there is in so many bytes; each of its points has its name."""
    kilobytes_P = [point.mean("serving_bytes") / 1000 for point in front]
    axes.step(
        kilobytes_P, [p.mean("quality") for p in front], where="post", color="black", linewidth=1.5, label="front"
    )
    for point in front:
        place = (point.mean("serving_bytes") / 1000, point.mean("quality"))
        axes.annotate(point.name, place, xytext=(-3, 5), textcoords="offset points", ha="right", fontsize=7)
