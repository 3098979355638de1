"""Topics, and credentials: against a real broker with a listener in plain text and one with passwords (SASL/PLAIN)."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.embedded.process import LOOPBACK, free_ports
from recsys.errors import ConfigError, ServiceError
from recsys.streams.kafka import KafkaSink, KafkaSource
from recsys.streams.kafka_topics import check_kafka, create_topics
from recsys.streams.source import Partition


class GuardedKafka(EmbeddedKafka):
    """A broker with a second listener, which asks for the password of the user ``ranker``."""

    def _write_properties(self) -> None:
        super()._write_properties()
        self.address = f"{LOOPBACK}:{free_ports(1)[0]}"
        path = self.folder / "kafka.properties"
        properties = dict(line.split("=", 1) for line in path.read_text().splitlines())
        for name in ("listeners", "advertised.listeners"):
            properties[name] += f",GUARDED://{self.address}"
        properties["listener.security.protocol.map"] += ",GUARDED:SASL_PLAINTEXT"
        properties["sasl.enabled.mechanisms"] = "PLAIN"
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        properties["listener.name.guarded.plain.sasl.jaas.config"] = f'{login} required user_ranker="sesame";'
        path.write_text("\n".join(f"{name}={value}" for name, value in properties.items()))


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    reason = kafka_unavailable()
    if reason is not None:
        pytest.skip(reason)
    with GuardedKafka(tmp_path_factory.mktemp("kafka-topics")) as server:
        yield server


def credentials(password: str) -> dict[str, Any]:
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "ranker",
        "sasl_plain_password": password,
    }


def test_topics_are_created_once_and_another_partition_count_is_an_error(kafka: GuardedKafka) -> None:
    create_topics(kafka.bootstrap_servers, {"one": 1})
    create_topics(kafka.bootstrap_servers, {"one": 1, "three": 3})
    with pytest.raises(ConfigError, match="topic 'three' has 3 partitions, 2 were asked for; ask for 3, or delete"):
        create_topics(kafka.bootstrap_servers, {"three": 2})


def test_a_topic_name_that_can_not_be(kafka: GuardedKafka) -> None:
    with pytest.raises(ServiceError, match="did not create the topics no good"):
        create_topics(kafka.bootstrap_servers, {"no good": 1})


def test_with_the_password_topics_are_created_written_and_read(kafka: GuardedKafka) -> None:
    security = credentials("sesame")
    partitions = [Partition("guarded", 0), Partition("guarded", 1)]
    check_kafka(kafka.address, security=security)
    create_topics(kafka.address, {"guarded": 2}, security=security)
    with KafkaSink(kafka.address, security=security) as sink:
        sink.send(partitions[1], b"a")
        sink.send(partitions[1], b"b")
    with KafkaSource(kafka.address, partitions, security=security) as source:
        records = [record for _ in range(20) for record in source.next_batch()]
    assert [(record.partition, record.offset, record.payload) for record in records] == [
        (partitions[1], 0, b"a"),
        (partitions[1], 1, b"b"),
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("leftovers")
@pytest.mark.parametrize("security", [credentials("open"), {}], ids=["wrong password", "no password"])
def test_without_it_one_line_says_so_soon(kafka: GuardedKafka, security: dict[str, Any]) -> None:
    started = time.monotonic()
    for ask in (
        lambda: check_kafka(kafka.address, security=security, timeout_seconds=1),
        lambda: create_topics(kafka.address, {"refused": 1}, security=security, timeout_seconds=1),
    ):
        with pytest.raises(ServiceError) as raised:
            ask()
        message = str(raised.value)
        assert message.startswith(f"what listens at {kafka.address} did not answer as Kafka within 1 s (")
        assert message.endswith("; check bootstrap_servers and the security options") and "\n" not in message
    assert time.monotonic() - started < 5


def test_an_unknown_security_option_is_refused_before_anything_is_asked() -> None:
    for ask in (
        lambda: check_kafka("127.0.0.1:1", security={"user": "me"}),
        lambda: create_topics("127.0.0.1:1", {"one": 1}, security={"user": "me"}),
    ):
        with pytest.raises(ConfigError, match="unknown Kafka security option 'user'; known: sasl_kerberos"):
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
