"""A joiner on disk that dies anywhere: what its topic holds in the end is what a joiner in memory makes, once."""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from disorder import CONFIG, disorderly, with_junk
from hypothesis import given, settings
from hypothesis import strategies as st
from joined_timeline import Lists, Row, drain, in_lists, joined_stream, memory_stream, rows_of, timeline

from recsys.batches.disk_state import JoinerDisk
from recsys.batches.examples import decode_rows
from recsys.batches.joined import JoinedStream
from recsys.batches.outbox import Number, Outbox
from recsys.events import END_PAYLOAD, EXAMPLES, FACTS, IMPRESSIONS
from recsys.streams.memory import ABORT, Aborted, MemorySource
from recsys.streams.sink import MemorySink
from recsys.streams.source import Partition

TINY_MB = 0.01
IN_MEMORY = "/dev/shm" if Path("/dev/shm").exists() else None  # opening a database waits for the disk some ten times


class Life:
    """A joiner of some partitions from its start to its death, over a topic that outlives it."""

    def __init__(
        self,
        lists: Lists,
        folder: Path,
        topic: MemorySink,
        num_partitions: int,
        partitions: Sequence[int] | None = None,
        states: Sequence[dict[str, Any]] = (),
        name: str = "a",
        memory_mb: float = TINY_MB,
    ) -> None:
        mine = list(range(num_partitions) if partitions is None else partitions)
        self.topic = topic
        self.disk = JoinerDisk(folder, mine, origin=name, memory_mb=memory_mb)
        source = MemorySource({p: items for p, items in lists.items() if p.topic == FACTS or p.index in mine})
        self.stream, self.letters = joined_stream(
            source, num_partitions, partitions=mine, config=CONFIG, disk=self.disk, restored=states
        )
        self.outbox = Outbox(self.disk, {index: last_number(topic, index) for index in mine})
        self.send()

    def step(self, max_events: int) -> bool:
        """Poll and commit; whether anything came."""
        parts = self.stream.poll(self.stream.partitions, 0, max_events)
        self.stream.commit(self.outbox.messages(parts))
        return bool(parts)

    def send(self, limit: int | None = None) -> None:
        """Produce all that is waiting, or die after ``limit`` messages."""
        waiting = self.outbox.unsent()[:limit]
        self.outbox.produce(self.topic, waiting)
        if limit is None:
            self.outbox.sent(waiting)

    def to_the_end(self, max_events: int = 50) -> None:
        for _ in range(2000):
            self.step(max_events)
            self.send()
            if self.stream.ended:
                return
        raise AssertionError("the stream did not end")

    def die(self) -> None:
        """Nothing is written but by commits: what was not committed is lost."""
        self.disk.close()


def last_number(topic: MemorySink, index: int) -> Number | None:
    headers = topic.headers.get(Partition(EXAMPLES, index))
    return Number.of(headers[-1]) if headers else None


def rows_in(topic: MemorySink, index: int) -> list[Row]:
    """The examples of a partition; every message and every example comes once, in the order of its number."""
    rows: list[Row] = []
    partition = Partition(EXAMPLES, index)
    numbers = [Number.of(headers) for headers in topic.headers.get(partition, [])]
    assert [number.sequence for number in numbers if number] == list(range(1, len(numbers) + 1))
    for payload, number in zip(topic.payloads.get(partition, []), numbers, strict=True):
        if payload != END_PAYLOAD:
            part = decode_rows(payload)
            assert part.first == len(rows)
            rows += rows_of(part)
        assert number is not None and number.next == len(rows)
    return rows


def assert_as_in_memory(lives: Sequence[Life], lists: Lists, topic: MemorySink, num_partitions: int) -> None:
    whole = memory_stream(lists, num_partitions, config=CONFIG)
    assert {index: rows_in(topic, index) for index in range(num_partitions)} == drain(whole)
    ends = [topic.payloads[Partition(EXAMPLES, index)].count(END_PAYLOAD) for index in range(num_partitions)]
    assert ends == [1] * num_partitions
    for name, count in whole.counts().items():
        if name not in ("facts", "dead_letters"):  # every joiner reads all facts
            assert sum(life.stream.counts()[name] for life in lives) == count, name
    assert histories([life.stream for life in lives]) == histories([whole])
    for life in lives:
        for of in ("profiles", "items"):
            assert sorted(map(repr, life.stream.features.to_json()[of])) == sorted(
                map(repr, whole.features.to_json()[of])
            )


def histories(streams: Sequence[JoinedStream]) -> list[str]:
    return sorted(repr(history) for stream in streams for history in stream.features.to_json()["histories"])


