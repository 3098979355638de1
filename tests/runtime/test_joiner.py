"""A joiner between two topics of a real Kafka that dies before the broker has what it emitted, and goes on."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import broker

from recsys.batches.examples import decode_rows
from recsys.batches.join import ActionKind, JoinConfig
from recsys.batches.joined import StreamTimes
from recsys.errors import ServiceError
from recsys.events import END_PAYLOAD, Action, Event, Facts, Impression
from recsys.features.declarations import Feature
from recsys.runtime.events import KafkaEvents
from recsys.runtime.joiner import JoinerActor
from recsys.streams.kafka import KafkaSink
from recsys.streams.replay import replay
from recsys.streams.source import Headers, Partition

NUM_PARTITIONS, NUM_IMPRESSIONS = 2, 9000
BAD = {Partition("impressions", 1): [b"{", b"\xff"], Partition("facts", 0): [b'{"of":"user"}']}
CONFIG = JoinConfig(actions={"like": ActionKind(window_seconds=5, final=True)})
FEATURES = [
    Feature(name="item", kind="id", source="item.id"),
    Feature(name="likes", kind="bag", source="user.likes"),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
]
Row = dict[str, Any]


def recorded() -> Iterator[tuple[str, Event]]:
    """Impressions a second apart; a third of them is liked."""
    for user in range(5):
        yield "facts", Facts("user", user, 0, {"age": user})
    for n in range(NUM_IMPRESSIONS):
        yield "impressions", Impression(f"r{n}", n % 5, n % 7, 1000 * n)
        if n % 3 == 0:
            yield "actions", Action(f"r{n}", n % 5, "like", 1000 * n + 500)


class LosingSink(KafkaSink):
    """Stores what it is given at ``flush``, twice, and half of the third; then all is lost: a joiner that is killed."""

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__(bootstrap_servers)
        self._waiting: list[tuple[Partition, bytes, Headers]] = []
        self._num_stored = 0

    def send(self, partition: Partition, payload: bytes, key: bytes | None = None, headers: Headers = ()) -> None:
        self._waiting.append((partition, payload, headers))

    def flush(self) -> None:
        is_last = self._num_stored == 2 and len(self._waiting) > 1
        for partition, payload, headers in self._waiting[: 1 if is_last else None]:
            super().send(partition, payload, headers=headers)
        self._num_stored += bool(self._waiting)
        self._waiting = []
        super().flush()
        if is_last:
            raise ServiceError("the broker is gone")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LosingEvents(KafkaEvents):
    """A broker that dies."""

    def open_sink(self) -> KafkaSink:
        return LosingSink(self.bootstrap_servers)


@pytest.fixture
def events(tmp_path: Path) -> Iterator[KafkaEvents]:
    """A broker that holds the recorded events."""
    with broker(tmp_path / "kafka", NUM_PARTITIONS) as events:
        with events.open_sink() as sink:
            for partition, payloads in BAD.items():
                for payload in payloads:
                    sink.send(partition, payload)
            replay(recorded(), sink, num_partitions=NUM_PARTITIONS)
        yield events


@contextmanager
def joiner(
    events: KafkaEvents, folder: Path, *restored: dict[str, Any], disk: Path | None = None
) -> Iterator[JoinerActor]:
    """A joiner of all partitions, without Ray."""
    actor = JoinerActor(events, range(NUM_PARTITIONS), CONFIG, FEATURES, StreamTimes(), folder, restored, disk=disk)
    try:
        yield actor
    finally:
        actor.close()


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(state))
    return loaded


def messages(events: KafkaEvents) -> dict[int, list[bytes]]:
    """The topic of examples, by partition."""
    found: dict[int, list[bytes]] = {index: [] for index in range(NUM_PARTITIONS)}
    with events.open_examples(list(found), dict.fromkeys(found, 0)) as source:
        while not all(map(source.caught_up, source.partitions)):
            for record in source.next_batch():
                assert isinstance(record.payload, bytes)
                found[record.partition.index].append(record.payload)
    return found


def numbered(payloads: list[bytes]) -> dict[int, Row]:
    """Examples by number; each comes once, in order."""
    rows: dict[int, Row] = {}
    for part in [decode_rows(payload) for payload in payloads if payload != END_PAYLOAD]:
        assert part.first == len(rows)
        rows.update(enumerate(part.rows.drop_columns(["read_at_ms"]).to_pylist(), part.first))
    return rows


def undisturbed(events: KafkaEvents, folder: Path) -> dict[int, dict[int, Row]]:
    """What comes of the events, asked of a joiner directly."""
    parts: dict[int, list[bytes]] = {index: [] for index in range(NUM_PARTITIONS)}
    with joiner(events, folder) as actor:
        actor.read_from("me", dict.fromkeys(range(NUM_PARTITIONS), 0))
        while not all(END_PAYLOAD in payloads for payloads in parts.values()):
            for index, payload in actor.poll("me", range(NUM_PARTITIONS), 0.1):
                parts[index].append(payload)
    return {index: numbered(payloads) for index, payloads in parts.items()}


def num_rows(rows: dict[int, dict[int, Row]]) -> int:
    return sum(map(len, rows.values()))


def letters_of(events: KafkaEvents) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events.letters(range(NUM_PARTITIONS))]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("keeps_folder", [True, False])
def test_a_joiner_that_dies_halfway_through_producing(events: KafkaEvents, tmp_path: Path, keeps_folder: bool) -> None:
    """It goes on from its folder; or, where that is lost, from a state from before: each example is there once."""
    expected = undisturbed(events, tmp_path)
    with joiner(events, tmp_path) as at_first:
        state = through_json(at_first.state())
    with joiner(LosingEvents(**vars(events)), tmp_path, disk=tmp_path / "joiner") as losing:
        if not keeps_folder:
            state = through_json(losing.state())
        with pytest.raises(ServiceError, match="the broker is gone"):
            losing.run()
        emitted = sum(part["num_emitted"] for part in losing.state()["partitions"].values())
    stored = {index: numbered(payloads) for index, payloads in messages(events).items()}
    assert 0 < num_rows(stored) < emitted <= num_rows(expected) == NUM_IMPRESSIONS

    folder = tmp_path / ("joiner" if keeps_folder else "another")
    num_messages: dict[int, int] = {}
    for _ in range(2):  # the second time after a joiner that had come to the end, whose end is in the topic
        with joiner(events, tmp_path, state, disk=folder) as again:
            again.run()
            state = through_json(again.state())
        found = messages(events)
        assert {index: numbered(payloads) for index, payloads in found.items()} == expected
        assert all(payloads.count(END_PAYLOAD) == 1 and payloads[-1] == END_PAYLOAD for payloads in found.values())
        assert num_messages in ({}, {index: len(payloads) for index, payloads in found.items()})
        num_messages = {index: len(payloads) for index, payloads in found.items()}
        assert all(part["outbox"]["unsent"] == [] for part in state["partitions"].values())
        # set aside by four lives, counted in each and stored once
        letters = sorted((line["topic"], line["partition"], line["offset"]) for line in letters_of(events))
        assert letters == [("facts", 0, 0), ("impressions", 1, 0), ("impressions", 1, 1)]
        assert [sum(part["dead_letters"].values()) for _, part in sorted(state["partitions"].items())] == [1, 2]
