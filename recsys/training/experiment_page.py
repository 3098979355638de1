"""The page of an experiment, out of its lines: a table and a plot for each data set, means and spread over seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from recsys.training.experiments import Line
from recsys.training.rehearsal import LIVE

HOW = """Each run learns the recorded stream in its order, once, in one process: no Kafka, Ray or Redis, but the same
joiner, trainer and row store. Its last {percent:.0f} % are judged. What is judged is what a *served copy* answers: rows
and dense parameters as of its last sync (through the deltas that publications go by), while training goes on; features
of users, such as their last likes, are as of the request. *live* is the trainer itself, predicting each batch before it
learns it. AUC is the mean over seeds ± their standard deviation; Δ is the difference to the first line, taken seed by
seed. Lines: `{results}`; a run whose line is there is not run again.
"""
SYNTHETIC = "`synthetic_stream` is **synthetic**: drawn from a known model with drift, shaped as Criteo's; no real log."


@dataclass(frozen=True)
class Told:
    """What a page says besides its figures, and the setting along which it plots (None: the number of syncs)."""

    title: str
    says: str
    along: str | None = None
    falling: bool = False  # the largest value first: it is what the others are compared with


TOLD = {
    "syncs": Told(
        "Online against a frozen batch model",
        "Monolith (arXiv 2209.07663, section 4.3, table 2): the last part of the stream is cut into N shards, each "
        "predicted by a copy brought up to date as it begins. One sync is the frozen model: what was learned before "
        "the last part, and nothing after. On Criteo's seven days the paper has 79.66, 79.78 and 79.80 for N of 10, "
        "50 and 100, where batch training has 79.42 to 79.44. Two differences: here the first part is learned once and "
        "in order, as an online run would; and all copies of a seed are of one and the same run, so that differences "
        "are of syncs alone.",
    ),
    "collisions": Told(
        "Collisionless ids against hashed ones in as many bytes",
        "`table.budget` is what all tables may take as they are served, keys and width-1 companions counted. In it, "
        "hashed ids share rows; collisionless ones that were touched longest ago leave.",
        "table.budget",
    ),
    "collisions_paper": Told(
        "Collisionless ids against hashed ones, in Monolith's unequal setting",
        "Monolith's (section 4.2) hashes MovieLens 25M's 162,541 users and 59,047 movies so that 7.73 % and 2.86 % are "
        "lost, which is what about 10⁶ buckets a table do: *more* rows than ids. So this is no comparison at equal "
        "memory (that one is in `collisions.md`), but of what collisions alone cost. `num_buckets` is of each table; "
        "collisionless is the line without, of `-m experiment=syncs evaluation.page=collisions_paper "
        "evaluation.syncs=[100]`.",
        "table.num_buckets",
    ),
    "admission": Told(
        "Admission: how often an id must occur before it has a row",
        "`table.admission.occurrences`: the row is made at that occurrence; before, an id reads its initial values, in "
        "training and in serving alike.",
        "table.admission.occurrences",
    ),
    "expiry": Told(
        "Expiry: rows not touched for so long are deleted",
        "`table.ttl_seconds` of event time; 86,400 is a day. Deletions reach the served copy with its next sync.",
        "table.ttl_seconds",
    ),
    "lost_shard": Told(
        "A lost shard",
        "As the last part begins, one of `shards` goes back to what it held at the share `back_to` of the stream, its "
        "optimizer state and its part of the dense parameters with it, and training goes on: what "
        "`recovery.mode=available` does, and Monolith (section 3.3, 4.3), whose shards go back a day at most. "
        "`back_to` equal to `at` loses nothing; 0 is a shard that begins anew.",
        "evaluation.lost_shard.back_to",
        falling=True,
    ),
}


def write_page(path: Path, lines: Sequence[Line]) -> list[Path]:
    """Write ``NAME.md`` and ``NAME-DATA.svg`` for each data set; their paths."""
    told = TOLD.get(path.stem, Told(path.stem, ""))
    last = lines[0]["settings"]["evaluation.last"]
    how = HOW.format(percent=100 * last, results=path.with_suffix(".jsonl").name)
    parts = [f"# {told.title}\n", told.says, "", f"```sh\n{_command(path.stem)}\n```\n", how]
    paths = [path]
    for data in dict.fromkeys(line["data"] for line in lines):
        of_data = [line for line in lines if line["data"] == data]
        variants = _variants(of_data, told.falling)
        plot = path.with_name(f"{path.stem}-{data}.svg")
        _draw(plot, told, variants)
        paths.append(plot)
        parts += [f"## {data}\n", *([SYNTHETIC, ""] if data.startswith("synthetic") else [])]
        parts += [_about(of_data), _table(variants), f"![AUC]({plot.name})\n"]
    path.write_text("\n".join(parts), encoding="utf-8")
    return paths


def _command(name: str) -> str:
    return f"python -m jobs.online -m experiment={name}"


# --- runs that differ by their seed alone


@dataclass(frozen=True)
class _Variant:
    """Settings that other variants do not share, and the lines of their seeds."""

    settings: Mapping[str, Any]
    lines: Sequence[Line]

    def auc(self, copy: str) -> dict[int, float]:
        """By seed."""
        return {line["seed"]: line["judged"][copy]["auc"] for line in self.lines}

    def mean(self, name: str) -> float:
        """Of a figure of the whole run."""
        return float(np.mean([line[name] for line in self.lines]))

    @property
    def copies(self) -> list[str]:
        """Live, and the served copies by their number of syncs."""
        return list(self.lines[0]["judged"])


def _variants(lines: Sequence[Line], falling: bool) -> list[_Variant]:
    """Ordered by their settings, the smallest first; what is not set, last. Or the other way round."""
    names = _differing(lines)
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(json.dumps([line["settings"].get(name) for name in names]), []).append(line)
    variants = [_Variant(dict(zip(names, json.loads(key), strict=True)), of) for key, of in found.items()]
    return sorted(variants, key=lambda variant: [_order(v) for v in variant.settings.values()], reverse=falling)


def _differing(lines: Sequence[Line]) -> list[str]:
    """Settings of which the lines have several values, but for seeds; without those that are of one kind of table."""
    names = dict.fromkeys(name for line in lines for name in line["settings"] if name != "seed")
    values = {name: {json.dumps(line["settings"].get(name)) for line in lines} for name in names}
    return [name for name in names if len(values[name]) > 1 and _is_told(name)]


def _is_told(name: str) -> bool:
    """Whether a setting is more than a kind's other fields, which differ with the kind."""
    untold = ("table.absent", "table.compression", "table.eviction", "table.pooling", "table.admission.kind")
    return name not in (*untold, "table.admission", "evaluation.lost_shard")


