"""Kafka over TLS with a login, against a real broker; secrets come from the environment and are shown nowhere."""

import ast
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guarded_kafka import USER, GuardedKafka, write_certificates
from kafka import KafkaAdminClient

from recsys.embedded.kafka import kafka_unavailable
from recsys.errors import ConfigError, ServiceError
from recsys.streams.kafka import KafkaSink, KafkaSource
from recsys.streams.kafka_topics import check_kafka, create_topics
from recsys.streams.security import SECRETS, SECURITY_OPTIONS, check_security, with_secrets
from recsys.streams.source import Partition

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "open-sesame-9f4c"
VARIABLE = "RECSYS_TEST_KAFKA_PASSWORD"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    reason = kafka_unavailable()
    if reason is not None:
        pytest.skip(reason)
    with GuardedKafka(tmp_path_factory.mktemp("kafka-guarded"), PASSWORD) as server:
        yield server


@pytest.fixture
def security(kafka: GuardedKafka, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv(VARIABLE, PASSWORD)
    return kafka.security(VARIABLE)


def test_with_the_password_topics_are_created_written_and_read(kafka: GuardedKafka, security: dict[str, Any]) -> None:
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


def refused(kafka: GuardedKafka, security: dict[str, Any], timeout_seconds: float = 1.0) -> str:
    """What every kind of client says, on one line and in time."""
    messages = set()
    for ask in (
        lambda: check_kafka(kafka.address, security=security, timeout_seconds=timeout_seconds),
        lambda: create_topics(kafka.address, {"refused": 1}, security=security, timeout_seconds=timeout_seconds),
        lambda: KafkaSource(
            kafka.address, [Partition("guarded", 0)], security=security, timeout_seconds=timeout_seconds
        ),
        lambda: KafkaSink(kafka.address, security=security, timeout_seconds=timeout_seconds),
    ):
        started = time.monotonic()
        with pytest.raises(ServiceError) as raised:
            ask()
        assert time.monotonic() - started < timeout_seconds + 2
        messages.add(str(raised.value))
    [message] = messages
    assert "\n" not in message and PASSWORD not in message
    return message


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("leftovers")
def test_a_wrong_password_is_one_line(
    kafka: GuardedKafka, security: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "close-sesame")
    message = refused(kafka, security)
    assert message.startswith(f"what listens at {kafka.address} did not answer as Kafka within 1 s (")
    assert "; perhaps it refuses the login of ranker by SCRAM-SHA-512); check bootstrap_servers" in message
    assert "close-sesame" not in message


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("leftovers")
def test_a_certificate_of_another_authority_is_one_line(
    kafka: GuardedKafka, security: dict[str, Any], tmp_path: Path
) -> None:
    message = refused(kafka, {**security, "ssl_cafile": str(write_certificates(tmp_path))})
    assert re.search(r"\(TLS: .*certificate.*\); check bootstrap_servers and the security options$", message), message


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("leftovers")
def test_a_client_in_plain_text_is_one_line(kafka: GuardedKafka) -> None:
    assert "did not answer as Kafka within 1 s" in refused(kafka, {})


def test_a_variable_that_is_not_set_is_named(security: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigError) as raised:
        check_kafka("127.0.0.1:1", security=security)
    assert str(raised.value) == (
        f"security.sasl_plain_password_env={VARIABLE}, but {VARIABLE} is not set on {socket.gethostname()}; set it "
        "where the job is started and, on a cluster, where each of its Ray nodes is"
    )


def test_a_file_that_is_not_there_is_named(security: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"security\.ssl_cafile=/no/ca\.pem is no file on .*; put it there"):
        check_kafka("127.0.0.1:1", security={**security, "ssl_cafile": "/no/ca.pem"})


LOGIN = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": USER}


@pytest.mark.parametrize(
    ("security", "says"),
    [
        ({"user": "me"}, r"unknown Kafka security option 'user'; known: security_protocol, sasl_mechanism"),
        ({"security_protocol": "SASL_SSL"}, r"unknown sasl_mechanism None; known: PLAIN, SCRAM-SHA-256"),
        (LOGIN, r"security\.sasl_plain_password_env is not given, sasl_mechanism=PLAIN asks for it"),
        ({**LOGIN, "sasl_plain_password_env": 7}, r"security\.sasl_plain_password_env is not given"),
        (
            {"sasl_mechanism": "PLAIN"},
            r"security\.sasl_mechanism is set, but security_protocol=PLAINTEXT does not log in; use SASL_SSL, or",
        ),
        ({"ssl_cafile": "ca.pem"}, r"security\.ssl_cafile is set, but security_protocol=PLAINTEXT is not encrypted"),
        ({"ssl_context": "any"}, r"unknown Kafka security option 'ssl_context'"),  # an object, not a value of YAML
    ],
)
def test_options_that_can_not_be(security: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_security(security)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_itself_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_security({**LOGIN, secret: PASSWORD})
    assert str(raised.value).startswith(f"security.{secret} would be saved with the run; ")
    assert f"name: {secret}_env=KAFKA_PASSWORD" in str(raised.value) and PASSWORD not in str(raised.value)


def test_secrets_are_read_for_the_client_alone() -> None:
    security = {**LOGIN, "sasl_plain_password_env": "A", "ssl_password_env": "B", "ssl_crlfile": None}
    taken = with_secrets(security, {"A": "first", "B": "other", "C": "third"})
    assert taken == {**LOGIN, "sasl_plain_password": "first", "ssl_password": "other"}
    assert "first" not in str(security)


def test_the_client_takes_every_option() -> None:
    taken = {option.removesuffix("_env") for option in SECURITY_OPTIONS}
    assert taken <= set(KafkaAdminClient.DEFAULT_CONFIG)
    assert {option for option in KafkaAdminClient.DEFAULT_CONFIG if option.startswith(("ssl_", "sasl_"))} - taken == {
        "ssl_context",
        "sasl_oauth_token_provider",  # objects both
    }


MAKERS = ("KafkaSource", "KafkaSink", "KafkaEvents", "check_kafka", "create_topics", "connect")


def test_no_client_is_made_without_the_security_options() -> None:
    """``connect`` makes every client but the embedded broker's own, and whoever makes one says which security."""
    num_calls = 0
    for path in [path for folder in ("recsys", "jobs", "deploy") for path in (ROOT / folder).rglob("*.py")]:
        if path.parent.name == "embedded":
            continue
        for call in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]:
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            assert name not in ("KafkaConsumer", "KafkaProducer", "KafkaAdminClient"), path
            if name in MAKERS and path.name != "local_cluster.py":  # with a broker of its own
                assert "security" in [keyword.arg for keyword in call.keywords], f"{path}:{call.lineno}: {name}"
                num_calls += 1
    assert num_calls > 12
