"""Kafka as source and sink, against a real broker: what the contract suite can not ask."""

import gc
import logging
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka.errors import KafkaConnectionError

from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.embedded.process import free_ports
from recsys.errors import ConfigError, DataError, ServiceError
from recsys.events import END_PAYLOAD, Action, Facts, Impression, decode
from recsys.runtime.sections import start_of
from recsys.streams.kafka import KafkaSink, KafkaSource
from recsys.streams.kafka_topics import create_topics
from recsys.streams.partitioner import partition_of
from recsys.streams.replay import ReplayCounts, replay
from recsys.streams.source import Partition

_numbers = count()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    reason = kafka_unavailable()
    if reason:
        pytest.skip(reason)
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka-streams")) as kafka:
        yield kafka.bootstrap_servers


@pytest.fixture
def topic(servers: str) -> str:
    """A topic of two partitions that nobody else uses."""
    name = f"topic{next(_numbers)}"
    create_topics(servers, {name: 2})
    return name


def send(servers: str, partition: Partition, *payloads: bytes) -> None:
    with KafkaSink(servers, linger_ms=0) as sink:
        for payload in payloads:
            sink.send(partition, payload, key=b"k")


def read(source: KafkaSource, num_records: int) -> list[bytes]:
    payloads: list[bytes] = []
    for _ in range(100):
        if len(payloads) >= num_records:
            break
        payloads += [record.payload for record in source.next_batch() if isinstance(record.payload, bytes)]
    return payloads


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("kind", ["source", "sink"])
def test_a_broker_that_is_not_there_is_named_with_a_remedy(kind: str) -> None:
    address = f"127.0.0.1:{closed_port()}"
    with pytest.raises(ServiceError) as raised:
        if kind == "source":
            KafkaSource(address, [Partition("actions", 0)], timeout_seconds=0.3)
        else:
            KafkaSink(address, timeout_seconds=0.3)
    assert str(raised.value) == (
        f"Kafka at {address} can not be reached within 0.3 s (Connection refused);"
        " start it, or correct bootstrap_servers"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("leftovers")
def test_something_that_is_no_kafka_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ServiceError, match=f"what listens at {address} did not answer as Kafka within 0.5 s"):
            KafkaSource(address, [Partition("actions", 0)], timeout_seconds=0.5)


@pytest.mark.parametrize("address", ["localhost", "localhost:", "localhost:0", ":9092", "a:1,b"])
def test_an_address_that_can_not_be(address: str) -> None:
    with pytest.raises(ConfigError, match="is no host:port; write one like localhost:9092"):
        KafkaSource(address, [Partition("actions", 0)])


def test_unknown_security_options_and_starts_list_the_known(servers: str, topic: str) -> None:
    with pytest.raises(ConfigError, match="unknown Kafka security option 'user'; known: security_protocol"):
        KafkaSink(servers, security={"user": "me"})
    with pytest.raises(ConfigError, match="start='newest' can not be; use earliest, latest, or a time"):
        KafkaSource(servers, [Partition(topic, 0)], start="newest")  # type: ignore[arg-type]


def test_security_options_reach_the_client(servers: str, topic: str) -> None:
    with KafkaSource(servers, [Partition(topic, 0)], security={"security_protocol": "PLAINTEXT"}) as source:
        assert source.next_batch(timeout_seconds=0) == []


def test_a_missing_topic_lists_the_topics(servers: str, topic: str) -> None:
    message = f"Kafka at {servers} has no topic 'nope'; it has .*{topic}.*; create it, or correct the name"
    with pytest.raises(ServiceError, match=message):
        KafkaSource(servers, [Partition("nope", 0)])
    with KafkaSink(servers) as sink, pytest.raises(ServiceError, match=message):
        sink.send(Partition("nope", 0), b"x")


def test_a_missing_partition_lists_the_partitions(servers: str, topic: str) -> None:
    message = f"there is no {topic}-2; topic '{topic}' has partitions 0, 1"
    with pytest.raises(DataError, match=message):
        KafkaSource(servers, [Partition(topic, 0), Partition(topic, 2)])
    with KafkaSink(servers) as sink, pytest.raises(DataError, match=message):
        sink.send(Partition(topic, 2), b"x")


