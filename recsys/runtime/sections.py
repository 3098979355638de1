"""The sections of the jobs' YAML, field for field: ``recsys.fields.build`` checks them all.

A mistake is told by the key that the user typed.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from recsys.batches.join import JoinConfig
from recsys.batches.sampling import Sampling
from recsys.errors import ConfigError
from recsys.features.declarations import DataSet
from recsys.fields import Above, AtLeast, Between, NotEmpty, Port
from recsys.ps.routing import NUM_BUCKETS
from recsys.runtime.actors import Placement
from recsys.streams.security import check_security
from recsys.training.archive import Archiving
from recsys.training.epochs import Fitting
from recsys.training.fit import Splits
from recsys.training.mlflow_run import MlflowSection
from recsys.training.rehearsal import Evaluation

Count = Annotated[int, AtLeast(1)]
Text = Annotated[str, NotEmpty()]


@dataclass(frozen=True)
class TimeInWords:
    """A range of texts: times such as 2026-01-31T12:00, of UTC where they say no zone, from 1970 on."""

    def holds(self, value: str) -> bool:
        """Whether a text is one."""
        try:
            return time_ms_of(value) >= 0
        except ValueError:
            return False

    def __str__(self) -> str:
        return "like 2026-01-31T12:00"


Start = Literal["earliest", "latest", "checkpoint"] | Annotated[int, AtLeast(0)] | Annotated[str, TimeInWords()]


def time_ms_of(text: str) -> int:
    """Milliseconds since 1970 of a time in ISO 8601; ValueError where it is none.

    >>> time_ms_of("1970-01-02"), time_ms_of("1970-01-01T02:00:00.5+01:00")
    (86400000, 3600500)
    """
    time = datetime.datetime.fromisoformat(text)
    return round(1000 * (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp())


def start_of(said: str | int) -> str | int:
    """Where a source begins that was said to start so. A resumed run's seeks the checkpoint's position after it."""
    if said == "checkpoint":
        return "earliest"
    return said if said in ("earliest", "latest") or isinstance(said, int) else time_ms_of(said)


@dataclass(frozen=True, kw_only=True)
class CheckpointSection:
    """``checkpoint``: where to, how often, how many stay, and after how many increments comes a whole one.

    ``folder`` None is ``checkpoints`` in the run's own; a URI (s3://…, gs://…) names an object store.
    """

    folder: Text | None = None
    every_seconds: Annotated[float, Above(0)] = 30.0
    keep: Count = 2
    full_every: Count = 10


@dataclass(frozen=True, kw_only=True)
class RecoverySection:
    """``recovery``: what a dead actor means.

    ``exact``: all go back to the last checkpoint, streams too. ``available``: a lost shard alone does, a lost worker is
    replaced, and training goes on; what was lost is counted.
    """

    mode: Literal["exact", "available"] = "exact"
    max_recoveries: Annotated[int, AtLeast(0)] = 10


@dataclass(frozen=True, kw_only=True)
class PlacementSection:
    """``ray.placement``: what actors claim of a node, by what they are."""

    shard: Placement = field(default_factory=Placement)
    worker: Placement = field(default_factory=Placement)
    joiner: Placement = field(default_factory=Placement)


@dataclass(frozen=True, kw_only=True)
class SourceSection:
    """``source``: where events come from; or, in jobs.train, joined examples: ``folder`` is an online run's archive."""

    kind: Literal["auto", "kafka", "parquet", "archive"]
    folder: Path | None = None
    num_partitions: Count = 4
    start: Start = "earliest"
    idle_seconds: Annotated[float, AtLeast(0)] | None = None
    max_future_seconds: Annotated[float, AtLeast(0)] = 60.0

    def __post_init__(self) -> None:
        if (self.kind == "archive") != (self.folder is not None):
            raise ConfigError(f"kind={self.kind} with folder={self.folder}; an archive has one, nothing else has")


