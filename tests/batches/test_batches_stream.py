"""Batch streams: the same batches from any chunking, partitioning and transport of the same examples."""

import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joined_timeline import FEATURES as TIMELINE_FEATURES
from joined_timeline import Clock, expected_examples, in_lists, memory_stream, timeline

from recsys.batches.batch import LabelledBatch
from recsys.batches.batches import BatchStream, Fed, PositionedBatch, StreamPosition, TopicFeed
from recsys.batches.examples import Example, ExampleRows, encode_rows, example_schema, to_rows
from recsys.batches.joined import JoinedStream, StreamTimes
from recsys.batches.merge import FOREVER
from recsys.errors import DataError
from recsys.events import ACTIONS, END, END_PAYLOAD, EXAMPLES, FACTS, IMPRESSIONS, EndMarker, Impression
from recsys.features.declarations import Feature
from recsys.features.packing import pack
from recsys.streams.memory import MemorySource
from recsys.streams.source import Partition

FEATURES = (Feature(name="item", kind="id", source="item.id"),)
SCHEMA = example_schema(FEATURES)
Part = tuple[int, ExampleRows | EndMarker]
Key = tuple[int, int, int]  # emission time, partition, offset


class Chunks:
    """A feed that hands out prepared chunks, one a poll, of the partitions that are asked for, from offsets on."""

    def __init__(self, chunks: Sequence[Part], num_partitions: int, start: StreamPosition | None = None) -> None:
        self.partitions = tuple(range(num_partitions))
        offsets = dict.fromkeys(self.partitions, 0)
        self.chunks: list[Fed] = []
        for index, part in chunks:
            if offsets[index] >= (start or {}).get(index, (0, 0))[0]:
                self.chunks.append((index, part, offsets[index]))
            offsets[index] += 1
        self.asked: list[list[int]] = []

    def poll(self, only: Collection[int], timeout_seconds: float = 0.1) -> list[Fed]:
        self.asked.append(sorted(only))
        for place, (index, _, _) in enumerate(self.chunks):
            if index in only:
                return [self.chunks.pop(place)]
        return []


class InProcess:
    """A joiner in this process as a feed."""

    def __init__(self, stream: JoinedStream) -> None:
        self._stream, self.partitions = stream, stream.partitions

    def poll(self, only: Collection[int], timeout_seconds: float = 0.1) -> list[Fed]:
        return [(index, part, 0) for index, part in self._stream.poll(only, timeout_seconds)]


def rows(keys: Sequence[Key], watermark_ms: int) -> ExampleRows:
    examples = [
        Example(f"{index}-{offset}", index, offset, time_ms, time_ms, 0.0, pack([[offset]]))
        for time_ms, index, offset in keys
    ]
    return to_rows(examples, SCHEMA, watermark_ms, first=keys[0][2] if keys else 0)


def in_chunks(times: Sequence[Sequence[int]], draw: random.Random) -> list[Part]:
    """Each partition's examples in random pieces with true watermarks, then its end; interleaved."""
    lanes: list[list[Part]] = []
    for index, lane_times in enumerate(times):
        keys = [(time_ms, index, offset) for offset, time_ms in enumerate(lane_times)]
        lane: list[Part] = []
        while keys:
            size = draw.randint(0, len(keys))
            piece, keys = keys[:size], keys[size:]
            before = piece[-1][0] if piece else -1
            lane.append((index, rows(piece, draw.randint(before, keys[0][0]) if keys else FOREVER)))
        lanes.append([*lane, (index, END)])
    order = [index for index, lane in enumerate(lanes) for _ in lane]
    draw.shuffle(order)
    return [lanes[index].pop(0) for index in order]


