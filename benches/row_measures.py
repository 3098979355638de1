"""The measures of the row stores: each a function that times, and returns results and what its plots show.

Shape suffixes: N ids a call, R rounds, W row width.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from benches.draws import LAWS, Batch, Law, batch_of, consecutive, draw
from benches.peers import ADMITTED_AT, Gather, Ours, guarded_row_group, row_group
from benches.probe import LINE_BYTES, MemoryProbe
from benches.result import Result, Target, Values, against, alone
from recsys.errors import ConfigError
from recsys.fields import AtLeast
from recsys.hashing import Floats
from recsys.training.report import Plot

RATE = "M ids/s"
ROOT = Path(__file__).resolve().parents[1]
SWEEP = (1 / 80, 3 / 80, 1 / 8, 3 / 8, 5 / 4, 15 / 4)  # 10⁵ to 3·10⁷ rows where the table has 8 M
_TURNS_A_PULL = 3
_PAUSE_SECONDS = 0.005  # OpenMP's threads spin for a while after their work: not in the next contender's time
_DRAWN = 8  # batches of a law; rounds go through them again, long after the caches have forgotten
Call = Callable[[Batch], float]  # one call; returns its seconds


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the table and the calls are, and how often each is timed."""

    rows: Annotated[int, AtLeast(1000)] = 8_000_000
    ids: Annotated[int, AtLeast(100)] = 1_000_000
    calls: Annotated[int, AtLeast(2)] = 15
    width: Annotated[int, AtLeast(1)] = 16
    threads: Annotated[int, AtLeast(1)] = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows % self.ids or self.rows < 4 * self.ids:
            raise ConfigError(f"rows={self.rows} with ids={self.ids} a call; give rows 4 times ids or more, a multiple")

    @property
    def few_ids(self) -> int:
        """Ids of a small call, as a server gets them: 10 k beside 1 M."""
        return self.ids // 100

    @property
    def grown(self) -> tuple[int, int]:
        """Rows before and after growth: from 1 M to 16 M beside 8 M."""
        return self.rows // 8, 2 * self.rows

    def gradients(self) -> Floats:
        """What is pushed: float32 (N, W)."""
        return np.random.default_rng(self.seed).standard_normal((self.ids, self.width), np.float32)

    def draw(self, law: Law, num_rows: int | None = None) -> list[Batch]:
        """Batches of ids by a law."""
        return draw(law, num_rows or self.rows, self.ids, min(self.calls, _DRAWN), self.seed)


