"""The Kafka and the Redis of a run: external ones that are checked, or embedded ones that end with it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from recsys.datasets.prepared import Prepared
from recsys.datasets.replay import event_files
from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.embedded.redis import EmbeddedRedis, check_redis
from recsys.errors import DependencyError
from recsys.runtime.events import Events, KafkaEvents, ParquetEvents
from recsys.runtime.settings import OnlineSettings
from recsys.streams.kafka_topics import check_kafka, create_topics

Say = Callable[[str], None]


@dataclass(frozen=True)
class Services:
    """Where events come from and where rows go."""

    events: Callable[[], Events]  # waits until the broker answers
    redis_url: str
    source: str  # "kafka" or "files"


@contextmanager
def services(settings: OnlineSettings, prepared: Prepared | None, say: Say) -> Iterator[Services]:
    """Start or check what the run needs; embedded servers end with the block.

    ``source=auto`` is Kafka where it can run and the same events from files where it can not, said in one line.
    """
    with ExitStack() as stack:
        kafka = _kafka(settings, stack, say)
        redis_url = settings.redis_url
        if redis_url is None:
            redis_url = stack.enter_context(EmbeddedRedis(settings.folder / "redis", port=settings.redis_port)).url
        else:
            check_redis(redis_url)
        if kafka is None:
            assert prepared is not None
            paths = event_files(prepared, settings.replay.limit, settings.folder / "events")
            files = ParquetEvents(paths=paths, num_partitions=settings.topology.num_partitions)
            yield Services(lambda: files, redis_url, "files")
        else:
            yield Services(lambda: _kafka_events(settings, kafka()), redis_url, "kafka")


def _kafka(settings: OnlineSettings, stack: ExitStack, say: Say) -> Callable[[], str] | None:
    """Gives the broker's address, once it answers; None where events come from files."""
    if settings.source == "parquet":
        return None
    external = settings.bootstrap_servers
    if external is not None:
        check_kafka(external, security=settings.kafka_security)
        return lambda: external
    try:
        reason = kafka_unavailable()
        if reason is not None:
            raise DependencyError(reason)
        embedded = stack.enter_context(_starting(settings.folder / "kafka", settings.kafka_port))
    except DependencyError as error:
        if settings.source == "kafka":
            raise
        say(f"source=auto: reading the same events from files, because {error}")
        return None
    return lambda: embedded.bootstrap_servers


@contextmanager
def _starting(folder: Path, port: int | None) -> Iterator[EmbeddedKafka]:
    """A broker that goes on starting while the rest does; ended with the block."""
    kafka = EmbeddedKafka(folder, port=port)
    try:
        yield kafka
    finally:
        kafka.stop()


def _kafka_events(settings: OnlineSettings, bootstrap_servers: str) -> KafkaEvents:
    events = KafkaEvents(
        bootstrap_servers=bootstrap_servers,
        num_partitions=settings.topology.num_partitions,
        start=settings.start,
        security=settings.kafka_security,
        outage_seconds=settings.kafka_outage_seconds,
    )
    create_topics(bootstrap_servers, events.topics, security=settings.kafka_security)
    return events
