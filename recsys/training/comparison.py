"""What a comparison of tables found: a line a run in one Parquet file, means over seeds, the Pareto front, gaps.

A run that failed has a line too, with the reason and no figures.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError

_TEXTS = ("key", "command", "data", "model", "train", "table", "overrides", "kind", "error")
_COUNTS = ("seed", "train_bytes", "optimizer_bytes", "serving_bytes", "map_bytes", "full_bytes")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One run: what it was told, how good it is, what it takes.

    ``auc`` and ``logloss`` are of jobs.train's models, ``recall`` and ``ndcg`` of jobs.retrieve's, at 20; of the test
    part. ``table`` is as it was asked for, ``kind`` what is served: stages leave another than they train. Bytes are
    of tables: ``train_bytes`` in training at their most, ``serving_bytes`` with ``map_bytes``, ``full_bytes`` full.
    ``examples_per_second`` is of CPU time, ``lookup_us`` of 1,000 ids, rows in the same process.
    """

    key: str
    command: str
    data: str
    model: str
    train: str
    table: str
    overrides: str
    compression: float | None
    seed: int
    kind: str | None = None
    auc: float | None = None
    logloss: float | None = None
    recall: float | None = None
    ndcg: float | None = None
    best_epoch: float | None = None
    examples_per_second: float | None = None
    train_bytes: int | None = None
    optimizer_bytes: int | None = None
    serving_bytes: int | None = None
    map_bytes: int | None = None
    full_bytes: int | None = None
    lookup_us: float | None = None
    cpu_seconds: float | None = None
    error: str | None = None

    @property
    def quality(self) -> float | None:
        """What is the better, the more: AUC, or recall."""
        return self.auc if self.recall is None else self.recall

    @property
    def section(self) -> tuple[str, str, str]:
        """What is compared with each other: data set, model and how they were trained."""
        return self.data, self.model, self.train


def _type_of(name: str) -> pa.DataType:
    return pa.string() if name in _TEXTS else pa.int64() if name in _COUNTS else pa.float64()


SCHEMA = pa.schema([(field.name, _type_of(field.name)) for field in fields(Line)])


def read_lines(path: Path) -> list[Line]:
    """The lines of a file, none where there is no file; DataError where it is not one of a comparison."""
    if not path.is_file():
        return []
    try:
        return [Line(**row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]
    except (pa.ArrowException, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} has no results of jobs.compare ({reason}); name another file: results=…") from error


def add_line(path: Path, line: Line) -> list[Line]:
    """Put a line in its file, in the place of an earlier one of the same run; all lines that are there then."""
    lines = {**{before.key: before for before in read_lines(path)}, line.key: line}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.writing")
    pq.write_table(pa.Table.from_pylist([asdict(each) for each in lines.values()], SCHEMA), beside)
    beside.replace(path)
    return list(lines.values())


# --- over seeds


@dataclass(frozen=True)
class Point:
    """A table at a size: its runs, a seed each."""

    table: str
    compression: float | None
    runs: tuple[Line, ...]

    def values(self, name: str) -> list[float]:
        """A figure of every run that has it."""
        found = [getattr(run, name) for run in self.runs]
        return [float(value) for value in found if value is not None]

    def mean(self, name: str) -> float:
        """Over the seeds; nan where no run has the figure."""
        values = self.values(name)
        return float(np.mean(values)) if values else float("nan")

    @property
    def name(self) -> str:
        """What it is called in a plot: the table, and how much smaller it was asked to be."""
        return self.table if self.compression is None else f"{self.table} {self.compression:g}×"


def newest(lines: Iterable[Line]) -> list[Line]:
    """The last line of each run that was asked for: configurations or data that have changed since make another."""
    found = {(line.section, line.table, line.compression, line.seed): line for line in lines}
    return list(found.values())


def points_of(lines: Iterable[Line]) -> list[Point]:
    """The newest runs that did not fail, by table and size, in the order in which they first came."""
    found: defaultdict[tuple[str, float | None], list[Line]] = defaultdict(list)
    for line in newest(lines):
        if line.error is None:
            found[line.table, line.compression].append(line)
    return [Point(*named, tuple(runs)) for named, runs in found.items()]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those that no other is as small and better than, or as good and smaller, by means; the smallest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.mean("serving_bytes"), -point.mean("quality"))):
        if not front or point.mean("quality") > front[-1].mean("quality"):
            front.append(point)
    return front


@dataclass(frozen=True)
class Gap:
    """By how much one table is better than another of the same size: of each seed that both have."""

    compression: float
    better: tuple[float, ...]
    worse: tuple[float, ...]

    @property
    def differences(self) -> list[float]:
        """By seed."""
        return [float(one - other) for one, other in zip(self.better, self.worse, strict=True)]


def gaps(points: Sequence[Point], better: str, worse: str) -> list[Gap]:
    """Quality of two tables at each size that both have, the largest tables first."""
    sized: dict[tuple[str, Any], dict[int, float]] = {
        (point.table, point.compression): {run.seed: run.quality for run in point.runs if run.quality is not None}
        for point in points
    }
    found = []
    for compression in sorted(size for table, size in sized if table == better and size is not None):
        ours, others = sized[better, compression], sized.get((worse, compression), {})
        if seeds := sorted(ours.keys() & others.keys()):
            found.append(Gap(compression, tuple(ours[s] for s in seeds), tuple(others[s] for s in seeds)))
    return found