def _order(value: Any) -> tuple[int, float, str]:
    if value is None:
        return (1, 0.0, "")
    return (0, float(value), "") if isinstance(value, int | float) else (0, 0.0, str(value))


# --- the table


def _about(lines: Sequence[Line]) -> str:
    seconds = np.mean([line["cpu_seconds"] for line in lines])
    return f"{lines[0]['examples']:,} examples; {len(lines)} runs of {seconds:.0f} s of CPU time each.\n"


def _table(variants: Sequence[_Variant]) -> str:
    copies = list(dict.fromkeys(copy for variant in variants for copy in variant.copies))
    if "1" in copies and len(variants) == 1:
        return _table_of_copies(variants[0], copies)
    names = list(variants[0].settings)
    judged = next(copy for copy in reversed(copies) if copy != LIVE)
    header = [
        *(f"`{name}`" for name in names),
        "seeds",
        "live",
        f"served, {judged} syncs",
        "Δ",
        "rows",
        "served",
        "store",
    ]
    rows = [_row(header), "|" + "---|" * len(header)]
    for variant in variants:
        row = [_text(value) for value in variant.settings.values()]
        row += [str(len(variant.lines)), _spread(variant.auc(LIVE).values()), _spread(variant.auc(judged).values())]
        row += [_difference(variant.auc(judged), variants[0].auc(judged)), f"{variant.mean('rows'):,.0f}"]
        row += [f"{variant.mean(name) / 1e6:.2f} MB" for name in ("serving_bytes", "store_bytes")]
        rows.append(_row(row))
    return "\n".join(rows) + "\n"


