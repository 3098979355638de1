"""Replay recorded events into a Kafka: ``python -m jobs.replay kafka.bootstrap_servers=HOST:PORT``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jobs.launch import job
from jobs.sections import ExternalKafka
from recsys.features.declarations import DataSet
from recsys.fields import Above, AtLeast, build


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """What to send, how fast, and where to."""

    data: DataSet
    num_partitions: Annotated[int, AtLeast(1)]
    events_per_second: Annotated[float, Above(0)] | None
    limit: Annotated[int, AtLeast(1)] | None
    end: bool
    kafka: ExternalKafka


@job("replay")
def main(config: dict[str, Any], folder: Path) -> None:
    """Send facts, impressions and actions in the order of their times; ``end`` closes every partition after them."""
    settings = build(ReplaySettings, config, "")

    from recsys.datasets.prepared import open_prepared
    from recsys.datasets.replay import replay_events
    from recsys.events import ACTIONS, FACTS, IMPRESSIONS
    from recsys.runtime.events import KafkaEvents
    from recsys.runtime.replaying import send_paced
    from recsys.streams.kafka_topics import check_kafka, create_topics

    kafka = KafkaEvents(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        num_partitions=settings.num_partitions,
        security=settings.kafka.security,
    )
    check_kafka(kafka.bootstrap_servers, security=kafka.security)
    create_topics(kafka.bootstrap_servers, kafka.topics, security=kafka.security)
    prepared = open_prepared(settings.data.folder, settings.data.name)
    counts = send_paced(
        replay_events(prepared, settings.limit),
        kafka,
        events_per_second=settings.events_per_second,
        closes=(FACTS, IMPRESSIONS, ACTIONS) if settings.end else (),
    )
    print(f"sent {counts.facts:,} facts, {counts.impressions:,} impressions, {counts.actions:,} actions")


if __name__ == "__main__":
    main()