def test_start_at_the_latest_or_at_a_time(servers: str, topic: str) -> None:
    partitions = [Partition(topic, 0), Partition(topic, 1)]
    send(servers, partitions[0], b"a", b"b")
    with KafkaSource(servers, partitions, start="latest") as source:
        assert source.position() == {partitions[0]: 2, partitions[1]: 0}
        assert all(source.caught_up(partition) for partition in partitions)
        send(servers, partitions[0], b"c")
        assert read(source, 1) == [b"c"]
    for time_ms, offset in ((0, 0), (2**42, 3)):  # before all messages; a century ahead
        with KafkaSource(servers, partitions, start=time_ms) as source:
            assert source.position() == {partitions[0]: offset, partitions[1]: 0}


def test_start_at_a_time_between_two_messages(servers: str, topic: str) -> None:
    """In words, as a configuration says it; the time is that of the messages."""
    partition, noon_ms = Partition(topic, 0), 1_769_860_800_000
    with KafkaSink(servers) as sink:
        for seconds in (-1, 0, 60):
            sink._producer.send(topic, b"%d" % seconds, partition=0, timestamp_ms=noon_ms + 1000 * seconds)
    for said, first in (
        ("2026-01-31T12:00", b"0"),
        ("2026-01-31T13:00:00.001+01:00", b"60"),
        (noon_ms - 1, b"0"),
        ("2026-01-31", b"-1"),
    ):
        with KafkaSource(servers, [partition], start=start_of(said)) as source:  # type: ignore[arg-type]
            assert read(source, 1)[0] == first


def test_the_oldest_unread_message_is_told_by_its_time(servers: str, topic: str) -> None:
    partition, noon_ms = Partition(topic, 0), 1_769_860_800_000
    with KafkaSink(servers) as sink:
        for minute in range(3):
            sink._producer.send(topic, b"%d" % minute, partition=0, timestamp_ms=noon_ms + 60_000 * minute)
    with KafkaSource(servers, [partition, Partition(topic, 1)]) as source:
        for minute in range(3):
            payloads: list[bytes] = []
            while not payloads:
                payloads = [record.payload for record in source.next_batch(1)]  # type: ignore[misc]
            assert payloads == [b"%d" % minute]
            unread = {partition: noon_ms + 60_000 * (minute + 1)} if minute < 2 else {}
            assert source.unread_since_ms() == unread


def test_small_messages_and_large_ones_come_byte_for_byte(servers: str, topic: str) -> None:
    partition = Partition(topic, 0)
    sent = [b"\x00\xff", bytes(range(256)) * 3900, b"{}", b"y" * 1_000_000, b""]
    send(servers, partition, *sent)
    with KafkaSource(servers, [partition], fetch_bytes=64 * 2**10) as source:
        assert read(source, len(sent)) == sent


def test_a_held_back_partition_is_not_called_idle_while_messages_arrive(servers: str, topic: str) -> None:
    held, other = Partition(topic, 0), Partition(topic, 1)
    with KafkaSource(servers, [held, other]) as source:
        assert source.next_batch(timeout_seconds=0.05, only=[other]) == []
        assert source.caught_up(held)
        send(servers, held, b"late")
        assert source.next_batch(timeout_seconds=0.05, only=[other]) == []
        assert not source.caught_up(held)
        assert source.lag() == {held: 1, other: 0}
        assert read(source, 1) == [b"late"]
        assert source.caught_up(held)


