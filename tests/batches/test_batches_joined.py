"""Joined streams: the same examples from any source, partitioning and chunking; bad events set aside."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from joined_timeline import (
    FEATURES,
    WINDOW_MS,
    Clock,
    Lists,
    Row,
    drain,
    expected_examples,
    in_batches,
    in_files,
    in_lists,
    joined_stream,
    memory_stream,
    merged,
    rows_of,
    timeline,
    with_text_ids,
)

from recsys.batches.examples import example_schema, to_rows
from recsys.batches.join import ActionKind, JoinConfig
from recsys.batches.joined import JoinedStream, StreamTimes
from recsys.batches.merge import FOREVER
from recsys.events import (
    ACTIONS,
    END,
    FACTS,
    IMPRESSIONS,
    Action,
    EndMarker,
    Event,
    Facts,
    Impression,
    encode,
)
from recsys.features.declarations import Feature
from recsys.streams.event_batches import encode_events
from recsys.streams.memory import EOF, PAUSE, MemorySource
from recsys.streams.source import Partition
from recsys.streams.unread import Lag

EVENTS = timeline()


def expected_rows(events: list[Event]) -> list[Row]:
    return rows_of(to_rows(expected_examples(events), example_schema(FEATURES), 0))


EXPECTED = expected_rows(EVENTS)


def test_the_timeline_has_what_the_tests_rely_on() -> None:
    assert len({row["emitted_ms"] for row in EXPECTED}) == len(EXPECTED) == 200
    assert 40 < sum(row["label"] for row in EXPECTED) < 100
    assert any(len(row["feature.liked"]) == 3 for row in EXPECTED)
    assert len({row["feature.recent"] for row in EXPECTED}) > 5
    assert all(row["feature.age"] and row["feature.genres"] for row in EXPECTED)


@pytest.mark.parametrize("num_partitions", [1, 2, 5])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_examples_do_not_depend_on_the_number_of_partitions(num_partitions: int, as_bytes: bool) -> None:
    stream = memory_stream(in_lists(EVENTS, num_partitions, as_bytes), num_partitions)
    assert merged(drain(stream)) == EXPECTED
    counts = stream.counts()
    assert (counts["impressions"], counts["examples"], counts["waiting"]) == (200, 200, 0)
    assert counts["facts"] == 26 and counts["late_events"] == counts["dead_letters"] == 0
    assert counts["actions"] == sum(isinstance(event, Action) for event in EVENTS)
    assert counts["actions"] == sum(row["label"] for row in EXPECTED) + counts["actions_after_emission"]
    assert stream.num_events == len(EVENTS)
    assert stream.time_ms == max(event.time_ms for event in EVENTS)


@pytest.mark.parametrize("max_events", [1, 3, 64])
@pytest.mark.parametrize("num_partitions", [1, 3])
def test_examples_do_not_depend_on_how_many_events_a_poll_reads(max_events: int, num_partitions: int) -> None:
    whole = drain(memory_stream(in_lists(EVENTS, num_partitions), num_partitions))
    assert drain(memory_stream(in_lists(EVENTS, num_partitions), num_partitions), max_events) == whole
    assert merged(whole) == EXPECTED


@pytest.mark.parametrize("num_partitions", [1, 3])
@pytest.mark.parametrize("max_messages", [1, 4, 2_000])
def test_many_events_in_a_message_give_the_same_examples(num_partitions: int, max_messages: int) -> None:
    lists = in_batches(in_lists(EVENTS, num_partitions), random.Random(max_messages))
    assert sum(map(len, lists.values())) < 0.7 * len(EVENTS)  # a message holds ids of one type
    stream = memory_stream(lists, num_partitions)
    assert merged(drain(stream, max_messages)) == EXPECTED
    assert stream.num_events == len(EVENTS) and stream.counts()["dead_letters"] == 0


def test_a_wrong_row_is_set_aside_with_its_place_and_the_others_are_used() -> None:
    lists = in_batches(in_lists(EVENTS, 2), random.Random(3), junk=True)
    lists[Partition(IMPRESSIONS, 0)].insert(2, encode_events(ACTIONS, [Action("r", 1, "like", 1)]))
    stream, sink = joined_stream(MemorySource(lists), 2)
    assert merged(drain(stream)) == EXPECTED
    letters = letters_of(sink)
    rows = [letter for letter in letters if "row" in letter]
    assert len(rows) == len(letters) - 1 == stream.counts()["dead_letters"] - 1 > 20
    for letter in rows:
        assert letter["reason"].startswith(f"{letter['topic']}: ") and "$.time_ms" in letter["reason"]
        message = lists[Partition(letter["topic"], letter["partition"])][letter["offset"]]
        assert json.loads(letter["payload"]) == pa.ipc.open_stream(message).read_all().to_pylist()[letter["row"]]
    (whole,) = [letter for letter in letters if "row" not in letter]
    assert (whole["topic"], whole["partition"], whole["offset"]) == (IMPRESSIONS, 0, 2)
    assert whole["reason"].startswith("impressions: column 'item_id' is missing")


def test_many_examples_of_one_instant_are_several_messages() -> None:
    lists = in_lists([Impression(f"r{n}", 1, n, 1000 + n) for n in range(2_500)], 1)
    stream = memory_stream(lists)
    stream.poll([0], 0)  # facts come first
    parts = stream.poll([0], 0, 10_000)
    assert [(part.first, part.rows.num_rows) for _, part in parts[:-1]] == [(0, 1_000), (1_000, 1_000), (2_000, 500)]
    assert [part.watermark_ms for _, part in parts[:-1]] == [1_999 + WINDOW_MS, 2_999 + WINDOW_MS, FOREVER]
    assert parts[-1] == (0, END)


@pytest.mark.parametrize("seed", range(6))
def test_examples_do_not_depend_on_stalls(seed: int) -> None:
    draw = random.Random(seed)
    lists = in_lists(EVENTS, 2)
    for partition, items in lists.items():
        # facts are read until they are caught up with, before all else: an EOF among them would end that
        stalls = [PAUSE] if partition.topic == FACTS else [PAUSE, EOF]
        for _ in range(8):
            items.insert(draw.randrange(len(items)), draw.choice(stalls))
    assert merged(drain(memory_stream(lists, 2), max_events=draw.choice([2, 7, 50]))) == EXPECTED


@pytest.mark.parametrize("num_partitions", [1, 3])
@pytest.mark.parametrize("max_events", [5, 2_000])
def test_files_give_the_same_examples_as_memory(tmp_path: Path, num_partitions: int, max_events: int) -> None:
    events = with_text_ids(EVENTS)
    stream, _ = joined_stream(in_files(events, num_partitions, tmp_path), num_partitions)
    rows = drain(stream, max_events)
    assert merged(rows) == expected_rows(events)
    assert rows == drain(memory_stream(in_lists(events, num_partitions), num_partitions))
    stream.close()


def test_facts_are_read_before_the_first_impression() -> None:
    lists: Lists = {
        Partition(IMPRESSIONS, 0): [Impression("r", 1, 2, 500), END],
        Partition(ACTIONS, 0): [END],
        Partition(FACTS, 0): [*[Facts("item", 9, time, {}) for time in range(30)], PAUSE],
        Partition(FACTS, 1): [Facts("item", 2, 400, {"genres": ["War"]}), END],
    }
    lists[Partition(FACTS, 0)] += [
        Facts("user", 1, 500, {"age": 33}),
        Facts("user", 1, 501, {"age": 44}),
        END,
    ]
    stream = memory_stream(lists)
    for _ in range(3):
        assert stream.poll([0], 0, max_events=10) == []
        assert stream.position()[Partition(IMPRESSIONS, 0)] == 0
    ((row,),) = drain(stream, max_events=10).values()
    assert (row["feature.age"], row["feature.genres"]) == ([33], [1])  # as of 500


BAD = {
    b"not json": "malformed",
    b"\xff\x00": "malformed",
    b'{"request_id":"x","user_id":1,"time_ms":5}': "`item_id`",
    b'{"request_id":"x","user_id":true,"item_id":1,"time_ms":5}': "$.user_id",
    b'{"request_id":"x","user_id":1,"item_id":1,"time_ms":-5}': "$.time_ms",
    b'{"request_id":"x","user_id":1,"item_id":1,"time_ms":5,"y":' + b"[" * 50_000: "recursion",
    encode(Impression("x", 1, 1, 1000 * (1000 + 60) + 1)): "max_future_seconds is 60",
}


def letters_of(sink) -> list[dict]:
    return [json.loads(line) for lines in sink.payloads.values() for line in lines]


def test_what_can_not_be_used_is_set_aside_with_its_reason_and_the_stream_goes_on() -> None:
    lists = in_lists(EVENTS, 2, as_bytes=True)
    draw, places = random.Random(1), {}
    impressions = lists[Partition(IMPRESSIONS, 1)]
    for payload in BAD:
        impressions.insert(draw.randrange(len(impressions) - 1), payload)
    for place, payload in enumerate(impressions):
        if payload in BAD:
            places[place] = payload
    lists[Partition(ACTIONS, 0)].insert(3, b"{}")
    lists[Partition(FACTS, 0)].insert(0, encode(Facts("item", 1, 0, {"genres": [2], "age": 1})))
    lists[Partition(FACTS, 0)].insert(1, encode(Facts("user", 1, 0, {"age": 0.5})))  # no feature can be made of it
    stream, sink = joined_stream(MemorySource(lists), 2)
    assert merged(drain(stream)) == EXPECTED
    letters = {(line["topic"], line["partition"], line["offset"]): line for line in letters_of(sink)}
    assert letters.keys() == {
        *((IMPRESSIONS, 1, place) for place in places),
        (ACTIONS, 0, 3),
        (FACTS, 0, 1),
    }
    for place, payload in places.items():
        line = letters[IMPRESSIONS, 1, place]
        assert line["reason"].startswith("impressions: ") and BAD[payload] in line["reason"]
        assert line.get("base64") or line["payload"].encode() == payload
    assert "`request_id`" in letters[ACTIONS, 0, 3]["reason"]
    assert "'age'" in letters[FACTS, 0, 1]["reason"]
    assert stream.counts()["dead_letters"] == len(BAD) + 2


def test_the_latest_time_allowed_is_still_taken() -> None:
    last_ms = 1000 * (1000 + 60)
    for time_ms, num_examples in [(last_ms, 1), (last_ms + 1, 0)]:
        lists = in_lists([Impression("r", 1, 2, time_ms)], 1)
        stream = memory_stream(lists, times=StreamTimes(max_future_seconds=60))
        assert len(drain(stream)[0]) == num_examples == 1 - stream.counts()["dead_letters"]


def test_a_refused_impression_takes_no_others_along() -> None:
    """The windows that end with its time are emitted all the same, and it counts for nothing."""
    features = [Feature(name="user", kind="number", source="user.id"), FEATURES[1]]
    lists = in_lists([Impression("a", 1, 2, 0), Impression("b", "ben", 2, WINDOW_MS + 1)], 1)
    stream, sink = joined_stream(MemorySource(lists), 1, features=features)
    rows = drain(stream)[0]
    assert [(row["request_id"], row["emitted_ms"]) for row in rows] == [("a", WINDOW_MS)]
    assert [line["offset"] for line in letters_of(sink)] == [1]
    assert (stream.counts()["impressions"], stream.counts()["waiting"]) == (1, 0)


def test_only_the_partitions_asked_for_are_read() -> None:
    lists = in_lists(EVENTS, 3)
    stream = memory_stream(lists, 3)
    while stream.position() != {
        partition: len(items) if partition.topic == FACTS or partition.index == 1 else 0
        for partition, items in lists.items()
    }:
        assert {index for index, _ in stream.poll([1], 0, max_events=20)} <= {1}
    held_back = sum(
        len(items) for partition, items in lists.items() if partition.topic != FACTS and partition.index != 1
    )
    assert num_behind(stream) == held_back
    assert stream.poll([], 0) == [] and num_behind(stream) == held_back
    first = memory_stream(in_lists(EVENTS, 3), 3)
    assert {index: rows for index, rows in drain(first).items() if index != 1} == {
        index: rows for index, rows in drain_rest(stream).items() if index != 1
    }


def num_behind(stream: JoinedStream) -> int:
    return sum(lag.events for lag in stream.lag().values())


def drain_rest(stream: JoinedStream) -> dict[int, list[Row]]:
    rows: dict[int, list[Row]] = {index: [] for index in stream.partitions}
    for asked in [0, 2] * 1000:  # what is read of a partition waits until it is asked for
        for index, part in stream.poll([asked], 0, max_events=20):
            assert index == asked
            if not isinstance(part, EndMarker):
                rows[index] += rows_of(part)
    return rows


def test_lag_is_what_is_unread_and_what_waits_for_an_earlier_event() -> None:
    lists = in_lists([Impression(f"r{time}", 1, 2, time) for time in range(10)], 1, end=False)
    stream = memory_stream(lists)
    assert num_behind(stream) == 10
    stream.poll([0], 0, max_events=4)
    assert num_behind(stream) == 10  # four are held back by the actions, of which none came yet
    lists[Partition(ACTIONS, 0)].append(Action("r0", 1, "like", 2))
    stream.poll([0], 0, max_events=1)
    counts = stream.counts()
    assert num_behind(stream) == 11 - counts["impressions"] - counts["actions"]
    assert counts["impressions"] == 3  # 0, 1 and 2: at 2 the action may still have company


def live() -> tuple[Lists, Clock, Callable[..., JoinedStream]]:
    lists: Lists = {Partition(topic, index): [] for topic in (IMPRESSIONS, ACTIONS) for index in (0, 1)}
    clock = Clock()
    times = StreamTimes(idle_seconds=30)
    return lists, clock, lambda count: memory_stream(lists, count, clock=clock, times=times)


def polled(stream: JoinedStream) -> list[tuple[int, str, int]]:
    parts = stream.poll(stream.partitions, 0)
    return [
        (index, row["request_id"], row["emitted_ms"])
        for index, part in parts
        if not isinstance(part, EndMarker)
        for row in rows_of(part)
    ]


def test_a_silent_topic_holds_its_sibling_back_until_it_is_idle() -> None:
    lists, clock, open_stream = live()
    stream = open_stream(1)
    lists[Partition(IMPRESSIONS, 0)] += [Impression("a", 1, 2, 0), Impression("b", 1, 2, WINDOW_MS + 1)]
    assert polled(stream) == []
    clock.seconds += 30
    assert polled(stream) == []  # idle after more than 30 seconds
    clock.seconds += 0.5
    assert polled(stream) == [(0, "a", WINDOW_MS)]
    lists[Partition(IMPRESSIONS, 0)].append(Impression("c", 1, 2, WINDOW_MS + 5))
    lists[Partition(ACTIONS, 0)] += [Action("a", 1, "like", 7), Action("b", 1, "like", WINDOW_MS + 9)]
    assert polled(stream) == []  # awake, so impressions before the second action may still come
    assert stream.counts()["late_events"] == 1
    assert stream.counts()["actions_after_emission"] == 1
    lists[Partition(IMPRESSIONS, 0)].append(Impression("d", 1, 2, WINDOW_MS + 10))
    assert polled(stream) == [(0, "b", WINDOW_MS + 9)]


def test_a_topic_that_is_not_read_to_its_end_is_not_idle() -> None:
    lists, clock, open_stream = live()
    stream = open_stream(1)
    lists[Partition(ACTIONS, 0)] += [PAUSE, Action("a", 1, "like", 7)]
    lists[Partition(IMPRESSIONS, 0)] += [Impression("a", 1, 2, 0), Impression("b", 1, 2, WINDOW_MS + 1)]
    clock.seconds += 100
    assert polled(stream) == []
    assert polled(stream) == [(0, "a", 7)]


def test_an_idle_partition_goes_along_with_the_others() -> None:
    """A partition without users must not stop the batches of all."""
    lists, clock, open_stream = live()
    stream = open_stream(2)
    for topic in (IMPRESSIONS, ACTIONS):
        lists[Partition(topic, 0)] += [Impression("a", 1, 2, 5) if topic == IMPRESSIONS else Action("a", 1, "like", 6)]
    lists[Partition(IMPRESSIONS, 1)].append(Impression("w", 2, 2, 3))
    polled(stream)
    clock.seconds += 31
    lists[Partition(IMPRESSIONS, 0)].append(Impression("b", 1, 2, 50_000))
    lists[Partition(ACTIONS, 0)].append(Action("b", 1, "like", 50_000))
    parts = stream.poll([0, 1], 0) + stream.poll([0, 1], 0)
    watermarks = {index: part.watermark_ms for index, part in parts}
    assert watermarks[0] == watermarks[1] == 50_000
    assert [row["request_id"] for index, part in parts if index == 1 for row in rows_of(part)] == ["w"]
    # it wakes: its past is late, but nothing is emitted before the watermark that was given out
    lists[Partition(IMPRESSIONS, 1)].append(Impression("x", 2, 2, 20))
    lists[Partition(ACTIONS, 1)].append(Action("x", 2, "like", 21))
    lists[Partition(IMPRESSIONS, 1)].append(Impression("y", 2, 2, 60_000))
    lists[Partition(ACTIONS, 1)].append(Action("none", 2, "like", 60_000))
    assert polled(stream) == [(1, "x", 50_000)]


def test_an_idle_sibling_of_an_ended_topic_is_not_the_end() -> None:
    lists, clock, open_stream = live()
    stream = open_stream(1)
    lists[Partition(IMPRESSIONS, 0)] += [Impression("a", 1, 2, 0), END]
    polled(stream)
    clock.seconds += 31
    assert polled(stream) == []
    lists[Partition(ACTIONS, 0)].append(Action("a", 1, "like", 7))
    assert polled(stream) == [(0, "a", 7)]
    lists[Partition(ACTIONS, 0)].append(END)
    (_, part), end = stream.poll([0], 0)
    assert rows_of(part) == [] and end == (0, END)


def test_a_topic_that_ended_long_ago_does_not_swallow_the_last_windows() -> None:
    lists, clock, open_stream = live()
    stream = open_stream(1)
    lists[Partition(ACTIONS, 0)].append(END)
    lists[Partition(IMPRESSIONS, 0)].append(Impression("a", 1, 2, 0))
    for _ in range(3):
        assert polled(stream) == []
        clock.seconds += 31
    lists[Partition(IMPRESSIONS, 0)].append(END)
    assert polled(stream) == [(0, "a", WINDOW_MS)]


def test_state_names_positions_and_features() -> None:
    lists = in_lists(EVENTS, 2)
    stream = memory_stream(lists, 2)
    drain(stream)
    state = json.loads(json.dumps(stream.state()))
    assert sorted(map(tuple, state["position"])) == sorted(
        (partition.topic, partition.index, len(items)) for partition, items in lists.items()
    )
    histories = [history for _, history in state["features"]["histories"]]
    assert sum(history["num_impressions"] for history in histories) == 200
    assert sum(history["num_likes"] for history in histories) == sum(row["label"] for row in EXPECTED)


def test_an_example_says_when_the_event_that_made_it_final_was_read() -> None:
    """A like that waits for its sibling topic was read before; a window closes with the next event, or the end."""
    impressions, actions = Partition(IMPRESSIONS, 0), Partition(ACTIONS, 0)
    lists: Lists = {impressions: [], actions: []}
    clock = Clock()
    stream = memory_stream(lists, clock=clock)
    arrivals: dict[int, Lists] = {
        1000: {actions: [Action("liked", 1, "like", 10)]},
        1007: {impressions: [Impression("liked", 1, 2, 0), Impression("not", 1, 3, 20)]},
        1008: {actions: [Action("unknown", 1, "like", 20 + WINDOW_MS + 1)]},
        1009: {impressions: [Impression("last", 1, 2, 20 + WINDOW_MS + 5)]},
        1010: {impressions: [END], actions: [END]},
    }
    read_at: dict[str, int] = {}
    for clock.seconds, items in arrivals.items():
        for partition, arrived in items.items():
            lists[partition] += arrived
        for _, part in stream.poll([0], 0):
            if not isinstance(part, EndMarker):
                rows = part.rows.select(["request_id", "read_at_ms"]).to_pylist()
                read_at.update((row["request_id"], row["read_at_ms"]) for row in rows)
    assert read_at == {"liked": 1_000_000, "not": 1_008_000, "last": 1_010_000}


@pytest.mark.parametrize(("late_ms", "is_joined"), [(2000, True), (2001, False)])
def test_what_is_later_than_allowed_is_set_aside_and_counted(late_ms: int, is_joined: bool) -> None:
    config = JoinConfig(actions={"like": ActionKind(window_seconds=60, final=True)}, allowed_lateness_seconds=2)
    late = Action("a", 1, "like", 9_000 - late_ms)
    lists: Lists = {
        Partition(IMPRESSIONS, 0): [Impression("a", 1, 2, 5_000), Impression("b", 1, 2, 9_000), END],
        Partition(ACTIONS, 0): [Action("b", 1, "like", 9_000), late, END],
    }
    stream, sink = joined_stream(MemorySource(lists), 1, config=config)
    rows = {row["request_id"]: (row["emitted_ms"], row["label"]) for row in drain(stream)[0]}
    assert rows == {"a": (9_000, 1.0) if is_joined else (65_000, 0.0), "b": (9_000, 1.0)}
    counts = stream.counts()
    assert (counts["late_events"], counts["events_too_late"]) == (1, not is_joined)
    reasons = [line["reason"] for line in letters_of(sink)]
    told = "actions: too late: 2.001 s after its partition, allowed_lateness_seconds is 2"
    assert reasons == [] if is_joined else reasons == [told]


class WrittenSource(MemorySource):
    """A source that says when its oldest unread record was written."""

    def __init__(self, lists: Lists) -> None:
        super().__init__(lists)
        self.since_ms: dict[Partition, int] = {}

    def unread_since_ms(self) -> dict[Partition, int]:
        return self.since_ms


def test_lag_in_seconds_is_since_the_oldest_unread_was_written_or_the_oldest_waiting_was_read() -> None:
    lists = in_lists([Impression(f"r{time}", 1, 2, time) for time in range(10)], 1, end=False)
    source, clock = WrittenSource(lists), Clock()
    stream, _ = joined_stream(source, 1, clock=clock)
    source.since_ms = {Partition(IMPRESSIONS, 0): int(1000 * clock()) - 1500}
    assert stream.lag() == {0: Lag(10, pytest.approx(1.5))}
    stream.poll([0], 0)
    source.since_ms = {}
    clock.seconds += 7.0
    assert stream.lag() == {0: Lag(10, pytest.approx(7.0))}  # read, and held back by the actions since then
    assert stream.num_emitted == {0: 0}
