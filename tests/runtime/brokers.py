"""Brokers with the topics of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.runtime.events import KafkaEvents
from recsys.streams.kafka_topics import create_topics


@contextmanager
def broker(folder: Path, num_partitions: int) -> Iterator[KafkaEvents]:
    """A Kafka with empty topics, for the time of the block; the test is skipped where there can be none."""
    reason = kafka_unavailable()
    if reason:
        pytest.skip(reason)
    with EmbeddedKafka(folder) as kafka:
        events = KafkaEvents(bootstrap_servers=kafka.bootstrap_servers, num_partitions=num_partitions)
        create_topics(kafka.bootstrap_servers, events.topics)
        yield events
