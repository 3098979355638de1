"""Batches by columns are, to the last number and position, those of a merge that handles rows one by one."""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.batches.batch import Bag, LabelledBatch
from recsys.batches.batches import BatchStream, PositionedBatch
from recsys.batches.examples import Example, ExampleRows, example_schema, to_batch, to_rows
from recsys.batches.merge import FOREVER, TimeMerge
from recsys.batches.row_merge import NONE, PickedRows, RowMerge
from recsys.events import END, EndMarker
from recsys.features.declarations import Feature
from recsys.features.packing import pack

FEATURES = (
    Feature(name="item", kind="id", source="item.id"),
    Feature(name="tags", kind="bag", source="item.tags"),
    Feature(name="score", kind="number", source="item.score"),
)
SCHEMA = example_schema(FEATURES)
Row = tuple[int, pa.RecordBatch, int]


class RowWise(BatchStream):
    """The oracle: every example by itself through a TimeMerge, every batch gathered by itself."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self._merge: TimeMerge[int, Row] = TimeMerge(self._feed.partitions)
        self._ready: deque[tuple[int, Row]] = deque()

    def poll(self, timeout_seconds: float = 0.1) -> Iterator[PositionedBatch]:
        behind = [index for index in self._feed.partitions if self._merge.queued(index) < 20_000]
        for index, part, offset in self._feed.poll(behind, timeout_seconds):
            self._take(index, part, offset)
        self._notice_idle()
        self._ready.extend(self._merge.ready())
        while (size := self._num_next()) > 0:
            rows = [self._ready.popleft()[1] for _ in range(size)]
            for index, _, _ in rows:
                self._read[index].next += 1
            gathered = pa.concat_batches([part.slice(row, 1) for _, part, row in rows])
            yield PositionedBatch(to_batch(gathered, self._features), self.position(), gathered)

    def _take(self, index: int, part: ExampleRows | EndMarker, offset: int) -> None:
        self._last_seen[index] = self._clock()
        self._read[index].offset = offset
        if isinstance(part, EndMarker):
            self._merge.close(index)
            return
        known = self._read[index].num_known(part, index)
        for row, emitted_ms in enumerate(part.rows.column("emitted_ms").to_pylist()[known:], known):
            self._merge.put(index, emitted_ms, (index, part.rows.replace_schema_metadata(None), row))
        self._read[index].take(part, offset)
        self._merge.advance(index, part.watermark_ms)

    def _num_next(self) -> int:
        if self._max_ms is not None and self._ready:
            closes_ms = self._ready[0][0] + self._max_ms
            inside = sum(1 for time_ms, _ in self._ready if time_ms <= closes_ms)
            if inside < len(self._ready) or self._merge.watermark_ms > closes_ms:
                return min(inside, self._max_examples)
        if len(self._ready) >= self._max_examples:
            return self._max_examples
        return len(self._ready) if self._merge.closed or self._merge.idle else 0


class Script:
    """A feed that hands out the same chunks at the same times, to whoever asks."""

    def __init__(
        self, polls: Sequence[Sequence[tuple[int, ExampleRows | EndMarker, int]]], num_partitions: int
    ) -> None:
        self.partitions = tuple(range(num_partitions))
        self._polls = list(polls)

    def poll(self, only, timeout_seconds: float = 0.1):
        return self._polls.pop(0) if self._polls else []


def script(draw: random.Random, num_partitions: int):
    """Chunks in any order: of times that go back now and then, with true or useless watermarks, some sent twice."""
    chunks = []
    for index in range(num_partitions):
        time_ms, number, lane = draw.randrange(20), 0, []
        for offset in range(draw.randrange(8)):
            examples = []
            for _ in range(draw.choice([0, 1, 2, 9])):
                time_ms = max(0, time_ms + draw.choice([0, 0, 1, 3, -2 if draw.random() < 0.2 else 5]))
                items, tags = [draw.randrange(9)] * draw.randrange(2), [7] * draw.randrange(4)
                values = pack([items, tags, draw.randrange(100) / 8])
                user = draw.choice([number, f"u{number}"])
                examples.append(Example(f"{index}-{number}", user, number, time_ms, time_ms, 0.5, values))
                number += 1
            first = number - len(examples)
            lane.append((index, to_rows(examples, SCHEMA, draw.choice([-1, time_ms]), first), offset))
            if draw.random() < 0.2:
                lane.append(lane[-1])
        if draw.random() < 0.8:
            lane.append((index, END, len(lane)))
        chunks.append(lane)
    order = [index for index, lane in enumerate(chunks) for _ in lane]
    draw.shuffle(order)
    polls = [[]]
    for index in order:
        polls.append([]) if draw.random() < 0.5 else None
        polls[-1].append(chunks[index].pop(0))
    return [*polls, [], []]


def plain(batch: LabelledBatch) -> dict:
    values = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name not in ("bags", "rates")}
    assert batch.rates is not None
    values |= batch.rates._asdict()
    bags = {name: (bag.ids_N.tolist(), bag.offsets.tolist(), bag.ids_N.dtype) for name, bag in batch.bags.items()}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()} | bags


@settings(max_examples=150)
@given(
    st.integers(1, 3),
    st.sampled_from([1, 2, 5, 100]),
    st.sampled_from([None, 0, 0.002, 0.02]),
    st.sampled_from([None, 1.5]),
    st.integers(),
)
def test_by_columns_and_row_by_row_are_the_same(num_partitions, max_examples, max_seconds, idle_seconds, seed) -> None:
    draw = random.Random(seed)
    polls, now = script(draw, num_partitions), [0.0]
    streams = [
        kind(
            Script(polls, num_partitions),
            FEATURES,
            max_examples=max_examples,
            max_seconds=max_seconds,
            idle_seconds=idle_seconds,
            clock=lambda: now[0],
        )
        for kind in (BatchStream, RowWise)
    ]
    for _ in polls:
        now[0] += draw.choice([0, 0, 1, 2])
        stop = draw.choice([None, None, 1])  # a reader that has enough takes the others at its next poll
        found, expected = ([batch for _, batch in zip(range(stop or 1000), s.poll(0), strict=False)] for s in streams)
        assert [(plain(batch), position, rows.to_pydict()) for batch, position, rows in found] == [
            (plain(batch), position, rows.to_pydict()) for batch, position, rows in expected
        ]
        for name in ("finished", "idle"):
            assert getattr(streams[0], name) == getattr(streams[1], name), name
        assert streams[0].position() == streams[1].position()
        merges = [stream._merge for stream in streams]
        assert merges[0].watermark_ms == merges[1].watermark_ms and merges[0].time_ms == merges[1].time_ms
        assert [merges[0].queued(i) for i in range(num_partitions)] == [
            merges[1].queued(i) for i in range(num_partitions)
        ]


def part(first: int, num: int) -> pa.RecordBatch:
    return pa.record_batch({"n": np.arange(first, first + num), "text": [str(n) for n in range(first, first + num)]})


def test_a_stretch_may_begin_in_the_middle_of_a_part() -> None:
    merge = RowMerge([3, 4])
    merge.put_rows(3, part(0, 5), np.array([7, 7, 9]), first=2)
    merge.put_rows(4, part(10, 2), np.array([7, 8]))
    assert [merge.queued(index) for index in (3, 4)] == [3, 2]
    picked = merge.ready_rows()
    assert picked.gather().to_pylist() == [
        {"n": n, "text": str(n)} for n in (2, 3, 10, 11)
    ]  # at 9 partition 4 is waited for
    assert picked.counts() == {3: 2, 4: 2} and [merge.queued(index) for index in (3, 4)] == [1, 0]
    merge.close(4)
    assert merge.ready_rows().gather().column("n").to_pylist() == [4]
    assert merge.ready_rows() is NONE and not merge.closed
    merge.close(3)
    assert merge.closed and merge.watermark_ms == FOREVER


def test_parts_of_which_nothing_is_left_are_let_go() -> None:
    merge = RowMerge([0])
    for first in (0, 10, 20):
        merge.put_rows(0, part(first, 10), np.arange(first, first + 10))
    picked = merge.ready_rows().take(15)
    merge.put_rows(0, part(30, 10), np.arange(30, 40))
    picked = picked.then(merge.ready_rows())
    assert [len(kept) for kept in picked.parts] == [10, 10, 10]
    assert picked.gather().column("n").to_pylist() == list(range(15, 40))
    assert picked.take(2, 4).gather().column("n").to_pylist() == [17, 18]
    assert len(PickedRows.then(NONE, NONE)) == 0


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 2), (1, 4), (4, 4)])
def test_a_part_of_a_batch_is_the_batch_of_those_examples(start: int, stop: int) -> None:
    examples = [
        Example(f"r{n}", n, f"i{n}", n, n, n / 4, pack([[n] * (n % 2), [n] * n, n]), n / 8, n) for n in range(4)
    ]
    rows = to_rows(examples, SCHEMA, 0).rows
    cut = to_batch(rows, FEATURES).part(start, stop)
    assert plain(cut) == plain(to_batch(rows.slice(start, stop - start), FEATURES))
    assert cut.num_examples == stop - start
    weighted = Bag(np.arange(6), np.array([0, 1, 3, 3, 6]), np.arange(6, dtype=np.float32))
    of_part = weighted.part(1, 4)
    assert (of_part.ids_N.tolist(), of_part.offsets.tolist(), of_part.weights.tolist()) == (
        [1, 2, 3, 4, 5],
        [0, 2, 2, 5],
        [1, 2, 3, 4, 5],
    )
