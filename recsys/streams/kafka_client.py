"""Connections to Kafka whose failures read as one line: who did not answer, and what to do."""

import contextlib
import logging
import socket
import ssl
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from recsys.errors import ConfigError, DataError, DependencyError, ServiceError
from recsys.streams.security import with_secrets
from recsys.streams.source import Partition

try:
    with warnings.catch_warnings():
        # The client reads its own schemas by a function that Python 3.11 and 3.12 call deprecated, 3.13 no
        # more.
        warnings.simplefilter("ignore", DeprecationWarning)
        from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
        from kafka.errors import KafkaError
        from kafka.net.compat import KafkaNetClient
except ImportError as error:
    message = "the Python client of Kafka is absent; pip install 'recsys[train]'"
    raise DependencyError(message) from error

# Without any handler Python prints the client's log to stderr; what matters of it is raised as one line
# instead.
logging.getLogger("kafka").addHandler(logging.NullHandler())

# The administrator lacks both, and needs neither.
_WHERE_KNOWN = {"allow_auto_create_topics": False, "metrics_enabled": False}

_TLS_SECONDS = 2.0

Client = TypeVar("Client", bound=KafkaConsumer | KafkaProducer | KafkaAdminClient)


def connect(
    client_class: type[Client],
    bootstrap_servers: str,
    *,
    security: Mapping[str, Any],
    timeout_seconds: float,
    **options: Any,
) -> Client:
    """A client of ``host:port,host:port``, connected within the timeout.

    ``security`` are options of ``recsys.streams.security``; secrets are read from the environment here. Raises
    ConfigError for an address or an option that can not be, ServiceError where no broker answers, or one that takes
    neither this login nor this certificate.
    """
    login = with_secrets(security)
    started = time.monotonic()
    _await_listener(bootstrap_servers, timeout_seconds)
    opened: list[Any] = []

    def open_network(**network_options: Any) -> Any:
        opened.append(KafkaNetClient(**network_options))
        return opened[0]

    try:
        return client_class(
            bootstrap_servers=bootstrap_servers.split(","),
            bootstrap_timeout_ms=max(1000, int((timeout_seconds + started - time.monotonic()) * 1000)),
            kafka_client=open_network,
            **{name: value for name, value in _WHERE_KNOWN.items() if name in client_class.DEFAULT_CONFIG},
            **login,
            **options,
        )
    except KafkaError as error:
        for network in opened:
            network.close()  # the constructor that failed leaves its thread and sockets
        message = (
            f"what listens at {bootstrap_servers} did not answer as Kafka within {timeout_seconds:g} s"
            f" ({_reason(bootstrap_servers, login, error)}); check bootstrap_servers and the security options"
        )
        raise ServiceError(message) from error


def _await_listener(bootstrap_servers: str, timeout_seconds: float) -> None:
    """Return when one of the addresses takes a TCP connection; ServiceError when none does in time."""
    addresses = [_parse(server) for server in bootstrap_servers.split(",")]
    deadline = time.monotonic() + timeout_seconds
    while True:
        reason = ""
        for address in addresses:
            try:
                socket.create_connection(address, timeout=max(0.1, deadline - time.monotonic())).close()
                return
            except OSError as error:
                reason = error.strerror or str(error)
        if time.monotonic() >= deadline:
            message = (
                f"Kafka at {bootstrap_servers} can not be reached within {timeout_seconds:g} s ({reason});"
                " start it, or correct bootstrap_servers"
            )
            raise ServiceError(message)
        time.sleep(0.1)


def _reason(bootstrap_servers: str, login: Mapping[str, Any], error: KafkaError) -> str:
    """Why no connection came about, as far as it can be known: a refusal that comes with the hang-up, kafka-python
    3.0.12 does not read."""
    refusal = _tls_refusal(bootstrap_servers, login)
    if refusal is None and "sasl_mechanism" in login:
        user = login.get("sasl_plain_username", "this process")
        return f"{error}; perhaps it refuses the login of {user} by {login['sasl_mechanism']}"
    return refusal or str(error)


def _tls_refusal(bootstrap_servers: str, login: Mapping[str, Any]) -> str | None:
    """What this side or the other has against the certificates, which the client does not tell; None where nothing."""
    if not login.get("security_protocol", "").endswith("SSL"):
        return None
    host, port = _parse(bootstrap_servers.split(",")[0])
    try:
        context = ssl.create_default_context(cafile=login.get("ssl_cafile"))
        context.check_hostname = login.get("ssl_check_hostname", True)
        if "ssl_certfile" in login:
            context.load_cert_chain(login["ssl_certfile"], login.get("ssl_keyfile"), login.get("ssl_password", ""))
        with socket.create_connection((host, port), _TLS_SECONDS) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return f"TLS: {error.verify_message}"
    except OSError as error:  # ssl.SSLError is one
        return f"TLS: {error.strerror or error}"
    return None


def _parse(server: str) -> tuple[str, int]:
    host, _, port = server.strip().rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        message = f"bootstrap_servers: {server!r} is no host:port; write one like localhost:9092"
        raise ConfigError(message)
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def kafka_errors(what: str, bootstrap_servers: str) -> Iterator[None]:
    """Turn the client's errors into a ServiceError that says what failed where."""
    try:
        yield
    except KafkaError as error:
        message = f"Kafka at {bootstrap_servers}: {what} failed ({error}); see the broker's log, then start again"
        raise ServiceError(message) from error


Topics = dict[str, set[int]]  # the partitions of every topic


def list_topics(consumer: KafkaConsumer, bootstrap_servers: str) -> Topics:
    """Every topic of the broker with its partitions, Kafka's own left out."""
    with kafka_errors("listing the topics", bootstrap_servers):
        names = sorted(topic for topic in consumer.topics() if not topic.startswith("__"))
        return {topic: consumer.partitions_for_topic(topic) for topic in names}


def check_partitions(partitions: Iterable[Partition], topics: Topics, bootstrap_servers: str) -> None:
    """Raise ServiceError for a topic that is not there, DataError for a partition that it does not have."""
    for partition in partitions:
        if partition.topic not in topics:
            message = (
                f"Kafka at {bootstrap_servers} has no topic {partition.topic!r}; it has"
                f" {', '.join(topics) or 'none'}; create it, or correct the name"
            )
            raise ServiceError(message)
        if partition.index not in topics[partition.topic]:
            indices = ", ".join(map(str, sorted(topics[partition.topic])))
            message = f"there is no {partition}; topic {partition.topic!r} has partitions {indices}"
            raise DataError(message)


def topic_partition(partition: Partition) -> TopicPartition:
    """A partition by kafka-python's name."""
    return TopicPartition(partition.topic, partition.index)