@dataclass(frozen=True, kw_only=True)
class StoreSection:
    """``store``: where rows live."""

    kind: Literal["local", "ray"]
    shards: Annotated[int, Between(1, NUM_BUCKETS)] | None = None
    staleness: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        if (self.kind == "ray") != (self.shards is not None):
            raise ConfigError(
                f"kind={self.kind} with shards={self.shards}; choose store=ray, which has shards, or local"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerSection:
    """``optimizer``: of embedding rows, of width-1 rows, of dense parameters."""

    rows: Mapping[str, Any]
    first_order: Mapping[str, Any]
    dense: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RaySection:
    """``ray``: a cluster to join, and where on it what goes."""

    address: Text | None
    placement: PlacementSection = field(default_factory=PlacementSection)


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """What the YAML of every job that learns says. The kinds of table, model and optimizer check their own fields."""

    data: DataSet
    source: SourceSection
    table: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: OptimizerSection
    store: StoreSection
    seed: Annotated[int, Between(0, 2**63 - 1)]
    join: JoinConfig
    ray: RaySection


@dataclass(frozen=True, kw_only=True)
class BatchSection:
    """``batch``: what closes one."""

    max_examples: Count
    max_seconds: Annotated[float, Above(0)] | None


@dataclass(frozen=True, kw_only=True)
class ReplaySection:
    """``replay``: whether, and how, the run sends the prepared data into Kafka; with ``repeat`` again and again."""

    enabled: bool | None
    repeat: bool
    events_per_second: Annotated[float, Above(0)] | None
    limit: Count | None


@dataclass(frozen=True, kw_only=True)
class KafkaSection:
    """``kafka``: an external one, or the port of the embedded one."""

    bootstrap_servers: Text | None
    port: Port | None
    security: Mapping[str, Any]
    outage_seconds: Annotated[float, Above(0)] = 120.0

    def __post_init__(self) -> None:
        if self.bootstrap_servers is not None and self.port is not None:
            raise ConfigError(f"bootstrap_servers names its port itself; leave out kafka.port={self.port}")
        check_security(self.security)
        if self.security and self.bootstrap_servers is None:
            raise ConfigError(
                f"security is set ({', '.join(self.security)}), but without bootstrap_servers the run starts a Kafka "
                "of its own, on loopback and open; give kafka.bootstrap_servers, or leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class RedisSection:
    """``redis``: an external one, or the port of the embedded one."""

    url: Text | None
    port: Port | None

    def __post_init__(self) -> None:
        if self.url is not None and self.port is not None:
            raise ConfigError(f"url names its port itself; leave out redis.port={self.port}")


@dataclass(frozen=True, kw_only=True)
class ServingSection:
    """``serving``: what is published."""

    model: str
    row_format: str
    layout: str
    num_buckets: int
    cluster: bool
    sync_seconds: Annotated[float, Above(0)]


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(LearningConfig):
    """The YAML of jobs.online."""

    workers: Count
    joiners: Count
    max_minutes: Annotated[float, Above(0)] | None
    batch: BatchSection
    replay: ReplaySection
    kafka: KafkaSection
    redis: RedisSection
    serving: ServingSection
    checkpoint: CheckpointSection
    recovery: RecoverySection
    archive: Archiving
    resume: Path | None
    resume_from: Text | None
    start_from: Path | None

    sampling: Sampling = field(default_factory=Sampling)
    evaluation: Evaluation | None = None

    def __post_init__(self) -> None:
        self.sampling.check_kinds(self.join.actions)
        if self.evaluation is not None:
            self._check_rehearsal()
        elif self.data.examples is not None:
            raise ConfigError(
                f"data set {self.data.name!r} is of plain examples, which are learned by python -m jobs.train; online, "
                "choose one of events"
            )
        if self.source.kind == "archive":
            raise ConfigError(
                "source.kind=archive: an archive is read by python -m jobs.train source=archive; online, begin with "
                "what that has learned by start_from=runs/…"
            )
        if self.start_from is not None and self.resume is not None:
            raise ConfigError(
                f"start_from={self.start_from} begins a new run, resume={self.resume} goes on with one; leave one of "
                "them out"
            )
        if self.resume_from is not None and self.resume is None:
            raise ConfigError(
                f"resume_from={self.resume_from} names a checkpoint of a run; give the run: resume=runs/…"
            )
        if self.source.start == "checkpoint" and self.resume is None:
            raise ConfigError("source.start=checkpoint goes on with a run; give the run: resume=runs/…")
        if self.store.kind != "ray":
            raise ConfigError(f"store.kind={self.store.kind}: online, rows are on the parameter server; use store=ray")
        if self.source.kind == "parquet" and self.kafka.bootstrap_servers is not None:
            raise ConfigError(
                f"source=parquet reads files, but kafka.bootstrap_servers={self.kafka.bootstrap_servers} names a "
                "broker; leave one of them out"
            )

    def _check_rehearsal(self) -> None:
        """What does not go with ``evaluation``: it reads the prepared files, and nothing is left to go on from."""
        for name, value in (
            ("resume", self.resume),
            ("start_from", self.start_from),
            ("kafka.bootstrap_servers", self.kafka.bootstrap_servers),
            ("source=kafka", self.source.kind if self.source.kind == "kafka" else None),
        ):
            if value is not None:
                raise ConfigError(
                    f"{name}={value} does not go with evaluation, which reads prepared files; leave it out"
                )
        if self.sampling != Sampling():
            raise ConfigError("sampling does not go with evaluation, which learns every example; leave it out")


@dataclass(frozen=True, kw_only=True)
class EpochBatchSection:
    """``batch`` of jobs.train: every batch is full, but for an epoch's last."""

    max_examples: Count


@dataclass(frozen=True, kw_only=True)
class LimitSection:
    """``replay`` of jobs.train: only the first so many impressions."""

    limit: Count | None


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LearningConfig):
    """The YAML of jobs.train."""

    epochs: Count
    order: Literal["shuffled", "recorded"] | None
    batch: EpochBatchSection
    split: Splits
    replay: LimitSection
    fit: Fitting
    resume: Path | None
    workers: Count = 1
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bf16"] = "float32"
    mlflow: MlflowSection = field(default_factory=MlflowSection)

    def __post_init__(self) -> None:
        if self.workers > 1 and (self.store.kind != "ray" or self.is_in_order):
            raise ConfigError(
                f"workers={self.workers} share batches out over the parameter server, in epochs; use store=ray, and "
                "leave out order=recorded and source=archive, or workers=1"
            )
        if self.fit.plateau_factor is not None and self.store.kind != "local":
            raise ConfigError(
                f"fit.plateau_factor={self.fit.plateau_factor}: rows on the parameter server keep their learning "
                "rates; use store=local"
            )
        if self.data.examples is not None and (self.source.kind == "archive" or self.order == "recorded"):
            raise ConfigError(
                f"data set {self.data.name!r} is of plain examples, which have no order in time; leave out "
                "order=recorded and source=archive"
            )
        if self.resume is not None and self.is_in_order:
            raise ConfigError(f"resume={self.resume}: what is learned as it was recorded is learned in one go")
        if self.source.kind not in ("parquet", "archive"):
            raise ConfigError(
                f"source.kind={self.source.kind}: training in epochs reads the prepared files, or an online run's "
                "archive; use source=parquet or source=archive, or python -m jobs.online"
            )

    @property
    def is_in_order(self) -> bool:
        """Whether examples are learned as they were recorded: where nothing else is said, those of an archive are."""
        return self.source.kind == "archive" if self.order is None else self.order == "recorded"