def keys_of(batch: LabelledBatch) -> list[Key]:
    assert [f"{index}-{offset}" for index, offset in zip(batch.user_ids, batch.item_ids, strict=True)] == list(
        batch.request_ids
    )
    np.testing.assert_array_equal(batch.bags["item"].ids_N, np.array(batch.item_ids, np.int64))
    return list(zip(batch.times_ms_B.tolist(), batch.user_ids, batch.item_ids, strict=True))  # type: ignore[arg-type]


def run(stream: BatchStream) -> Iterator[LabelledBatch]:
    for _ in range(10_000):
        if stream.finished:
            return
        yield from (cut.batch for cut in stream.poll(0))
    pytest.fail("the stream did not end")


def cut(keys: Sequence[Key], max_examples: int, max_ms: int | None) -> list[list[Key]]:
    """The oracle: a batch is closed when it is full, or when the next example is too late for it."""
    batches: list[list[Key]] = []
    for key in sorted(keys):
        full = not batches or len(batches[-1]) == max_examples
        if full or (max_ms is not None and key[0] > batches[-1][0][0] + max_ms):
            batches.append([])
        batches[-1].append(key)
    return batches


TIMES = st.lists(st.lists(st.integers(0, 30), max_size=10).map(sorted), min_size=1, max_size=3)


@settings(deadline=None)
@given(TIMES, st.integers(1, 6), st.none() | st.integers(0, 8), st.randoms(use_true_random=False))
def test_any_chunking_gives_the_same_batches(times, max_examples: int, max_ms: int | None, draw) -> None:
    keys = [(t, index, offset) for index, lane in enumerate(times) for offset, t in enumerate(lane)]
    stream = BatchStream(
        Chunks(in_chunks(times, draw), len(times)),
        FEATURES,
        max_examples=max_examples,
        max_seconds=None if max_ms is None else max_ms / 1000,
    )
    assert [keys_of(batch) for batch in run(stream)] == cut(keys, max_examples, max_ms)
    assert stream.finished and list(stream.poll(0)) == []


@settings(deadline=None)
@given(TIMES, st.integers(1, 6), st.none() | st.integers(0, 8), st.integers(0, 40), st.randoms(use_true_random=False))
def test_from_a_position_the_batches_go_on_as_if_nothing_had_happened(times, max_examples, max_ms, at, draw) -> None:
    """Read again from the position, in other pieces and with some examples sent twice."""
    chunks = in_chunks(times, draw)
    limits: dict[str, Any] = {"max_examples": max_examples, "max_seconds": None if max_ms is None else max_ms / 1000}
    whole = BatchStream(Chunks(chunks, len(times)), FEATURES, **limits)
    seen: list[PositionedBatch] = []
    for _ in range(10_000):
        if whole.finished:
            break
        seen += whole.poll(0)
    if not seen:
        return
    at %= len(seen)
    position = seen[at].position
    assert set(position) == set(range(len(times)))
    doubled = [again for chunk in chunks for again in ([chunk, chunk] if draw.random() < 0.3 else [chunk])]
    offsets = {index: (0 if doubled is not chunks else offset, num) for index, (offset, num) in position.items()}
    for start, source in ((position, chunks), (offsets, doubled)):
        resumed = BatchStream(Chunks(source, len(times), start), FEATURES, **limits, start=start)
        assert [keys_of(batch) for batch in run(resumed)] == [keys_of(cut.batch) for cut in seen[at + 1 :]]


def test_missing_examples_are_an_error() -> None:
    stream = stream_of([(0, rows([(1, 0, 0)], 1)), (0, rows([(2, 0, 5)], 2))])
    list(stream.poll(0))
    with pytest.raises(DataError, match="examples 1 to 4 of partition 0 are missing"):
        list(stream.poll(0))


def stream_of(chunks: Sequence[Part], num_partitions: int = 1, **limits: Any) -> BatchStream:
    return BatchStream(Chunks(chunks, num_partitions), FEATURES, **{"max_examples": 3, **limits})


def polled(stream: BatchStream) -> list[list[int]]:
    return [[key[0] for key in keys_of(cut.batch)] for cut in stream.poll(0)]


