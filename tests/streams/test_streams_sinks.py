"""Sinks that need no server, dead letters, and the replay that feeds any sink."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError, EventError
from recsys.events import END, END_PAYLOAD, Action, Event, Facts, Impression, decode
from recsys.streams.dead_letters import DeadLetters
from recsys.streams.memory import MemorySource
from recsys.streams.partitioner import partition_of
from recsys.streams.replay import ReplayCounts, Sent, replay
from recsys.streams.sink import JsonlSink, MemorySink
from recsys.streams.source import Partition, Record

AT = Partition("actions", 3)
EVENTS: list[tuple[str, Event]] = [
    ("facts", Facts("user", 7, 0, {"age": 30})),
    ("facts", Facts("item", "m1", 0, {"title": "Heat"})),
    ("impressions", Impression("r1", 7, "m1", 10)),
    ("actions", Action("r1", 7, "like", 20)),
]


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "dead_letters.jsonl").read_text().splitlines()]


def test_jsonl_appends_one_line_a_message(tmp_path: Path) -> None:
    for number in (1, 2):
        with JsonlSink(tmp_path / "new" / "folder") as sink:
            sink.send(AT, b'{"n":%d}' % number, key=b"k")
            sink.flush()
            assert (tmp_path / "new/folder/actions.jsonl").read_bytes().endswith(b'{"n":%d}\n' % number)
        sink.close()
    assert (tmp_path / "new/folder/actions.jsonl").read_text() == '{"n":1}\n{"n":2}\n'


def test_jsonl_takes_no_line_break(tmp_path: Path) -> None:
    with (
        JsonlSink(tmp_path) as sink,
        pytest.raises(DataError, match="a message for actions-3 has a line break at byte 1; JSON lines have none"),
    ):
        sink.send(AT, b"a\nb")


def test_dead_letters_keep_the_record_and_count_the_reasons(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path)
    try:
        decode("actions", b'{"user_id":1}')
    except EventError as error:
        letters.put(Record(AT, 5, b'{"user_id":1}'), error)
    letters.put(Record(AT, 6, b"\xff\n\x00"), "late: 3000 ms behind the watermark")
    letters.put(Record(AT, 7, Action("r", "Zoë", "like", 4)), "late: 10 ms behind the watermark")
    letters.flush()
    assert letters.counts == {"EventError": 1, "late": 2}
    first, second, third = read_lines(tmp_path)
    assert first == {
        "reason": "actions: Object missing required field `request_id`",
        "topic": "actions",
        "partition": 3,
        "offset": 5,
        "payload": '{"user_id":1}',
    }
    assert (second["base64"], base64.b64decode(second["payload"])) == (True, b"\xff\n\x00")
    assert third["payload"] == '{"request_id":"r","user_id":"Zoë","kind":"like","time_ms":4}'
    letters.close()


def test_dead_letters_name_the_row_of_a_message_of_many_and_know_it_again(tmp_path: Path) -> None:
    for _ in range(2):
        letters = DeadLetters(tmp_path)
        for row in (0, 2):
            letters.put(Record(AT, 5, b"{}", row), "actions: wrong")
        letters.close()
    assert letters.counts == {"actions": 2}
    assert [(line["offset"], line["row"]) for line in read_lines(tmp_path)] == [(5, 0), (5, 2)]


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        (b"x" * 64 * 1024, "x" * 64 * 1024),
        (b"x" * 64 * 1024 + b"y", "x" * 64 * 1024),
        (b"x" * (64 * 1024 - 1) + "é".encode(), "x" * (64 * 1024 - 1)),  # the cut goes through the é
    ],
)
def test_long_payloads_are_cut_and_say_so(tmp_path: Path, payload: bytes, kept: str) -> None:
    letters = DeadLetters(tmp_path)
    letters.put(Record(AT, 0, payload), "too long")
    letters.close()
    (line,) = read_lines(tmp_path)
    assert line["payload"] == kept
    assert line.get("truncated", False) == (len(payload) > 64 * 1024)
    assert "base64" not in line


def test_dead_letters_into_any_sink() -> None:
    sink = MemorySink()
    DeadLetters(sink).put(Record(AT, 1, END), "unexpected")
    (line,) = sink.payloads[Partition("dead_letters", AT.index)]
    assert json.loads(line)["payload"] == '{"end":true}'


def test_dead_letters_of_an_earlier_life_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "dead_letters.jsonl"
    first = DeadLetters(tmp_path)
    first.put(Record(AT, 4, b"{"), "actions: no JSON")
    first.put(Record(AT, 5, b"{"), "impressions: no JSON")
    first.close()
    written = path.read_bytes()
    path.write_bytes(written + b'{"reason":"actio')  # it died in the midst of a third
    second = DeadLetters(tmp_path)
    assert second.counts == {}  # what this life has set aside, not what lies there
    second.put(Record(AT, 4, b"{"), "actions: no JSON")
    second.put(Record(AT, 5, b"{"), "impressions: no JSON")
    second.flush()
    assert path.read_bytes() == written
    second.put(Record(AT, 6, b"{"), "actions: no JSON")
    second.close()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["offset"] for line in lines] == [4, 5, 6]
    assert second.counts == {"actions": 2, "impressions": 1}


def test_a_cut_counts_what_lies_below_it_and_the_next_life_the_rest() -> None:
    sink, other = MemorySink(), Partition("impressions", AT.index)
    first = DeadLetters(sink)
    for offset in (4, 7, 5):
        first.put(Record(AT, offset, b"{"), "late: 5 ms")
    first.put(Record(other, 2, b"{"), "late: 6 ms")
    counts = first.cut({AT: (6, 0), other: (2, 0)})
    assert counts == {AT.index: {"late": 2}}
    assert first.counts == {"late": 4}
    written = sink.payloads[Partition("dead_letters", AT.index)]
    second = DeadLetters(sink, known=list(written))
    second.restore(AT.index, counts[AT.index], {AT: (6, 0), other: (2, 0)})
    for partition, offset in ((AT, 5), (other, 2), (AT, 7)):  # the first is read again on behalf of another partition
        second.put(Record(partition, offset, b"{"), "late: 5 ms")
    assert second.counts == {"late": 4} and len(written) == 4
    second.put(Record(AT, 9, b"{"), "late: 5 ms")
    assert second.cut({AT: (10, 0), other: (3, 0)}) == {AT.index: {"late": 5}} and len(written) == 5


def test_one_reader_of_many_sets_a_record_aside() -> None:
    sink = MemorySink()
    for partitions in ([0, 1, 2], [AT.index]):
        letters = DeadLetters(sink, partitions=partitions)
        letters.put(Record(AT, 1, b"{"), "no JSON")
        assert letters.counts.total() == (AT.index in partitions)
    assert len(sink.payloads[Partition("dead_letters", AT.index)]) == 1


def test_replay_routes_by_user_keys_by_user_and_ends_every_partition() -> None:
    sink = MemorySink()
    assert replay(EVENTS, sink, num_partitions=4, facts_partitions=2) == ReplayCounts(impressions=1, actions=1, facts=2)
    assert len(sink.payloads) == 4 + 4 + 2
    assert all(payloads[-1] == END_PAYLOAD and payloads.count(END_PAYLOAD) == 1 for payloads in sink.payloads.values())
    at = {"impressions": partition_of(7, 4), "actions": partition_of(7, 4)}
    for topic, index in at.items():
        assert sink.keys[Partition(topic, index)] == [b"7", None]
    assert sink.keys[Partition("facts", partition_of("m1", 2))][-2] == b"m1"
    sent = {(topic, event) for topic, event in EVENTS if not isinstance(event, Facts)}
    found = {
        (at.topic, event)
        for at, events in sink.events().items()
        for event in events
        if at.topic in ("impressions", "actions")
    }
    assert found - {("impressions", END), ("actions", END)} == sent


def test_what_replay_sent_a_memory_source_reads() -> None:
    sink = MemorySink()
    replay(EVENTS, sink, num_partitions=2)
    source = MemorySource(sink.events())  # type: ignore[arg-type]
    records = source.next_batch()
    assert sum(record.payload == END for record in records) == 6
    assert [record.payload for record in records if record.partition.topic == "actions" and record.payload != END] == [
        EVENTS[-1][1]
    ]


def test_replay_waits_for_the_time_of_each_event_before_it_sends() -> None:
    sink = MemorySink()
    seen: list[tuple[int, int]] = []
    replay(EVENTS, sink, num_partitions=1, wait=lambda t: seen.append((t, sum(map(len, sink.payloads.values())))))
    assert seen == [(0, 0), (0, 1), (10, 2), (20, 3)]


MANY: list[tuple[str, Event]] = [
    sent
    for n in range(12)
    for sent in (
        ("impressions", Impression(f"r{n}", n % 5, n, 2 * n)),
        ("actions", Action(f"r{n}", n % 5, "a", 2 * n + 1)),
    )
]


def cut_off(sink: MemorySink, numbers: list[int]) -> MemorySink:
    """The first so many messages of each partition."""
    cut = MemorySink()
    for (partition, payloads), number in zip(sorted(sink.payloads.items()), numbers, strict=False):
        cut.payloads[partition] = payloads[:number]
    return cut


def sent_to(sink: MemorySink) -> dict[Partition, Sent]:
    return {at: Sent(len(payloads), payloads[-1] if payloads else b"") for at, payloads in sink.payloads.items()}


@given(st.lists(st.integers(0, 9), min_size=9, max_size=9))
def test_a_replay_that_was_cut_off_anywhere_goes_on(numbers: list[int]) -> None:
    """Each partition may have come to another place; what is there is neither waited for nor counted."""
    whole, waited = MemorySink(), []
    replay(MANY, whole, num_partitions=3)
    sink = cut_off(whole, numbers)
    num_there = {at: sum(payload != END_PAYLOAD for payload in payloads) for at, payloads in sink.payloads.items()}
    counts = replay(MANY, sink, num_partitions=3, wait=waited.append, sent=sent_to(sink))
    assert sink.payloads == whole.payloads
    for topic, count in (("impressions", counts.impressions), ("actions", counts.actions)):
        assert count == 12 - sum(number for at, number in num_there.items() if at.topic == topic)
    assert len(waited) == counts.impressions + counts.actions


@pytest.mark.parametrize("others", [MANY[2:], MANY[:-2], []])
def test_a_replay_does_not_go_on_after_another(others: list[tuple[str, Event]]) -> None:
    sink = MemorySink()
    replay(MANY, sink, num_partitions=1)
    with pytest.raises(
        DataError, match=r"the 13 messages in (impressions|actions)-0 are not the first 13 of this replay"
    ):
        replay(others, MemorySink(), num_partitions=1, sent=sent_to(sink))


def test_replay_takes_no_event_under_another_topic() -> None:
    with pytest.raises(DataError, match=r"can not replay Action\(.*\) on topic 'impressions'; topics are"):
        replay([("impressions", EVENTS[-1][1])], MemorySink(), num_partitions=1)
