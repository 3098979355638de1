"""Prepared examples as batches: shuffled by a seed, cut from arrays, from any row on.

A file is read in windows of whole row groups. Where all of it fits into one, that is kept, and an epoch is a
permutation of all rows; else an epoch goes through the row groups in an order of its own, some at a time, and shuffles
each such window, while the next is read. The order is a function of seed and window size, so an epoch can begin at any
row.

Shape suffixes: N examples of a window, B of a batch, L ids of a bag feature over the window.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.batches.batch import Bag, LabelledBatch
from recsys.errors import DataError
from recsys.features.declarations import Feature
from recsys.hashing import Floats
from recsys.tabular.prepared import LABEL

ROWS_IN_MEMORY = 4_000_000
Ints = npt.NDArray[np.int64]


class ExampleFile:
    """One part of a prepared data set. ``group`` names the feature whose ids are the examples' users."""

    def __init__(
        self,
        path: Path,
        features: Sequence[Feature],
        *,
        group: str | None = None,
        rows_in_memory: int = ROWS_IN_MEMORY,
    ) -> None:
        self._path, self._features, self._group = path, tuple(features), group
        try:
            with pq.ParquetFile(path) as file:
                self._group_rows = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: can not be read as Parquet ({str(error).splitlines()[0]})") from error
        self.num_examples = sum(self._group_rows)
        self._rows_in_memory = rows_in_memory
        self._whole: _Window | None = None

    def batches(self, size: int, *, seed: Sequence[int] | None = None, start: int = 0) -> Iterator[LabelledBatch]:
        """Batches of ``size`` (the last may be smaller) from row ``start`` of the order on; shuffled by ``seed``."""
        left: list[_Window] = []
        num_left = 0
        for window, order in self._ordered_windows(seed, start):
            cut = 0
            if num_left:  # what the window before left over goes first
                cut = min(size - num_left, len(order))
                left.append(window.taken(order[:cut]))
                num_left += cut
                if num_left < size:
                    continue
                yield _joined(left).batch(np.arange(num_left), self._features, self._group)
            stop = cut + (len(order) - cut) // size * size
            for at in range(cut, stop, size):
                yield window.batch(order[at : at + size], self._features, self._group)
            num_left = len(order) - stop
            left = [window.taken(order[stop:])] if num_left else []
        if num_left:
            yield _joined(left).batch(np.arange(num_left), self._features, self._group)

    def _ordered_windows(self, seed: Sequence[int] | None, start: int) -> Iterator[tuple["_Window", Ints]]:
        """Windows, and the order of the rows in each; those that end before row ``start`` are not read."""
        draw = None if seed is None else np.random.default_rng(list(seed))
        groups = np.arange(len(self._group_rows))
        if self.num_examples > self._rows_in_memory and draw is not None:
            groups = draw.permutation(groups)
        planned = []
        for chosen in _windows(groups.tolist(), self._group_rows, self._rows_in_memory):
            num = sum(self._group_rows[at] for at in chosen)
            order = np.arange(num) if draw is None else draw.permutation(num)
            if start < num:
                planned.append((chosen, order[start:]))
            start = max(0, start - num)
        yield from self._read_ahead(planned)

    def _read_ahead(self, planned: list[tuple[list[int], Ints]]) -> Iterator[tuple["_Window", Ints]]:
        """Each window, while the next one is read."""
        if self.num_examples <= self._rows_in_memory:
            for chosen, order in planned:
                self._whole = self._whole or self._read(chosen)
                yield self._whole, order
            return
        with ThreadPoolExecutor(1) as reader:
            waiting = [reader.submit(self._read, chosen) for chosen, _ in planned[:1]]
            for (_, order), following in pairwise([*planned, ([], np.empty(0, np.int64))]):
                window = waiting.pop().result()
                if following[0]:
                    waiting.append(reader.submit(self._read, following[0]))
                yield window, order

    def _read(self, groups: list[int]) -> "_Window":
        with pq.ParquetFile(self._path) as file:
            return _Window.of(file.read_row_groups(groups), self._features)