def die_somewhere(draw: random.Random, life: Life) -> None:
    """One of the ways to die around a commit."""
    life.step(draw.choice([1, 3, 10, 40]))
    how = draw.choice(["before produce", "mid-produce", "before removal", "uncommitted"])
    if how == "mid-produce":
        life.send(limit=draw.randrange(3))
    elif how == "before removal":
        life.send()
    elif how == "uncommitted":
        life.stream.poll(life.stream.partitions, 0, draw.choice([1, 5, 20]))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.lists(st.integers(0, 40), max_size=3), st.integers())
def test_whatever_it_dies_of_every_example_is_in_the_topic_once(
    num_partitions: int, deaths: list[int], seed: int
) -> None:
    draw = random.Random(seed)
    lists = with_junk(in_lists(disorderly(draw), num_partitions), draw)
    topic = MemorySink()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        for number, num_steps in enumerate(deaths):
            life = Life(lists, Path(folder), topic, num_partitions, name=f"life-{number}")
            for _ in range(num_steps):
                life.step(draw.choice([1, 3, 10]))
                life.send()
            die_somewhere(draw, life)
            life.die()
        last = Life(lists, Path(folder), topic, num_partitions)
        last.to_the_end()
        assert_as_in_memory([last], lists, topic, num_partitions)
        last.die()


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 3), st.integers(0, 25), st.booleans(), st.integers())
def test_other_numbers_of_joiners_go_on_from_the_disk_or_from_a_checkpoint(
    num_partitions: int, num_steps: int, is_lost: bool, seed: int
) -> None:
    """Where folders are lost, the checkpoint is older than the topic: what that has already is not sent again."""
    draw = random.Random(seed)
    lists = in_lists(disorderly(draw), num_partitions)
    topic = MemorySink()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as first, tempfile.TemporaryDirectory(dir=IN_MEMORY) as second:
        life = Life(lists, Path(first), topic, num_partitions)
        for _ in range(num_steps):
            life.step(draw.choice([1, 3, 10]))
            life.send(limit=None if draw.random() < 0.8 else 0)
        state = json.loads(json.dumps(life.stream.state()))
        for _ in range(draw.randrange(10)):
            life.step(draw.choice([1, 3, 10]))
            life.send()
        life.die()
        folder = Path(second) if is_lost else Path(first)
        lives = [
            Life(lists, folder, topic, num_partitions, [index], [state], name="other")
            for index in draw.sample(range(num_partitions), num_partitions)
        ]
        for one in lives:
            one.to_the_end()
        assert_as_in_memory(lives, lists, topic, num_partitions)
        for one in lives:
            one.die()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        yield Path(name)


KillPoint = Callable[[Life], None]
KILL_POINTS: dict[str, KillPoint] = {
    "after the commit, before anything is produced": lambda life: None,
    "halfway through producing": lambda life: life.send(limit=1),
    "after producing, before the outbox forgets it": lambda life: life.send(limit=1000),
    "after the outbox forgot it, before that is committed": lambda life: life.send(),
}


@pytest.mark.parametrize("point", KILL_POINTS)
def test_the_kill_points(point: str, folder: Path) -> None:
    lists, topic = in_lists(timeline(60), 2), MemorySink()
    has_ended, num_lives = False, 0
    while not has_ended:
        life, num_lives = Life(lists, folder, topic, 2), num_lives + 1
        while not life.step(15):
            pass
        KILL_POINTS[point](life)
        life.die()
        has_ended = life.stream.ended
    assert num_lives > 3
    last = Life(lists, folder, topic, 2)
    assert last.outbox.unsent() == [] and last.stream.ended
    assert not last.step(50)  # it ended before, and says so no second time
    assert_as_in_memory([last], lists, topic, 2)
    last.die()


def test_a_source_that_fails_is_gone_on_with(tmp_path: Path) -> None:
    lists, topic = in_lists(timeline(60), 1), MemorySink()
    for at in (50, 20):
        lists[Partition(IMPRESSIONS, 0)].insert(at, ABORT)
    num_aborted = 0
    while True:
        life = Life(lists, tmp_path, topic, 1)
        try:
            life.to_the_end(7)
            break
        except Aborted:
            num_aborted += 1
            life.die()
    assert num_aborted == 2
    assert_as_in_memory([life], lists, topic, 1)
    life.die()


def test_what_another_run_left_in_the_topic_is_not_taken_for_its_own(tmp_path: Path) -> None:
    lists, topic = in_lists(timeline(30), 1), MemorySink()
    first = Life(lists, tmp_path / "first", topic, 1, name="first")
    first.to_the_end()
    first.die()
    both = MemorySink()
    partition = Partition(EXAMPLES, 0)
    for payload, headers in zip(topic.payloads[partition], topic.headers[partition], strict=True):
        both.send(partition, payload, headers=headers)
    second = Life(lists, tmp_path / "second", both, 1, name="second")
    second.to_the_end()
    second.die()
    num = len(topic.payloads[partition])
    assert sum(len(rows_of(decode_rows(p))) for p in both.payloads[partition][num:] if p != END_PAYLOAD) == 30
