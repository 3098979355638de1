"""A replay into a real Kafka that is killed and goes on: each event is in its topic once, in order."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from brokers import broker

from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import replay_events
from recsys.errors import DataError, ServiceError
from recsys.events import ACTIONS, FACTS, IMPRESSIONS, Action, Event, Impression
from recsys.runtime.events import KafkaEvents
from recsys.runtime.replaying import Click, ReplayActor, with_clicks
from recsys.serving.clicks import Shown
from recsys.streams.kafka import KafkaSource
from recsys.streams.replay import replay
from recsys.streams.sink import MemorySink
from recsys.streams.source import Partition

NUM_PARTITIONS = 3
TOPICS = (FACTS, IMPRESSIONS, ACTIONS)

REPLAY = """
import sys
from pathlib import Path
from recsys.runtime.events import KafkaEvents
from recsys.runtime.replaying import ReplayActor

servers, folder, events_per_second = sys.argv[1:]
events = KafkaEvents(bootstrap_servers=servers, num_partitions=3)
replayer = ReplayActor(Path(folder), "ml100k", events, float(events_per_second), None, resume=True)
replayer.send_facts()
replayer.send_events()
"""


@pytest.fixture
def events(tmp_path: Path) -> Iterator[KafkaEvents]:
    """A broker with the topics of a run, empty."""
    with broker(tmp_path / "kafka", NUM_PARTITIONS) as events:
        yield events


def num_sent(events: KafkaEvents) -> int:
    return sum(sent.num_messages for sent in events.sent(TOPICS).values())


def kill_after(events: KafkaEvents, films: Path, num_messages: int, events_per_second: float) -> None:
    """Let a process of its own replay until so many messages are there, then kill it."""
    arguments = [events.bootstrap_servers, str(films), str(events_per_second)]
    with subprocess.Popen([sys.executable, "-c", REPLAY, *arguments]) as process:
        while num_sent(events) < num_messages:
            assert process.poll() is None, "it came to its end before it was killed"
            time.sleep(0.02)
        process.kill()


def payloads(events: KafkaEvents) -> dict[Partition, list[bytes]]:
    """Everything in the topics."""
    wanted = [Partition(topic, index) for topic in TOPICS for index in range(NUM_PARTITIONS)]
    found: dict[Partition, list[bytes]] = {partition: [] for partition in wanted}
    with KafkaSource(events.bootstrap_servers, wanted) as source:
        while not all(map(source.caught_up, wanted)):
            for record in source.next_batch():
                assert isinstance(record.payload, bytes)
                found[record.partition].append(record.payload)
    return found


@pytest.mark.timeout(240)
def test_killed_again_and_again_a_replay_sends_each_event_once_and_in_order(films: Path, events: KafkaEvents) -> None:
    undisturbed = MemorySink()
    replay(replay_events(open_prepared(films)), undisturbed, num_partitions=NUM_PARTITIONS)
    num_messages = sum(map(len, undisturbed.payloads.values()))
    kill_after(events, films, 20, events_per_second=25.0)  # in the midst of the facts
    assert 20 <= num_sent(events) < 100
    for part in (4, 2):
        kill_after(events, films, num_messages // part, events_per_second=600.0)
        assert num_messages // part <= num_sent(events) < num_messages
    left = num_messages - num_sent(events)
    last = ReplayActor(films, "ml100k", events, None, None, resume=True)
    sent = sum(last.send_facts()) + sum(last.send_events())
    assert payloads(events) == undisturbed.payloads
    assert sent == left - 2 * NUM_PARTITIONS  # but for the end markers of impressions and actions

    again = ReplayActor(films, "ml100k", events, 1.0, None, resume=True)  # at a pace that would take an hour
    assert sum(again.send_facts()) + sum(again.send_events()) == 0
    other = ReplayActor(films, "ml100k", events, None, 500, resume=True)
    with pytest.raises(DataError, match=r"are not the first \d+ of this replay"):
        other.send_events()
    assert payloads(events) == undisturbed.payloads


def test_a_click_goes_between_two_events_at_the_time_of_the_first() -> None:
    """As an impression and an action on it, so that nothing comes between that would close its window."""
    clicks: SimpleQueue[Click] = SimpleQueue()
    early, late = Click(Shown("page-a-0", 7, 30), "like"), Click(Shown("page-a-1", 7, 31), "skip")
    clicks.put(early)

    def recorded() -> Iterator[tuple[str, Event]]:
        yield IMPRESSIONS, Impression("r1", 1, 2, 1_000)
        yield IMPRESSIONS, Impression("r2", 1, 3, 90_000)
        clicks.put(late)
        yield ACTIONS, Action("r2", 1, "like", 95_001)

    assert list(with_clicks(recorded(), clicks)) == [
        (IMPRESSIONS, Impression("r1", 1, 2, 1_000)),
        (IMPRESSIONS, Impression("page-a-0", 7, 30, 1_000)),
        (ACTIONS, Action("page-a-0", 7, "like", 1_001)),
        (IMPRESSIONS, Impression("r2", 1, 3, 90_000)),
        (IMPRESSIONS, Impression("page-a-1", 7, 31, 90_000)),
        (ACTIONS, Action("page-a-1", 7, "skip", 90_001)),
        (ACTIONS, Action("r2", 1, "like", 95_001)),
    ]
    assert [click.time_ms.result(0) for click in (early, late)] == [1_001, 90_001]


def test_a_click_into_a_replay_that_sends_nothing_is_told_so(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.runtime.replaying._CLICK_SECONDS", 0.05)
    replayer = ReplayActor(films, "ml100k", KafkaEvents(bootstrap_servers="nowhere:1", num_partitions=1), None, None)
    with pytest.raises(ServiceError, match="the replay sends nothing now"):
        replayer.act(Shown("page-a-0", 7, 30), "like")