def _table_of_copies(variant: _Variant, copies: Sequence[str]) -> str:
    """Where nothing differs but how often a copy is brought up to date."""
    frozen = variant.auc("1")
    rows = [_row(["syncs", "seeds", "AUC", "Δ to frozen", "logloss", "calibration"]), "|" + "---|" * 6]
    for copy in sorted(copies, key=lambda copy: float("inf") if copy == LIVE else int(copy)):
        figures = [
            f"{np.mean([line['judged'][copy][name] for line in variant.lines]):.4f}"
            for name in ("logloss", "calibration")
        ]
        name = {"1": "1: frozen"}.get(copy, copy)
        found = variant.auc(copy)
        rows.append(_row([name, str(len(found)), _spread(found.values()), _difference(found, frozen), *figures]))
    return "\n".join(rows) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _spread(values: Any) -> str:
    """Mean ± standard deviation, in percent as the paper has it.

    >>> _spread([0.75, 0.77])
    '76.00 ± 1.41'
    """
    found = 100 * np.array(list(values))
    return f"{found.mean():.2f} ± {found.std(ddof=1):.2f}" if len(found) > 1 else f"{found.mean():.2f}"


def _difference(found: Mapping[int, float], first: Mapping[int, float]) -> str:
    """Of the seeds that both have.

    >>> _difference({0: 0.76, 1: 0.77}, {0: 0.75, 1: 0.76, 2: 0.1})
    '+1.00 ± 0.00'
    """
    seeds = [seed for seed in found if seed in first]
    if not seeds:
        return "–"
    text = _spread([found[seed] - first[seed] for seed in seeds])
    return text if text.startswith("-") else f"+{text}"


# --- the plot


def _draw(path: Path, told: Told, variants: Sequence[_Variant]) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "recsys", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        along = _draw_copies if told.along is None or len(variants) == 1 else _draw_variants
        along(axes, told, variants)
        axes.set_ylabel("AUC of the last part, percent")
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _draw_copies(axes: Any, told: Told, variants: Sequence[_Variant]) -> None:
    """By the number of syncs; live as a line of its own."""
    found = {copy: list(variants[0].auc(copy).values()) for copy in variants[0].copies}
    copies = sorted((copy for copy in found if copy != LIVE), key=int)
    _bars(axes, range(len(copies)), [found[copy] for copy in copies], "served copy")
    axes.set_xticks(range(len(copies)), ["1: frozen" if copy == "1" else copy for copy in copies])
    axes.axhline(100 * np.mean(found[LIVE]), color="gray", linestyle="--", linewidth=1, label="live")
    axes.set_xlabel("syncs in the last part")


def _draw_variants(axes: Any, told: Told, variants: Sequence[_Variant]) -> None:
    """By the setting that the page is about, a line for each of the others."""
    assert told.along is not None
    values = sorted(
        {_order(variant.settings.get(told.along)): variant.settings.get(told.along) for variant in variants}.items()
    )
    places = {json.dumps(value): at for at, (_, value) in enumerate(values)}
    lines: dict[str, list[_Variant]] = {}
    for variant in variants:
        others = [f"{name.rpartition('.')[2]} {_text(v)}" for name, v in variant.settings.items() if name != told.along]
        lines.setdefault(", ".join(others), []).append(variant)
    for at, (name, of) in zip(count(), lines.items(), strict=False):
        judged = next(copy for copy in reversed(of[0].copies) if copy != LIVE)
        xs = [places[json.dumps(variant.settings.get(told.along))] + 0.06 * at for variant in of]
        _bars(axes, xs, [list(variant.auc(judged).values()) for variant in of], name)
    axes.set_xticks(range(len(values)), [_text(value) for _, value in values])
    axes.set_xlabel(told.along)


def _bars(axes: Any, xs: Any, aucs: Sequence[Sequence[float]], name: str) -> None:
    """Means with a bar of one standard deviation to either side."""
    means = [100 * float(np.mean(values)) for values in aucs]
    deviations = [100 * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in aucs]
    axes.errorbar(list(xs), means, yerr=deviations, marker="o", capsize=3, linewidth=1.4, label=name or None)
