"""What a benchmark found: a list of results as JSON, as a table on the terminal, and as a report with plots.

Shape suffix: R rounds. A round times every contender once, one after the other, so what slows the machine for a
while slows them all, and the ratio of a round keeps little of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from recsys.training.report import Plot, write_report

_WIDTH_OF_A_FILE = 150
_UNSTEADY = 0.5
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A number that a result has to reach: at ``least``, or at ``most``."""

    value: float
    bound: Literal["least", "most"] = "least"

    def met_by(self, value: float) -> bool:
        """Whether ``value`` reaches it.

        >>> Target(value=8).met_by(8), Target(value=50, bound="most").met_by(51)
        (True, False)
        """
        return value >= self.value if self.bound == "least" else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.bound == 'least' else '≤'} {self.value:g}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of a benchmark.

    ``ours`` and ``peer_value`` are medians in ``unit``, ``ratio`` is the median of ours / peer by round (above 1, where
    the unit is a rate: we are the faster). ``spread`` is that of the ratio, or of ``ours`` where there is no peer: from
    the 10th to the 90th percentile, over the median. The target is for the ratio where there is a peer, else for
    ``ours``; above a spread of 50 % neither meets nor misses it (``unsteady``). ``peer_value`` None beside a ``peer``
    is one that could not be measured; ``note`` says why. ``quiet`` is False where other programs ran meanwhile: threads
    that wait for each other lose the most by that, so that ratios are wrong even where they are steady.
    """

    measure: str
    unit: str
    ours: float
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    spread: float | None = None
    target: Target | None = None
    note: str = ""
    quiet: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target, without its peer's value, or where it is unsteady."""
        judged = self.ours if self.peer is None else self.ratio
        return None if self.target is None or judged is None or self.unsteady else self.target.met_by(judged)

    @property
    def unsteady(self) -> bool:
        """Whether something else used the machine: it was seen, or rounds differ by so much that it must have been."""
        return not self.quiet or (self.spread is not None and self.spread > _UNSTEADY)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``target`` a number, ``bound`` "least", "most" or None."""
        fields = asdict(self) | {"target": None, "bound": None, "met": self.met}
        return fields | ({"target": self.target.value, "bound": self.target.bound} if self.target else {})


def beside(results: Sequence[Result], cores_used: float | None, most: float = 0.15) -> list[Result]:
    """Results of a time in which other programs used so many cores (None: unknown): quiet up to ``most``."""
    return [replace(result, quiet=(cores_used or 0.0) <= most) for result in results]


def alone(measure: str, unit: str, values: Sequence[float] | Values, target: Target | None = None) -> Result:
    """A result without a peer: the median of ``values``.

    >>> alone("pull", "ms", [2.0, 1.9, 2.1], Target(value=5, bound="most")).met
    True
    """
    return Result(
        measure=measure,
        unit=unit,
        ours=float(np.median(values)),
        spread=_spread(np.asarray(values)) if len(values) > 1 else None,
        target=target,
    )


def against(
    measure: str, unit: str, ours_R: Values, peer: str, peer_R: Values, target: Target | None = None, note: str = ""
) -> Result:
    """A result beside a peer's, both by round.

    >>> result = against("pull", "M/s", np.array([4.0, 9.0, 5.0]), "gather", np.array([2.0, 3.0, 2.0]))
    >>> result.ours, result.peer_value, result.ratio
    (5.0, 2.0, 2.5)
    """
    ratio_R = ours_R / peer_R
    return Result(
        measure=measure,
        unit=unit,
        ours=float(np.median(ours_R)),
        peer=peer,
        peer_value=float(np.median(peer_R)),
        ratio=float(np.median(ratio_R)),
        spread=_spread(ratio_R),
        target=target,
        note=note,
    )


def left_out(
    measure: str, unit: str, ours_R: Sequence[float] | Values, peer: str, why: str, target: Target | None = None
) -> Result:
    """Our side of a comparison whose peer could not be measured, and why not."""
    ours = float(np.median(ours_R))
    return Result(measure=measure, unit=unit, ours=ours, peer=peer, target=target, note=f"not measured: {why}")


def write_results(
    folder: Path, name: str, title: str, results: Sequence[Result], about: Mapping[str, object], plots: Sequence[Plot]
) -> list[Path]:
    """Write ``<name>.json`` (a list of results) and ``<name>.html`` (the same with plots and ``about`` the machine)."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_html = folder / f"{name}.json", folder / f"{name}.html"
    as_json.write_text(json.dumps([result.to_json() for result in results], indent=2) + "\n", encoding="utf-8")
    lines = {_headline(result): _sentence(result) for result in results}
    write_report(as_html, title=title, summary={**about, **lines}, plots=plots)
    return [as_json, as_html]


def print_results(console: Console, title: str, results: Sequence[Result]) -> None:
    """The results as a table; as wide as it needs where there is no terminal."""
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_FILE
    table = Table(title=title, title_justify="left")
    table.add_column("measure", overflow="fold")
    for column in ("unit", "ours", "peer", "its value", "ratio", "spread", "target", "met"):
        table.add_column(column, justify="left" if column in ("unit", "peer") else "right")
    for result in results:
        table.add_row(
            result.measure,
            result.unit,
            _number(result.ours),
            result.peer or "",
            _number(result.peer_value),
            _number(result.ratio),
            "" if result.spread is None else f"{result.spread:.0%}",
            str(result.target or ""),
            "unsteady" if result.unsteady else {None: "", True: "yes", False: "[bold red]no[/]"}[result.met],
        )
    console.print(table)
    for result in results:
        if result.note:
            console.print(f"{_headline(result)}: {result.note}", markup=False, highlight=False, soft_wrap=True)


def _spread(values: Values) -> float:
    low, median, high = np.percentile(values, (10, 50, 90))
    return float((high - low) / median) if median else 0.0


def _headline(result: Result) -> str:
    return f"{result.measure}, against {result.peer}" if result.peer else result.measure


def _sentence(result: Result) -> str:
    parts = [f"{_number(result.ours)} {result.unit}"]
    if result.ratio is not None:
        parts.append(f"{_number(result.ratio)} of {_number(result.peer_value)}")
    if result.target is not None:
        verdict = "unsteady" if result.unsteady else {None: "open", True: "met", False: "missed"}[result.met]
        parts.append(f"target {result.target}: {verdict}")
    if result.note:
        parts.append(result.note)
    return "; ".join(parts)


def _number(value: float | None) -> str:
    """Three digits that matter.

    >>> _number(0.5512), _number(1234.5), _number(None)
    ('0.551', '1,234', '')
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
