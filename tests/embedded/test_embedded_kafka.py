"""The embedded Kafka: messages through it, reopening, two at once; errors on one line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.errors import ConfigError, ServiceError
from recsys.streams.kafka_topics import check_kafka, create_topics

# kafka-python reads its schemas in a way that Python 3.11 deprecates and 3.13 allows again.
pytestmark = pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")

YEAR_1998_MS = 884_000_000_000


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    reason = kafka_unavailable()
    if reason is not None:
        pytest.skip(reason)
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


def produce(bootstrap_servers: str, topic: str, values: list[bytes], time_ms: int) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap_servers)
    try:
        for i, value in enumerate(values):
            producer.send(topic, value=value, partition=i % 2, timestamp_ms=time_ms)
        producer.flush()
    finally:
        producer.close()


def consume(bootstrap_servers: str, topic: str, count: int) -> list[tuple[int, int, bytes, int]]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, group_id=None, enable_auto_commit=False)
    try:
        consumer.assign([TopicPartition(topic, 0), TopicPartition(topic, 1)])
        consumer.seek_to_beginning()
        records: list[tuple[int, int, bytes, int]] = []
        for _ in range(50):
            for batch in consumer.poll(timeout_ms=200).values():
                records += [(record.partition, record.offset, record.value, record.timestamp) for record in batch]
            if len(records) >= count:
                break
        return sorted(records)
    finally:
        consumer.close()


def test_messages_come_back_with_offsets_and_event_times(kafka: EmbeddedKafka) -> None:
    create_topics(kafka.bootstrap_servers, {"actions": 2})
    produce(kafka.bootstrap_servers, "actions", [b"a", b"b", b"c"], time_ms=YEAR_1998_MS)
    assert consume(kafka.bootstrap_servers, "actions", count=3) == [
        (0, 0, b"a", YEAR_1998_MS),
        (0, 1, b"c", YEAR_1998_MS),
        (1, 0, b"b", YEAR_1998_MS),
    ]


def test_event_time_deletes_nothing_and_cuts_no_segment(kafka: EmbeddedKafka) -> None:
    create_topics(kafka.bootstrap_servers, {"replay": 2})
    for years in range(4):
        produce(kafka.bootstrap_servers, "replay", [b"a", b"b"], time_ms=YEAR_1998_MS + years * 31_536_000_000)
    assert len(consume(kafka.bootstrap_servers, "replay", count=8)) == 8
    segments = list((kafka.folder / "kafka-data" / "replay-0").glob("*.log"))
    assert [segment.name for segment in segments] == ["00000000000000000000.log"]
    from kafka import KafkaAdminClient
    from kafka.admin import ConfigResource

    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers) as admin:
        described = admin.describe_configs([ConfigResource("topic", "replay")], config_filter="all")
    assert described["topic"]["replay"]["retention.ms"]["value"] == "-1"


def test_a_port_in_use_is_refused_at_once(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"port {kafka.port} on 127.0.0.1 is in use; choose another with kafka.port="):
        EmbeddedKafka(tmp_path, port=kafka.port)


def test_one_server_per_folder(kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.embedded.kafka._LOCK_SECONDS", 0.1)
    with pytest.raises(ServiceError, match=r"a Kafka already runs in .*; wait for its job to end, or choose another"):
        EmbeddedKafka(kafka.folder)
    check_kafka(kafka.bootstrap_servers)


def test_a_second_one_beside_it_on_the_wheels_java_keeps_messages_over_a_restart(
    kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    folder = tmp_path / "a run, ü"
    no_java_on_path = {**os.environ, "PATH": ""}
    with EmbeddedKafka(folder, env=no_java_on_path) as second:
        create_topics(second.bootstrap_servers, {"actions": 2})
        produce(second.bootstrap_servers, "actions", [b"a", b"b"], time_ms=YEAR_1998_MS)
        assert second.bootstrap_servers != kafka.bootstrap_servers
    with EmbeddedKafka(folder) as reopened:
        records = consume(reopened.bootstrap_servers, "actions", count=2)
    assert [value for _, _, value, _ in records] == [b"a", b"b"]
