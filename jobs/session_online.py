"""Keep users' sessions in Redis: ``python -m jobs.session_online kafka.bootstrap_servers=HOST:PORT redis.url=URL``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from jobs.launch import job
from jobs.sections import ExternalKafka, Serving, Text
from recsys.fields import Above, AtLeast, build

if TYPE_CHECKING:
    from collections.abc import Callable

    from recsys.streams.source import Partition, Record, Source
    from recsys.sync.session_state import Rank, SessionStates

CURRENT = "current"
Count = Annotated[int, AtLeast(1)]


@dataclass(frozen=True, kw_only=True)
class ExternalRedis:
    """``redis``: an external one."""

    url: Text


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """``ranking``: how long lists are; decay and least age are of ranking by base level."""

    k: Count
    decay: Annotated[float, AtLeast(0)]
    min_age_seconds: Annotated[float, Above(0)]


@dataclass(frozen=True, kw_only=True)
class SessionOnlineSettings:
    """The YAML of jobs.session_online."""

    topic: Text
    num_partitions: Count
    gap_seconds: Annotated[float, Above(0)]
    keep_plays: Count
    fresh_seconds: Annotated[float, AtLeast(0)]
    run: Text | None
    ranking: Ranking
    serving: Serving
    kafka: ExternalKafka
    redis: ExternalRedis


@job("session_online")
def main(config: dict[str, Any], folder: Path) -> None:
    """Read plays from where the state stands, until every partition is closed; state and offsets go together."""
    settings = build(SessionOnlineSettings, config, "")

    from contextlib import closing

    from recsys.embedded.redis import check_redis
    from recsys.streams.kafka import KafkaSource
    from recsys.streams.kafka_topics import create_topics
    from recsys.streams.source import Partition
    from recsys.sync.session_state import SessionStates

    check_redis(settings.redis.url)
    servers, security = settings.kafka.bootstrap_servers, settings.kafka.security
    create_topics(servers, {settings.topic: settings.num_partitions}, security=security)
    partitions = [Partition(settings.topic, index) for index in range(settings.num_partitions)]
    states = SessionStates.connect(
        settings.redis.url,
        model=settings.serving.model,
        rank=_base_level(settings),
        gap_seconds=settings.gap_seconds,
        keep_plays=settings.keep_plays,
        fresh_seconds=settings.fresh_seconds,
    )
    follow_run = None if settings.run is None else _Following(settings, states)
    with closing(states), KafkaSource(servers, partitions, security=security) as source:
        num_new, num_refused = follow(source, states, before_batch=follow_run)
    print(f"{num_new:,} new plays, {num_refused:,} messages that were none; every partition is closed")


def _base_level(settings: SessionOnlineSettings) -> "Rank":
    """ACT-R alone, where no run is given."""
    from recsys.models.sessions.actr import Memory
    from recsys.sync.session_state import rank_by_base_level

    said = settings.ranking
    memory = Memory(decay=said.decay, min_age_seconds=said.min_age_seconds)
    return rank_by_base_level(memory, gap_seconds=settings.gap_seconds, k=said.k)


class _Following:
    """Has a published run rank: the one that is named, or whichever is served (looked for before each batch)."""

    def __init__(self, settings: SessionOnlineSettings, states: "SessionStates") -> None:
        from recsys.embedded.redis_url import open_client

        self._settings, self._states = settings, states
        self._client, self._version = open_client(settings.redis.url), ""
        self()

    def __call__(self) -> None:
        from recsys.serving.session_ranker import SessionRanker, current_run

        said, model = self._settings, self._settings.serving.model
        assert said.run is not None
        wanted = current_run(self._client, model) if said.run == CURRENT else said.run
        if wanted == self._version:
            return
        ranker = SessionRanker.open(said.redis.url, model, gap_seconds=said.gap_seconds, k=said.ranking.k, run=wanted)
        self._states.rank_by(ranker, ranker.version)
        self._states.popular(ranker.popular())
        self._version = wanted
        print(f"ranking by version {wanted} of model {model}")


def follow(
    source: "Source", states: "SessionStates", before_batch: "Callable[[], None] | None" = None
) -> tuple[int, int]:
    """Learn plays as they come, from the offsets of the states, until every partition is closed; (new, refused)."""
    from recsys.streams.source import is_end

    stands_at = states.offsets()
    source.seek({part: stands_at[part.index] for part in source.partitions if part.index in stands_at})
    open_partitions, num_new, num_refused = set(source.partitions), 0, 0
    while open_partitions:
        if before_batch is not None:
            before_batch()
        records: dict[Partition, list[Record]] = {}
        for record in source.next_batch():
            records.setdefault(record.partition, []).append(record)
        for partition, found in records.items():
            plays, refused = _decoded([record for record in found if not is_end(record.payload)])
            ended = is_end(found[-1].payload)
            # the end is read again by who comes later, and so closes the partition for them too
            num_new += states.learn(partition.index, plays, found[-1].offset + (0 if ended else 1))
            num_refused += refused
            if ended:
                open_partitions.discard(partition)
    return num_new, num_refused


def _decoded(records: "list[Record]") -> tuple[list[tuple[int, Any]], int]:
    """Plays with their offsets, and how many messages were none."""
    from recsys.errors import EventError
    from recsys.sessions.plays import decode_play

    plays = []
    for record in records:
        try:
            assert isinstance(record.payload, bytes)
            plays.append((record.offset, decode_play(record.payload)))
        except EventError:
            continue
    return plays, len(records) - len(plays)


if __name__ == "__main__":
    main()