def test_a_batch_is_handed_out_when_it_is_full() -> None:
    stream = stream_of(
        [(0, rows([(1, 0, 0), (2, 0, 1)], 2)), (0, rows([(n, 0, n - 1) for n in range(3, 9)], 8)), (0, END)]
    )
    assert polled(stream) == []
    assert polled(stream) == [[1, 2, 3], [4, 5, 6]]
    assert not stream.finished
    assert polled(stream) == [[7, 8]]  # the rest, at the end
    assert stream.finished


def test_a_thin_stream_closes_a_batch_by_event_time() -> None:
    stream = stream_of(
        [
            (0, rows([(1000, 0, 0)], 1000)),
            (0, rows([], 3000)),
            (0, rows([], 3001)),
            (0, rows([(9000, 0, 1)], 9000)),
        ],
        max_seconds=2,
    )
    assert polled(stream) == []
    assert polled(stream) == []  # an example at 3000 still belongs to it
    assert polled(stream) == [[1000]]
    assert polled(stream) == []


def test_an_example_waits_for_partitions_that_may_come_before_it() -> None:
    stream = stream_of(
        [(1, rows([(5, 1, 0)], 5)), (0, rows([], 5)), (0, rows([], 6)), (0, END), (1, END)], 2, max_examples=1
    )
    assert [polled(stream) for _ in range(5)] == [[], [], [[5]], [], []]
    assert stream.finished


def test_live_a_silent_partition_holds_nobody_back_and_silence_closes_a_batch() -> None:
    clock = Clock()
    chunks = [(1, rows([(5, 1, 0), (6, 1, 1)], 6)), (0, rows([(4, 0, 0)], 4))]
    stream = stream_of(chunks, 2, max_examples=2, idle_seconds=2, clock=clock)
    assert polled(stream) == []
    clock.seconds += 1.5
    assert polled(stream) == [] and not stream.idle
    clock.seconds += 1  # partition 1 has been silent for longer, and waits for the other
    assert polled(stream) == [] and not stream.idle
    clock.seconds += 1.5
    assert polled(stream) == [[4, 5]] and not stream.idle
    assert polled(stream) == [[6]] and stream.idle
    assert stream.position() == {0: (0, 1), 1: (0, 2)}
    assert not stream.finished and polled(stream) == []


def test_a_stream_without_idle_seconds_waits_for_ever() -> None:
    clock = Clock()
    stream = stream_of([(0, rows([(5, 0, 0)], 5))], 2, clock=clock)
    for _ in range(3):
        clock.seconds += 1000
        assert polled(stream) == [] and not stream.idle


def test_a_partition_far_ahead_is_not_read_on() -> None:
    feed = Chunks([(1, rows([(time_ms, 1, time_ms) for time_ms in range(20_000)], 19_999)), (0, END), (1, END)], 2)
    stream = BatchStream(feed, FEATURES, max_examples=8_192)
    assert [len(batch.request_ids) for batch in run(stream)] == [8_192, 8_192, 20_000 - 2 * 8_192]
    assert feed.asked[:3] == [[0, 1], [0], [0, 1]]


def test_no_examples_at_all() -> None:
    stream = stream_of([(0, END)])
    assert not stream.finished
    assert list(run(stream)) == [] and stream.finished


def same(batch: LabelledBatch, other: LabelledBatch) -> None:
    for name, bag in batch.bags.items():
        np.testing.assert_array_equal(bag.ids_N, other.bags[name].ids_N, strict=True)
        np.testing.assert_array_equal(bag.offsets, other.bags[name].offsets, strict=True)
    for name in ("numbers_BM", "labels_B", "weights_B", "times_ms_B"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(other, name), strict=True)
    assert (batch.request_ids, batch.user_ids, batch.item_ids) == (
        other.request_ids,
        other.user_ids,
        other.item_ids,
    )