def test_offsets_without_a_message_are_passed_over(servers: str, topic: str) -> None:
    """The commit marker of a transaction takes an offset, as compaction leaves some empty."""
    from kafka import KafkaProducer

    partition = Partition(topic, 0)
    producer = KafkaProducer(bootstrap_servers=servers, transactional_id=topic)
    producer.init_transactions()
    for payload in (b"a", b"b"):
        producer.begin_transaction()
        producer.send(topic, payload, partition=0)
        producer.commit_transaction()
    producer.close()
    with KafkaSource(servers, [partition]) as source:
        records = []
        for _ in range(20):
            records += source.next_batch()
        assert [(record.offset, record.payload) for record in records] == [(0, b"a"), (2, b"b")]
        assert source.position() == {partition: 4}
        assert source.caught_up(partition)
        source.seek({partition: 1})
        assert read(source, 1) == [b"b"]


def test_what_retention_has_deleted_is_an_error_not_a_jump(servers: str, topic: str) -> None:
    partition = Partition(topic, 0)
    send(servers, partition, *(b"%d" % number for number in range(10)))
    with KafkaSource(servers, [partition]) as source:
        delete_before(servers, partition, 6)
        with pytest.raises(DataError, match=f"offset 0 of {topic}-0 is gone, Kafka keeps it from 6 on"):
            read(source, 10)
        with pytest.raises(DataError, match=f"can not seek to offset 5 of {topic}-0, which holds 6 to 10"):
            source.seek({partition: 5})
        source.seek({partition: 8})
        assert read(source, 2) == [b"8", b"9"]


def delete_before(servers: str, partition: Partition, offset: int) -> None:
    from kafka import KafkaAdminClient, TopicPartition

    with KafkaAdminClient(bootstrap_servers=servers) as admin:
        admin.delete_records({TopicPartition(partition.topic, partition.index): offset})


def test_a_message_the_broker_refuses_is_raised_and_stays_raised(servers: str, topic: str) -> None:
    partition = Partition(topic, 0)
    sink = KafkaSink(servers, timeout_seconds=5)
    sink.send(partition, bytes(2 * 2**20))  # the broker takes 1 MiB
    for call in (sink.flush, lambda: sink.send(partition, b"x"), sink.close):
        with pytest.raises(ServiceError, match=f"Kafka at {servers} did not take a message .*last checkpoint"):
            call()
    sink.close()


def test_a_message_larger_than_the_sink_takes(servers: str, topic: str) -> None:
    with KafkaSink(servers, max_message_bytes=1000) as sink:
        with pytest.raises(DataError, match=f"a message of 1001 bytes for {topic}-0; at most 1000 are taken"):
            sink.send(Partition(topic, 0), bytes(1001))
        sink.send(Partition(topic, 0), b"small")


def test_a_full_buffer_makes_send_wait_and_loses_nothing(servers: str, topic: str) -> None:
    partition = Partition(topic, 0)
    sent = [b"%04d" % number * 100 for number in range(500)]
    with KafkaSink(servers, buffer_bytes=10_000, linger_ms=0) as sink:
        for payload in sent:
            sink.send(partition, payload)
    with KafkaSource(servers, [partition]) as source:
        assert read(source, len(sent)) == sent


def test_replay_into_kafka_is_read_back_with_an_end_in_every_partition(servers: str) -> None:
    create_topics(servers, {"impressions": 3, "actions": 3, "facts": 2})
    events: list[tuple[str, Any]] = [
        ("facts", Facts("item", "m1", 0, {"title": "Heat"})),
        ("impressions", Impression("r1", "ann", "m1", 5)),
        ("impressions", Impression("r2", 42, "m1", 6)),
        ("actions", Action("r1", "ann", "like", 7)),
    ]
    with KafkaSink(servers) as sink:
        assert replay(events, sink, num_partitions=3, facts_partitions=2) == ReplayCounts(2, 1, 1)
    counts = {"impressions": 3, "actions": 3, "facts": 2}
    partitions = [Partition(topic, index) for topic, number in counts.items() for index in range(number)]
    with KafkaSource(servers, partitions) as source:
        found: dict[Partition, list[bytes]] = {partition: [] for partition in partitions}
        while not all(map(source.caught_up, partitions)):
            for record in source.next_batch():
                assert isinstance(record.payload, bytes)
                found[record.partition].append(record.payload)
    assert all(payloads[-1] == END_PAYLOAD and payloads.count(END_PAYLOAD) == 1 for payloads in found.values())
    events_back = [
        (at.topic, decode(at.topic, raw)) for at, raws in found.items() for raw in raws if raw != END_PAYLOAD
    ]
    assert sorted(map(repr, events_back)) == sorted(map(repr, events))
    assert len(found[Partition("actions", partition_of("ann", 3))]) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("leftovers")
