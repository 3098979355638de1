"""Replay recorded events into a Kafka: ``python -m jobs.replay kafka.bootstrap_servers=HOST:PORT``."""

from pathlib import Path
from typing import Any

from jobs.launch import job
from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import replay_events
from recsys.embedded.kafka import check_kafka, create_topics
from recsys.events import ACTIONS, FACTS, IMPRESSIONS
from recsys.runtime.events import KafkaEvents
from recsys.runtime.replaying import send_paced


@job("replay")
def main(config: dict[str, Any], folder: Path) -> None:
    """Send facts, impressions and actions in the order of their times; ``end`` closes every partition after them."""
    kafka = KafkaEvents(
        bootstrap_servers=config["kafka"]["bootstrap_servers"],
        num_partitions=config["num_partitions"],
        security=config["kafka"]["security"],
    )
    check_kafka(kafka.bootstrap_servers)
    create_topics(kafka.bootstrap_servers, kafka.topics)
    prepared = open_prepared(Path(config["data"]["folder"]), config["data"]["name"])
    counts = send_paced(
        replay_events(prepared, config["limit"]),
        kafka,
        events_per_second=config["events_per_second"],
        closes=(FACTS, IMPRESSIONS, ACTIONS) if config["end"] else (),
    )
    print(f"sent {counts.facts:,} facts, {counts.impressions:,} impressions, {counts.actions:,} actions")


if __name__ == "__main__":
    main()