@pytest.mark.parametrize("num_partitions", [1, 3])
def test_in_process_and_over_the_topic_the_batches_are_the_same(num_partitions: int) -> None:
    events = timeline()
    examples = expected_examples(events)
    limits: dict[str, Any] = {"max_examples": 16, "max_seconds": 30}
    joiner = memory_stream(in_lists(events, num_partitions), num_partitions)
    in_process = BatchStream(InProcess(joiner), TIMELINE_FEATURES, **limits)
    messages = {Partition(EXAMPLES, index): [] for index in range(num_partitions)}
    joined = memory_stream(in_lists(events, num_partitions), num_partitions)
    for _ in range(500):
        for index, part in joined.poll(joined.partitions, 0, max_events=13):
            payload = END_PAYLOAD if isinstance(part, EndMarker) else encode_rows(part)
            messages[Partition(EXAMPLES, index)].append(payload)
    feed = TopicFeed(MemorySource(messages))
    over_topic = BatchStream(feed, TIMELINE_FEATURES, **limits)
    batches, others = list(run(in_process)), list(run(over_topic))
    for batch, other in zip(batches, others, strict=True):
        same(batch, other)
    request_ids = [request_id for batch in batches for request_id in batch.request_ids]
    assert request_ids == [example.request_id for example in examples]
    labels = np.concatenate([batch.labels_B for batch in batches])
    assert labels.tolist() == [example.label for example in examples]
    assert max(batch.num_examples for batch in batches) == 16


def test_a_wrong_message_on_the_topic_is_a_data_error() -> None:
    stream = BatchStream(TopicFeed(MemorySource({Partition(EXAMPLES, 0): [b"{}"]})), FEATURES, max_examples=1)
    with pytest.raises(DataError, match="not a message of examples"):
        list(stream.poll(0))


def test_a_partition_without_users_does_not_stop_the_batches() -> None:
    lists = {Partition(topic, index): [] for topic in (IMPRESSIONS, ACTIONS, FACTS) for index in (0, 1)}
    clock = Clock()
    joined = memory_stream(lists, 2, clock=clock, times=StreamTimes(idle_seconds=30))
    stream = BatchStream(InProcess(joined), TIMELINE_FEATURES, max_examples=2)
    lists[Partition(IMPRESSIONS, 0)] += [Impression(f"r{n}", 1, 2, 20_000 * n) for n in range(5)]
    assert list(stream.poll(0)) == []
    clock.seconds += 31
    lists[Partition(IMPRESSIONS, 0)].append(Impression("r5", 1, 2, 100_000))
    batches = [cut.batch for _ in range(3) for cut in stream.poll(0)]
    assert [list(batch.request_ids) for batch in batches] == [["r0", "r1"], ["r2", "r3"]]


def test_the_topic_tells_how_long_the_first_example_beyond_a_position_waits() -> None:
    """Messages in hand by when their events were read; a message that only carries time on makes nobody wait."""
    at, messages = Partition(EXAMPLES, 0), []
    for first, number, read_at_ms in ((0, 2, 1000), (2, 0, 0), (2, 3, 2000), (5, 1, 3000)):
        examples = [
            Example(f"r{n}", 1, 2, n, n, 0.0, pack([[n]]), read_at_ms=read_at_ms) for n in range(first, first + number)
        ]
        messages.append(encode_rows(to_rows(examples, SCHEMA, first, first)))
    feed = TopicFeed(MemorySource({at: messages}))
    assert feed.lag_seconds({0: (0, 0)}, 5.0) == {0: 0.0}
    assert len(feed.poll([0], 0)) == 4
    for learned, seconds in ((0, 4.0), (1, 4.0), (2, 3.0), (4, 3.0), (5, 2.0), (6, 0.0)):
        assert feed.lag_seconds({0: (0, learned)}, 5.0) == {0: seconds}, learned