def count(number: int) -> str:
    """A count in a measure's name.

    >>> count(1_000_000), count(10_000), count(250)
    ('1 M', '10 k', '250')
    """
    for unit, size in ((" M", 10**6), (" k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def rates(calls: Mapping[str, Call], batches: Sequence[Batch], num_rounds: int, best_of: int = 1) -> dict[str, Values]:
    """Millions of ids a second of each contender, by round; in turns, the first of a round the last of the next.

    A round's figure is the best of ``best_of`` turns: where a call is as short as the slices of time that the system
    deals out, a single turn says more about other programs than about the call.
    """
    names = list(calls)
    for call in calls.values():
        call(batches[-1])
    seconds = {name: np.full(num_rounds, np.inf) for name in names}
    for turn in range(num_rounds * best_of):
        first, batch, at = turn % len(names), batches[turn % len(batches)], turn // best_of
        for name in names[first:] + names[:first]:
            time.sleep(_PAUSE_SECONDS)
            seconds[name][at] = min(seconds[name][at], calls[name](batch))
    return {name: len(batches[0].keys_N) / seconds_R / 1e6 for name, seconds_R in seconds.items()}


def compared(
    measure: str,
    calls: Mapping[str, Call],
    batches: Sequence[Batch],
    num_rounds: int,
    targets: Mapping[str, Target | None],
) -> list[Result]:
    """Pulls of ours against each peer's, in one run; targets by peer."""
    by_name = rates(calls, batches, num_rounds, _TURNS_A_PULL)
    peers = [name for name in calls if name != Ours.name]
    return [against(measure, RATE, by_name[Ours.name], name, by_name[name], targets.get(name)) for name in peers]


def bytes_moved(sizes: Sizes, ours: Ours) -> Result:
    """Random bytes that a pull has to read, against what memory delivers.

    Counted are a line of the map and the lines of the row for each id, the least that a map can do with; ids read and
    rows written lie in order and are not counted.
    """
    bytes_per_id = LINE_BYTES + 4 * sizes.width
    probe = MemoryProbe(4 * sizes.width * sizes.rows, 2 * sizes.ids, sizes.threads, sizes.seed)
    batches = sizes.draw("uniform")
    calls = {ours.name: ours.pull, "memory": lambda batch: bytes_per_id * len(batch.keys_N) / probe.bytes_per_second()}
    found = {
        name: rate_R * bytes_per_id / 1e3 for name, rate_R in rates(calls, batches, sizes.calls, _TURNS_A_PULL).items()
    }
    return against(
        "random bytes read by pull, uniform", "GB/s", found[ours.name], "memory, 64 B reads", found["memory"]
    )


def inserting(sizes: Sizes, target: Target) -> Result:
    """New ids a second into an empty store, growth included, a full batch a push."""
    gradients_NW = sizes.gradients()
    found = []
    for _ in range(3):
        ours = Ours(row_group(sizes.width), gradients_NW, sizes.threads)
        found.append(sizes.rows / sum(ours.fill(sizes.rows)) / 1e6)
    return alone(f"inserting new ids, {count(sizes.ids)} a push", RATE, found, target)


def growing(sizes: Sizes, longest: Target, rate: Target) -> tuple[list[Result], Plot]:
    """Pushes of few new ids until the store is 16 times as large, a pull after each: the longest of both."""
    few, (start, stop) = sizes.few_ids, sizes.grown
    ours = Ours(row_group(sizes.width), sizes.gradients(), sizes.threads)
    ours.fill(start)
    random = np.random.default_rng(sizes.seed)
    pushes, pulls, num_rows = [], [], []
    for batch in consecutive(start, stop, few):
        num_rows.append(int(batch.rows_N[-1]) + 1)
        pushes.append(1e3 * ours.insert(batch))
        pulls.append(1e3 * ours.pull(batch_of(random.integers(0, num_rows[-1], few))))
    span = f"{count(few)} ids, growing from {count(start)} to {count(stop)} rows"
    results = [
        Result(measure=f"longest pull of {span}", unit="ms", ours=max(pulls), target=longest, note=_usual(pulls)),
        Result(measure=f"longest push of {span}", unit="ms", ours=max(pushes), target=longest, note=_usual(pushes)),
        alone(f"inserting new ids, {count(few)} a push", RATE, [(stop - start) / sum(pushes) / 1e3], rate),
    ]
    title = f"Longest call while growing, {count(few)} ids each"
    series = {name: _longest_by_size(num_rows, values) for name, values in (("pull", pulls), ("push", pushes))}
    return results, Plot(title, "rows, millions", "ms", series)


def _usual(milliseconds: list[float]) -> str:
    return f"median {np.median(milliseconds):.3g} ms, 99th percentile {np.percentile(milliseconds, 99):.3g} ms"


def _longest_by_size(num_rows: list[int], values: list[float], num_parts: int = 60) -> tuple[list[float], list[float]]:
    """The largest value of each of ``num_parts`` stretches of growth, by millions of rows at its end."""
    parts = [part for part in np.array_split(np.arange(len(values)), num_parts) if len(part)]
    return [num_rows[part[-1]] / 1e6 for part in parts], [max(values[at] for at in part) for part in parts]


def extra_bytes(sizes: Sizes, target: Target) -> tuple[list[Result], Plot]:
    """Bytes a row beyond the row and its optimizer state, over the same growth, admission and expiry on."""
    start, stop = sizes.grown
    ours = Ours(guarded_row_group(sizes.width), sizes.gradients(), sizes.threads)
    num_rows, extra = [], []
    for batch in consecutive(0, stop, max(1, sizes.ids // 10)):
        for _ in range(ADMITTED_AT):
            ours.push(batch)
        if batch.rows_N[-1] >= start:
            num_rows.append((int(batch.rows_N[-1]) + 1) / 1e6)
            extra.append(ours.extra_bytes_per_row)
    span = f"from {count(start)} to {count(stop)} rows"
    results = [
        Result(measure=f"bytes a row beyond row and state, at worst {span}", unit="B", ours=max(extra), target=target),
        Result(
            measure=f"bytes a row beyond row and state, on average {span}",
            unit="B",
            ours=float(np.mean(extra)),
            target=target,
        ),
    ]
    return results, Plot(
        "Bytes beyond row and optimizer state", "rows, millions", "bytes a row", {"": (num_rows, extra)}
    )


def sweep(sizes: Sizes, told: Callable[[str], None]) -> tuple[list[Result], list[Plot]]:
    """Pull against the gather from small tables to large ones: does the ratio stay flat?"""
    gradients_NW = sizes.gradients()
    results: dict[Law, list[Result]] = {law: [] for law in LAWS}
    tables = [int(sizes.rows * part) for part in SWEEP]
    for num_rows in tables:
        told(f"pull at {count(num_rows)} rows")
        ours = Ours(row_group(sizes.width), gradients_NW, sizes.threads)
        ours.fill(num_rows)
        gather = Gather(num_rows, sizes.ids, sizes.width)
        for law, name in LAWS.items():
            batches, calls = sizes.draw(law, num_rows), {ours.name: ours.pull, gather.peer: gather.pull}
            results[law] += compared(f"pull, {name}, {count(num_rows)} rows", calls, batches, sizes.calls, {})
    ratios = {LAWS[law]: (tables, [result.ratio or 0.0 for result in found]) for law, found in results.items()}
    speeds = {f"pull, {LAWS[law]}": (tables, [result.ours for result in found]) for law, found in results.items()} | {
        f"gather, {LAWS[law]}": (tables, [result.peer_value or 0.0 for result in found])
        for law, found in results.items()
    }
    flat = [
        Result(measure=f"pull, {name}, lowest over highest ratio by rows", unit="", ours=min(ys) / max(ys))
        for name, (_, ys) in ratios.items()
    ]
    plots = [
        Plot("Pull against torch.index_select", "rows", "ratio", ratios, log_x=True),
        Plot("Pull and torch.index_select", "rows", RATE, speeds, log_x=True),
    ]
    return [*results["uniform"], *results["zipf"], *flat], plots


def first_use(*, with_empty_cache: bool) -> list[Result]:
    """Seconds that compiling, or loading compiled kernels, adds to the first calls of a process."""
    if not with_empty_cache:  # the cache beside the code
        return [alone("first use of the kernels, cached", "s", [_first_use_seconds({})])]
    with tempfile.TemporaryDirectory() as folder:
        empty, cached = (_first_use_seconds({"NUMBA_CACHE_DIR": folder}) for _ in range(2))
    return [
        alone("first use of the kernels, empty cache", "s", [empty]),
        alone("first use of the kernels, cached", "s", [cached]),
    ]


def _first_use_seconds(environment: Mapping[str, str]) -> float:
    command = [sys.executable, "-m", "benches.first_use"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout)["seconds"])
