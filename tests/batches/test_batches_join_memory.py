"""What a joiner on disk takes of memory: no more than it is told, whatever comes."""

import itertools
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recsys.batches.disk_state import JoinerDisk
from recsys.batches.join import ActionKind, JoinConfig
from recsys.batches.joined import JoinedStream
from recsys.events import ACTIONS, END, FACTS, IMPRESSIONS, Action, EndMarker, Event, Impression
from recsys.features.declarations import Feature
from recsys.streams.dead_letters import DeadLetters
from recsys.streams.memory import MemorySource
from recsys.streams.sink import MemorySink
from recsys.streams.source import Partition

IN_MEMORY = "/dev/shm" if Path("/dev/shm").exists() else None
FEATURES = [
    Feature(name="item", kind="id", source="item.id"),
    Feature(name="shown", kind="bag", source="user.shown"),
    Feature(name="likes", kind="bag", source="user.likes"),
]
CONFIG = JoinConfig(actions={"like": ActionKind(window_seconds=1e6), "view": ActionKind(window_seconds=1e6)})
MEMORY_MB = 2.0
CHUNK = 1000  # events put in at once, as a broker hands them out


def never_an_action() -> Iterator[Event]:
    """All wait: none of the windows ends before the stream does."""
    return (Impression(f"request-{n:08d}", n % 5000, n % 100, n) for n in itertools.count())


def one_hot_user() -> Iterator[Event]:
    return (Impression(f"request-{n:08d}", 7, n % 100, n) for n in itertools.count())


def one_hot_request() -> Iterator[Event]:
    """Actions on one id, early all of them; then the impression would come."""
    return (Action("hot", 7, ("like", "view")[n % 2], n) for n in itertools.count())


def actions_of_nothing() -> Iterator[Event]:
    return (Action(f"request-{n:08d}", 7, "like", n) for n in itertools.count())


@pytest.mark.parametrize("events", [never_an_action, one_hot_user, one_hot_request, actions_of_nothing])
def test_memory_is_flat(events: Callable[[], Iterator[Event]]) -> None:
    """Python's own, at the second half of the stream beside the first; that of RocksDB is its configuration's."""
    coming = events()
    lists: dict[Partition, list[Event]] = {Partition(topic, 0): [] for topic in (IMPRESSIONS, ACTIONS, FACTS)}
    lists[Partition(FACTS, 0)].append(END)
    quiet = Partition(ACTIONS if isinstance(next(coming), Impression) else IMPRESSIONS, 0)
    lists[quiet].append(END)
    loud = lists[Partition(ACTIONS if quiet.topic == IMPRESSIONS else IMPRESSIONS, 0)]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        disk = JoinerDisk(Path(folder), [0], origin="o", memory_mb=MEMORY_MB)
        stream = JoinedStream(
            MemorySource(lists),
            partitions=[0],
            config=CONFIG,
            features=FEATURES,
            dead_letters=DeadLetters(MemorySink()),
            clock=lambda: 1e9,
            disk=disk,
        )
        tracemalloc.start()
        held_mb = []
        for _ in range(20):
            loud += itertools.islice(coming, CHUNK)
            stream.poll([0], 0, CHUNK)
            stream.commit({})
            held_mb.append(tracemalloc.get_traced_memory()[0] / 2**20 - _sent_mb(loud))
        tracemalloc.stop()
        assert max(held_mb[10:]) < max(held_mb[:10]) + 0.7
        assert max(held_mb) < MEMORY_MB / 2 + 2
        loud.append(END)
        num_examples = _drain(stream)
        counts = stream.counts()
        assert num_examples == counts["impressions"] == counts["examples"]
        assert counts["impressions"] + counts["actions"] == 20 * CHUNK
        assert counts["actions"] == counts["actions_without_impression"] + counts["actions_too_early"]
        disk.close()


def _sent_mb(events: list[Event]) -> float:
    """The test's own list, which a broker would hold."""
    return len(events) * 200 / 2**20


def _drain(stream: JoinedStream) -> int:
    """The number of examples up to the end; no poll returns more than a few thousand."""
    num_examples = 0
    while not stream.ended:
        for _, part in stream.poll([0], 0, CHUNK):
            if not isinstance(part, EndMarker):
                assert part.rows.num_rows <= 10_000
                num_examples += part.rows.num_rows
        stream.commit({})
    return num_examples