def test_a_broker_that_dies_is_an_error_for_source_and_sink(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "kafka")  # a captured record keeps its exception, and that its socket
    reason = kafka_unavailable()
    if reason:
        pytest.skip(reason)
    errors = errors_after_the_broker_died(tmp_path / "kafka")
    gc.collect()
    assert "did not take a message" in errors["flush"]
    assert "did not take a message" in errors["close"]
    assert "asking for offsets failed" in errors["next_batch"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("leftovers")
@pytest.mark.long
def test_a_broker_that_was_killed_and_comes_back_is_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "kafka")
    reason = kafka_unavailable()
    if reason:
        pytest.skip(reason)
    folder, port, partition = tmp_path / "kafka", free_ports(1)[0], Partition("actions", 0)
    kafka = EmbeddedKafka(folder, port=port)
    servers = kafka.bootstrap_servers
    create_topics(servers, {"actions": 1})
    with KafkaSource(servers, [partition], timeout_seconds=60) as source, KafkaSink(servers) as sink:
        sink.send(partition, b"a")
        sink.flush()
        assert read(source, 1) == [b"a"]
        assert source.caught_up(partition)
        [broker] = psutil.Process(kafka.guard_pid).children()
        broker.kill()
        assert kafka.process.wait(10) is not None
        sink.send(partition, b"b")
        until = time.monotonic() + 6.5  # longer than the source waits before it asks
        while time.monotonic() < until:
            assert source.next_batch() == []
            assert source.lag() == {partition: 0}
        assert not source.caught_up(partition)  # its silence is the broker's
        assert source.away_seconds() > 0
        with EmbeddedKafka(folder, port=port) as again:
            assert again.bootstrap_servers == servers
            sink.flush()
            assert read(source, 1) == [b"b"]
            assert source.away_seconds() == 0
            assert source.caught_up(partition)
            assert source.position() == {partition: 2}
    gc.collect()


def test_the_position_is_known_when_the_client_can_not_tell_it(
    servers: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the broker after a change of leader; a checkpoint must not depend on the answer."""
    send(servers, Partition(topic, 0), b"a", b"b", b"c")
    with KafkaSource(servers, [Partition(topic, 0)]) as source:
        assert read(source, 3) == [b"a", b"b", b"c"]

        def gone(*arguments: object, **options: object) -> int:
            raise KafkaConnectionError

        monkeypatch.setattr(source._consumer, "position", gone)
        assert source.position() == {Partition(topic, 0): 3}
        source.seek({Partition(topic, 0): 1})
        assert source.position() == {Partition(topic, 0): 1}


def errors_after_the_broker_died(folder: Path) -> dict[str, str]:
    partition = Partition("actions", 0)
    kafka = EmbeddedKafka(folder)
    try:
        servers = kafka.bootstrap_servers
        create_topics(servers, {"actions": 1})
        source = KafkaSource(servers, [partition], timeout_seconds=1)
        sink = KafkaSink(servers, timeout_seconds=2)
        sink.send(partition, b"a")
        sink.flush()
        assert read(source, 1) == [b"a"]
    finally:
        kafka.stop()
    sink.send(partition, b"b")
    errors = {
        "flush": service_error(sink.flush),
        "next_batch": service_error(lambda: [source.next_batch(timeout_seconds=0.1) for _ in range(100)]),
        "close": service_error(sink.close),
    }
    source.close()
    return errors


def service_error(call: Callable[[], object]) -> str:
    with pytest.raises(ServiceError) as raised:
        call()
    return str(raised.value)


def test_importing_the_client_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import recsys.streams.kafka_client as client
    assert client.KafkaError.__module__ == "kafka.errors"
