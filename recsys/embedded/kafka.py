"""A real Kafka of one node (KRaft: broker and controller in one process) under a folder of the run."""

import base64
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from recsys.embedded.kafka_install import find_java, kafka_jars
from recsys.embedded.kafka_install import kafka_unavailable as kafka_unavailable
from recsys.embedded.process import (
    LOOPBACK,
    GuardedProcess,
    ServerProcess,
    accepts_connections,
    folder_lock,
    free_ports,
    wanted_port,
)

_START_SECONDS = 120.0
_LOCK_SECONDS = 12.0  # a little more than a server whose job was just killed takes to stop
_NO_LIMIT = 2**63 - 1


class EmbeddedKafka(ServerProcess):
    """A Kafka broker that starts in the background; asking for ``bootstrap_servers`` waits until it answers.

    Topics and messages stay in ``folder``; opening it again serves them again, on another port. Record times
    are the events' times, years ago in a replay: age deletes nothing and cuts no segment.
    ``heap_mb`` is Java's heap in MiB. Raises ConfigError where ``port`` is in use, DependencyError where Java
    or Kafka's jars are absent, ServiceError where the server does not come up.

    ::

        with EmbeddedKafka(run_folder / "kafka") as kafka:
            consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        heap_mb: int = 512,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self.folder = folder.resolve()
        self.port = wanted_port(port, "kafka.port")
        jars = kafka_jars(env)
        with folder_lock(self.folder / "kafka.lock", _LOCK_SECONDS, busy=self._busy) as lock:
            self._write_properties()
            process = GuardedProcess(
                self._commands(_java_command(jars, heap_mb, env)),
                folder=self.folder,
                log_path=self.folder / "kafka.log",
                lock=lock,
                env=env,
            )
        super().__init__("Kafka", process, timeout_seconds=_START_SECONDS)

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` of the broker, once it answers."""
        self.ready()
        return f"{LOOPBACK}:{self.port}"

    def _busy(self) -> str:
        return f"a Kafka already runs in {self.folder}; wait for its job to end, or choose another run folder"

    def _write_properties(self) -> None:
        controller_port = free_ports(1)[0]
        while controller_port == self.port:
            controller_port = free_ports(1)[0]
        lines = [f"{name}={value}" for name, value in _properties(self.port, controller_port).items()]
        (self.folder / "kafka.properties").write_text("\n".join(lines) + "\n", encoding="ascii")

    def _commands(self, java: list[str]) -> list[list[str]]:
        """Format the data folder where it is new, then run the server."""
        cluster_id = _cluster_id()
        format_storage = [
            *java,
            "kafka.tools.StorageTool",
            "format",
            "-t",
            cluster_id,
            "-c",
            "kafka.properties",
        ]
        run_server = [*java, "kafka.Kafka", "kafka.properties"]
        formatted = (self.folder / "kafka-data" / "meta.properties").is_file()
        return [run_server] if formatted else [format_storage, run_server]

    def _answers(self) -> bool:
        if not accepts_connections(self.port):
            return False
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        try:
            with KafkaAdminClient(bootstrap_servers=f"{LOOPBACK}:{self.port}", bootstrap_timeout_ms=2000) as admin:
                return bool(admin.describe_cluster()["brokers"])
        except KafkaError:
            return False


def _cluster_id() -> str:
    """A new cluster's name, made as Kafka does: 16 random bytes in base64 for URLs, never with a dash first."""
    while True:
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not name.startswith("-"):
            return name


def _java_command(jars: Path, heap_mb: int, env: Mapping[str, str]) -> list[str]:
    """Java and its options: the first compiler and the simple collector only.

    On 2 cores that starts a third faster (2.4 s against 3.3 s, and formatting 1.1 s against 1.3 s) and took a
    third less CPU time for 450 000 messages through the Python client, the slower side either way.
    """
    return [
        str(find_java(env)),
        f"-Xmx{heap_mb}m",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Xshare:auto",
        "-XX:-UsePerfData",
        "-Djava.io.tmpdir=.",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
        "-cp",
        f"{jars.resolve()}/*",
    ]


def _properties(port: int, controller_port: int) -> dict[str, object]:
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        # Relative to the folder, where the server runs: a comma in an absolute path would make it two.
        "log.dirs": "kafka-data",
        # One node replicates nothing.
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        # A topic is created on purpose; a group starts with its first member.
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
        # Replayed events are years old, and a clock of a replay may be ahead: time deletes and cuts nothing.
        "log.retention.ms": -1,
        "log.roll.ms": _NO_LIMIT,
        "log.message.timestamp.after.max.ms": _NO_LIMIT,
        # A small machine's share; the log cleaner's default buffer is a quarter of the heap.
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
        "log.cleaner.dedupe.buffer.size": 8 * 2**20,
    }
