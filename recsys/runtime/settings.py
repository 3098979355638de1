"""The settings of an online run: a job's YAML, checked and turned into values of the right types."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.batches.join import JoinConfig
from recsys.batches.joined import StreamTimes
from recsys.batches.sampling import Sampler, Sampling
from recsys.errors import ConfigError
from recsys.features.declarations import Feature, build_features
from recsys.fields import build
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.layout import Layout
from recsys.rows.optimizers import build_optimizer
from recsys.runtime.sections import (
    CheckpointSection,
    OnlineConfig,
    PlacementSection,
    RecoverySection,
    start_of,
)
from recsys.tables import with_map
from recsys.training.archive import Archiving


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many of what."""

    num_partitions: int = 4
    num_joiners: int = 1
    num_workers: int = 1
    num_shards: int = 2

    def __post_init__(self) -> None:
        for name in ("num_joiners", "num_workers"):
            if getattr(self, name) > self.num_partitions:
                raise ConfigError(
                    f"{name} {getattr(self, name)} is more than the {self.num_partitions} partitions; each needs one "
                    "of its own: raise source.num_partitions"
                )

    def joiner_of(self, partition: int) -> int:
        """Which joiner joins a partition."""
        return partition % self.num_joiners

    def worker_of(self, partition: int) -> int:
        """Which worker trains on a partition."""
        return partition % self.num_workers


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Recorded events to be sent into Kafka by the run itself."""

    enabled: bool = True
    repeat: bool = False
    events_per_second: float | None = None
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """Everything an online run is told."""

    blueprint: Blueprint
    join: JoinConfig
    times: StreamTimes
    topology: Topology
    replay: Replay
    layout: Layout
    folder: Path
    data_name: str
    data_folder: Path
    source: str
    sync_seconds: float
    max_examples: int
    max_seconds: float | None
    max_minutes: float | None
    start: str | int
    bootstrap_servers: str | None
    kafka_port: int | None
    kafka_security: Mapping[str, Any] = field(default_factory=dict)
    kafka_outage_seconds: float = 120.0
    redis_url: str | None = None
    redis_port: int | None = None
    ray_address: str | None = None
    staleness: int = 0
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    recovery: RecoverySection = field(default_factory=RecoverySection)
    archiving: Archiving = field(default_factory=Archiving)
    placement: PlacementSection = field(default_factory=PlacementSection)
    resumes: bool = False
    resume_from: str | None = None
    start_from: Path | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def sampler(self) -> Sampler:
        """What keeps joined examples, or leaves them out."""
        return Sampler(self.sampling, self.join.actions, self.blueprint.seed)

    @property
    def checkpoints(self) -> str:
        """Where checkpoints are."""
        return self.checkpoint.folder or str(self.folder / "checkpoints")


def run_name(folder: Path) -> str:
    """What a run is called where it is published: its folder's name, with the sweep's before it.

    >>> run_name(Path("runs/2026-01-31_12-00-00")), run_name(Path("runs/2026-01-31_12-00-00/3"))
    ('2026-01-31_12-00-00', '2026-01-31_12-00-00-3')
    """
    return f"{folder.parent.name}-{folder.name}" if folder.name.isdigit() else folder.name


def build_blueprint(config: Mapping[str, Any], features: Sequence[Feature] | None = None) -> Blueprint:
    """The blueprint in a job's YAML, tried out: what can not be built is a ConfigError before anything starts.

    ``features`` are given where more is known of them than the YAML says: the sizes that preparing found.
    """
    optimizer = config["optimizer"]
    for name, fields in optimizer.items():
        build_optimizer(fields, f"optimizer.{name}")
    blueprint = Blueprint(
        features=build_features(config["data"]["features"]) if features is None else tuple(features),
        table=with_map(config["table"], config["data"]["name"]),
        model=config["model"],
        optimizer=optimizer["rows"],
        first_order_optimizer=optimizer["first_order"],
        dense_optimizer=optimizer["dense"],
        seed=config["seed"],
    )
    Recommender(blueprint)
    return blueprint


def build_layout(serving: Mapping[str, Any], run: Path) -> Layout:
    """The layout in a job's section ``serving``, for the run in a folder."""
    fields = {name: serving[name] for name in ("model", "row_format", "layout", "num_buckets", "cluster")}
    return build(Layout, {**fields, "run": run_name(run)}, "serving")


def build_settings(config: Mapping[str, Any], folder: Path) -> OnlineSettings:
    """Settings from the YAML of jobs.online or jobs.demo."""
    said = build(OnlineConfig, config, "")
    folder = (said.resume or folder).absolute()  # actors have working folders of their own
    replayed = said.kafka.bootstrap_servers is None if said.replay.enabled is None else said.replay.enabled
    idle_seconds = said.source.idle_seconds
    if idle_seconds is None:
        idle_seconds = 30.0 if replayed else 1.0
    max_future_seconds = math.inf if said.replay.repeat else said.source.max_future_seconds  # later passes are ahead
    return OnlineSettings(
        blueprint=build_blueprint(config),
        join=said.join,
        times=StreamTimes(idle_seconds=idle_seconds, max_future_seconds=max_future_seconds),
        topology=Topology(
            num_partitions=said.source.num_partitions,
            num_joiners=said.joiners,
            num_workers=said.workers,
            num_shards=said.store.shards or 1,
        ),
        replay=Replay(
            enabled=replayed,
            repeat=said.replay.repeat,
            events_per_second=said.replay.events_per_second,
            limit=said.replay.limit,
        ),
        layout=build_layout(config["serving"], folder),
        folder=folder,
        data_name=said.data.name,
        data_folder=said.data.folder,
        source=said.source.kind,
        sync_seconds=said.serving.sync_seconds,
        max_examples=said.batch.max_examples,
        max_seconds=said.batch.max_seconds,
        max_minutes=said.max_minutes,
        start=start_of(said.source.start),
        bootstrap_servers=said.kafka.bootstrap_servers,
        kafka_port=said.kafka.port,
        kafka_security=said.kafka.security,
        kafka_outage_seconds=said.kafka.outage_seconds,
        redis_url=said.redis.url,
        redis_port=said.redis.port,
        ray_address=said.ray.address,
        staleness=said.store.staleness,
        checkpoint=said.checkpoint,
        recovery=said.recovery,
        archiving=said.archive,
        placement=said.ray.placement,
        resumes=said.resume is not None,
        resume_from=said.resume_from,
        sampling=said.sampling,
        start_from=None if said.start_from is None else said.start_from.absolute(),
    )
