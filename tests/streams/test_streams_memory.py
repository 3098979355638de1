"""The memory source's control items: EOF, PAUSE and ABORT, and a crash followed by a resumption."""

import pytest

from recsys.events import END, Impression
from recsys.streams.memory import ABORT, EOF, PAUSE, Aborted, Item, MemorySource
from recsys.streams.sink import MemorySink
from recsys.streams.source import Partition, Record

A, B = Partition("t", 0), Partition("t", 1)


def payloads(records: list[Record]) -> list[object]:
    return [record.payload for record in records]


def test_eof_is_one_silent_call_during_which_the_partition_is_caught_up() -> None:
    source = MemorySource({A: [b"1", EOF, b"2"]})
    assert not source.caught_up(A)
    assert payloads(source.next_batch()) == [b"1"]
    assert source.caught_up(A)
    assert source.next_batch() == []
    assert source.caught_up(A)
    assert payloads(source.next_batch()) == [b"2"]
    assert source.caught_up(A)


def test_pause_is_one_silent_call_of_a_partition_that_has_more() -> None:
    source = MemorySource({A: [b"1", PAUSE, b"2"], B: [b"3", b"4"]})
    assert payloads(source.next_batch()) == [b"1", b"3", b"4"]
    assert not source.caught_up(A)
    assert source.next_batch() == []
    assert payloads(source.next_batch()) == [b"2"]


def test_control_items_of_a_held_back_partition_wait() -> None:
    source = MemorySource({A: [PAUSE, b"1"], B: [b"2", b"3"]})
    assert payloads(source.next_batch(1, only=[B])) == [b"2"]
    assert source.next_batch(only=[A]) == []
    assert payloads(source.next_batch(only=[A])) == [b"1"]


def test_offsets_count_data_only() -> None:
    source = MemorySource({A: [EOF, b"1", PAUSE, EOF, b"2", END]})
    records = [record for _ in range(8) for record in source.next_batch()]
    assert records == [Record(A, 0, b"1"), Record(A, 1, b"2"), Record(A, 2, END)]
    assert source.position() == {A: 3}


def test_a_crash_is_resumed_from_the_last_position_and_happens_once() -> None:
    lists: dict[Partition, list[Item]] = {A: [b"1", b"2", ABORT, b"3"], B: [b"4"]}
    source = MemorySource(lists)
    first = source.next_batch(2)
    position = source.position()
    second = source.next_batch()
    with pytest.raises(Aborted, match="t-0 at offset 2"):
        source.next_batch()
    resumed = MemorySource(lists)
    resumed.seek(position)
    again = resumed.next_batch()
    assert set(second) <= set(again)
    assert sorted(payloads(first + again)) == [b"1", b"2", b"3", b"4"]  # type: ignore[type-var]
    assert resumed.next_batch() == []


def test_records_of_other_partitions_are_not_lost_in_a_crash() -> None:
    source = MemorySource({A: [b"1"], B: [ABORT, b"2"]})
    assert payloads(source.next_batch()) == [b"1"]
    with pytest.raises(Aborted):
        source.next_batch()


def test_a_list_that_grows_is_a_live_topic() -> None:
    sink = MemorySink()
    sink.send(A, b"1")
    source = MemorySource(sink.payloads)  # type: ignore[arg-type]
    assert payloads(source.next_batch()) == [b"1"]
    assert source.caught_up(A)
    sink.send(A, b"2")
    assert not source.caught_up(A)
    assert source.lag() == {A: 1}
    assert source.next_batch() == [Record(A, 1, b"2")]


def test_events_are_delivered_as_they_are_and_partitions_take_turns() -> None:
    event = Impression("r", 1, 2, 3)
    source = MemorySource({A: [event] * 3, B: [b"x"] * 3})
    assert payloads(source.next_batch(2)) == [event, event]
    assert payloads(source.next_batch(2)) == [b"x", b"x"]