@dataclass(frozen=True)
class _Window:
    """Rows in memory: arrays by feature; of a bag (or an id that may be absent) offsets and ids."""

    labels_N: Floats
    single: dict[str, Ints]  # (N,) one id each
    bags: dict[str, tuple[Ints, Ints]]  # offsets (N + 1,), ids (L,)
    numbers_NM: Floats

    @classmethod
    def of(cls, table: pa.Table, features: Sequence[Feature]) -> "_Window":
        single, bags = {}, {}
        for feature in features:
            if feature.kind == "number":
                continue
            column = table[feature.name].combine_chunks()
            if pa.types.is_list(column.type):
                bags[feature.name] = _offsets(column), column.flatten().to_numpy().astype(np.int64)
            elif column.null_count:
                present_N = column.is_valid().to_numpy(zero_copy_only=False)
                bags[feature.name] = _cumulated(present_N), column.drop_null().to_numpy().astype(np.int64)
            else:
                single[feature.name] = column.to_numpy().astype(np.int64)
        numbers = [table[feature.name].to_numpy() for feature in features if feature.kind == "number"]
        numbers_NM = np.stack(numbers, axis=1) if numbers else np.zeros((table.num_rows, 0), np.float32)
        return cls(table[LABEL].to_numpy().astype(np.float32), single, bags, numbers_NM)

    def batch(self, rows_B: Ints, features: Sequence[Feature], group: str | None) -> LabelledBatch:
        """Some of the rows as a batch."""
        num, offsets = len(rows_B), np.arange(len(rows_B) + 1)
        bags = {}
        for feature in features:
            if feature.name in self.single:
                bags[feature.name] = Bag(self.single[feature.name][rows_B], offsets)
            elif feature.name in self.bags:
                bags[feature.name] = _bag(*self.bags[feature.name], rows_B)
        return LabelledBatch(
            bags=bags,
            numbers_BM=self.numbers_NM[rows_B],
            labels_B=self.labels_N[rows_B],
            weights_B=np.ones(num, np.float32),
            request_ids=[],
            user_ids=self.single[group][rows_B].tolist() if group in self.single else [],
            item_ids=[],
            times_ms_B=np.zeros(num, np.int64),
            read_at_ms_B=np.zeros(num, np.int64),
        )

    def taken(self, rows: Ints) -> "_Window":
        """Some of the rows."""
        bags = {name: _bag(*columns, rows) for name, columns in self.bags.items()}
        return _Window(
            self.labels_N[rows],
            {name: ids_N[rows] for name, ids_N in self.single.items()},
            {name: (bag.offsets, bag.ids_N) for name, bag in bags.items()},
            self.numbers_NM[rows],
        )


def _windows(groups: list[int], group_rows: Sequence[int], most_rows: int) -> Iterator[list[int]]:
    """Row groups together as far as their rows are few enough; at least one at a time."""
    chosen: list[int] = []
    for group in groups:
        if chosen and sum(group_rows[at] for at in chosen) + group_rows[group] > most_rows:
            yield chosen
            chosen = []
        chosen.append(group)
    if chosen:
        yield chosen


def _joined(parts: list[_Window]) -> _Window:
    """Rows of several windows, one after the other; an id that is absent in one alone is a bag in all."""
    if len(parts) == 1:
        return parts[0]
    bagged = {name for part in parts for name in part.bags}
    single = {name: np.concatenate([p.single[name] for p in parts]) for name in parts[0].single if name not in bagged}
    bags = {}
    for name in bagged:
        columns = [p.bags.get(name) or (np.arange(len(p.labels_N) + 1), p.single[name]) for p in parts]
        lengths = np.concatenate([np.diff(offsets) for offsets, _ in columns])
        bags[name] = _cumulated(lengths), np.concatenate([ids_L for _, ids_L in columns])
    labels_N, numbers_NM = (np.concatenate([getattr(p, name) for p in parts]) for name in ("labels_N", "numbers_NM"))
    return _Window(labels_N, single, bags, numbers_NM)


def _bag(offsets: Ints, ids_L: Ints, rows_B: Ints) -> Bag:
    """The bags of some rows, gathered without a loop over them."""
    starts_B = offsets[rows_B]
    lengths_B = offsets[rows_B + 1] - starts_B
    new_offsets = _cumulated(lengths_B)
    places = np.arange(new_offsets[-1]) + np.repeat(starts_B - new_offsets[:-1], lengths_B)
    return Bag(ids_L[places], new_offsets)


def _offsets(lists: pa.ListArray) -> Ints:
    offsets: Ints = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _cumulated(lengths_B: npt.NDArray[np.generic]) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_B, dtype=np.int64)])
