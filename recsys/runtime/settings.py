"""The settings of an online run: a job's YAML, checked and turned into values of the right types."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.batches.join import JoinConfig, build_join_config
from recsys.batches.joined import StreamTimes
from recsys.errors import ConfigError, unknown
from recsys.features.declarations import build_features
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.layout import Layout

SOURCES = ("auto", "kafka", "parquet")


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many of what."""

    num_partitions: int = 4
    num_joiners: int = 1
    num_workers: int = 1
    num_shards: int = 2

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least 1")
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
    redis_url: str | None = None
    redis_port: int | None = None
    ray_address: str | None = None


def run_name(folder: Path) -> str:
    """What a run is called where it is published: its folder's name, with the sweep's before it.

    >>> run_name(Path("runs/2026-01-31_12-00-00")), run_name(Path("runs/2026-01-31_12-00-00/3"))
    ('2026-01-31_12-00-00', '2026-01-31_12-00-00-3')
    """
    return f"{folder.parent.name}-{folder.name}" if folder.name.isdigit() else folder.name


def build_blueprint(config: Mapping[str, Any]) -> Blueprint:
    """The blueprint in a job's YAML, tried out: what can not be built is a ConfigError before anything starts."""
    blueprint = Blueprint(
        features=build_features(config["data"]["features"]),
        table=config["table"],
        model=config["model"],
        optimizer=config["optimizer"]["rows"],
        first_order_optimizer=config["optimizer"]["first_order"],
        dense_optimizer=config["optimizer"]["dense"],
        seed=config["seed"],
    )
    Recommender(blueprint)
    return blueprint


def build_settings(config: Mapping[str, Any], folder: Path) -> OnlineSettings:
    """Settings from the YAML of jobs.online or jobs.demo."""
    source = config["source"]
    if source["kind"] not in SOURCES:
        raise unknown("source", source["kind"], SOURCES)
    store = config["store"]
    if store["kind"] != "ray":
        raise ConfigError(f"store.kind={store['kind']}: online, rows are on the parameter server; use store=ray")
    external = config["kafka"]["bootstrap_servers"] is not None
    replay = config["replay"]
    enabled = not external if replay["enabled"] is None else bool(replay["enabled"])
    idle_seconds = source["idle_seconds"]
    if idle_seconds is None:
        idle_seconds = 30.0 if enabled else 1.0
    return OnlineSettings(
        blueprint=build_blueprint(config),
        join=build_join_config(config["join"]),
        times=StreamTimes(idle_seconds=idle_seconds, max_future_seconds=source["max_future_seconds"]),
        topology=Topology(
            num_partitions=source["num_partitions"],
            num_joiners=config["joiners"],
            num_workers=config["workers"],
            num_shards=store["shards"],
        ),
        replay=Replay(enabled=enabled, events_per_second=replay["events_per_second"], limit=replay["limit"]),
        layout=Layout(
            model=config["serving"]["model"], run=run_name(folder), row_format=config["serving"]["row_format"]
        ),
        folder=folder,
        data_name=config["data"]["name"],
        data_folder=Path(config["data"]["folder"]),
        source=source["kind"],
        sync_seconds=config["serving"]["sync_seconds"],
        max_examples=config["batch"]["max_examples"],
        max_seconds=config["batch"]["max_seconds"],
        max_minutes=config["max_minutes"],
        start=source["start"],
        bootstrap_servers=config["kafka"]["bootstrap_servers"],
        kafka_port=config["kafka"]["port"],
        kafka_security=config["kafka"]["security"],
        redis_url=config["redis"]["url"],
        redis_port=config["redis"]["port"],
        ray_address=config["ray"]["address"],
    )
