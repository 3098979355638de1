"""Whether a Kafka answers, and the topics that a run needs of it."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from recsys.errors import ConfigError, ServiceError
from recsys.streams.kafka_client import KafkaAdminClient, KafkaError, connect

_TOPIC_ALREADY_EXISTS = 36


def check_kafka(bootstrap_servers: str, *, security: Mapping[str, Any] = {}, timeout_seconds: float = 5.0) -> None:
    """Return if a Kafka that takes these credentials answers at one of ``host:port,host:port``.

    Raises what ``recsys.streams.kafka_client.connect`` raises.
    """
    connect(KafkaAdminClient, bootstrap_servers, security=security, timeout_seconds=timeout_seconds).close()


def create_topics(
    bootstrap_servers: str,
    num_partitions: Mapping[str, int],
    *,
    security: Mapping[str, Any] = {},
    timeout_seconds: float = 5.0,
) -> None:
    """Create the topics that are not there yet, and wait until all have a leader.

    Replication is the broker's default. Raises ConfigError where a topic exists with another number of
    partitions, ServiceError where the broker does not answer or refuses.
    """
    from kafka.errors import for_code

    wanted = {topic: {"num_partitions": count} for topic, count in num_partitions.items()}
    client = connect(KafkaAdminClient, bootstrap_servers, security=security, timeout_seconds=timeout_seconds)
    try:
        with closing(client) as admin:
            present = set(admin.list_topics())
            missing = {topic: options for topic, options in wanted.items() if topic not in present}
            # Another process may be creating the same ones: that they exist by now is no error.
            created = admin.create_topics(missing, raise_errors=False)["topics"] if missing else []
            for topic in created:
                if topic["error_code"] not in (0, _TOPIC_ALREADY_EXISTS):
                    raise for_code(topic["error_code"])(topic["error_message"])
            admin.wait_for_topics(wanted)
            found = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(list(wanted))}
    except KafkaError as error:
        message = f"Kafka at {bootstrap_servers} did not create the topics {', '.join(wanted)}: {error}"
        raise ServiceError(message) from error
    for topic, count in num_partitions.items():
        if found[topic] != count:
            message = (
                f"topic {topic!r} has {found[topic]} partitions, {count} were asked for; "
                f"ask for {found[topic]}, or delete the topic"
            )
            raise ConfigError(message)
