"""Topics, and whether a broker answers; with credentials: test_kafka_security."""

from collections.abc import Iterator

import pytest

from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.errors import ConfigError, ServiceError
from recsys.streams.kafka_topics import check_kafka, create_topics


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    reason = kafka_unavailable()
    if reason is not None:
        pytest.skip(reason)
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka-topics")) as server:
        yield server


def test_topics_are_created_once_and_another_partition_count_is_an_error(kafka: EmbeddedKafka) -> None:
    create_topics(kafka.bootstrap_servers, {"one": 1})
    create_topics(kafka.bootstrap_servers, {"one": 1, "three": 3})
    with pytest.raises(ConfigError, match="topic 'three' has 3 partitions, 2 were asked for; ask for 3, or delete"):
        create_topics(kafka.bootstrap_servers, {"three": 2})


def test_a_topic_name_that_can_not_be(kafka: EmbeddedKafka) -> None:
    with pytest.raises(ServiceError, match="did not create the topics no good"):
        create_topics(kafka.bootstrap_servers, {"no good": 1})


def test_an_unknown_security_option_is_refused_before_anything_is_asked() -> None:
    for ask in (
        lambda: check_kafka("127.0.0.1:1", security={"user": "me"}),
        lambda: create_topics("127.0.0.1:1", {"one": 1}, security={"user": "me"}),
    ):
        with pytest.raises(ConfigError, match="unknown Kafka security option 'user'; known: security_protocol"):
            ask()


def test_check_kafka_tells_address_and_remedy() -> None:
    with pytest.raises(ServiceError) as error:
        check_kafka("127.0.0.1:1", timeout_seconds=0.3)
    assert str(error.value) == (
        "Kafka at 127.0.0.1:1 can not be reached within 0.3 s (Connection refused);"
        " start it, or correct bootstrap_servers"
    )


@pytest.mark.parametrize("address", ["localhost", "localhost:port", ":9092", "127.0.0.1:99999"])
def test_check_kafka_refuses_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="is no host:port; write one like localhost:9092"):
        check_kafka(address)


@pytest.mark.parametrize("protocol", [5, "plaintext", None])
def test_a_protocol_that_can_not_be_is_refused(protocol: object) -> None:
    """Anything else than a known one would be taken for plain text."""
    known = "known: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
    with pytest.raises(ConfigError, match=rf"unknown security_protocol .*; {known}"):
        check_kafka("127.0.0.1:1", security={"security_protocol": protocol})
