"""The online job: Kafka → joiners → workers and parameter server → Redis, as actors, watched to the end.

``OnlineRun`` wires the actors; ``train_online`` is the job as a list of steps.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from recsys.datasets.prepared import Prepared, open_prepared
from recsys.errors import ConfigError, DataError, RecsysError, ServiceError
from recsys.features.state import FeatureState
from recsys.models.recommender import Recommender
from recsys.ps.client import ShardedRows
from recsys.rows.first_use import compile_kernels
from recsys.runtime.actors import start_actor, wait_for
from recsys.runtime.cluster import ray_session
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.joiner import JoinerActor
from recsys.runtime.latest import mark_served
from recsys.runtime.publishing import PublisherActor
from recsys.runtime.replaying import ReplayActor
from recsys.runtime.services import Say, services
from recsys.runtime.settings import OnlineSettings
from recsys.runtime.shards import start_shards
from recsys.runtime.worker import WorkerActor
from recsys.streams.source import Position
from recsys.sync.publisher import Published
from recsys.training.checkpoint import Checkpoint, save_checkpoint

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """One look at a run."""

    seconds: float
    events: int
    examples: int
    events_per_second: float
    lag: int
    auc: float
    calibration: float
    rows: int
    bytes: int
    publications: int
    last_sync_seconds_ago: float
    problem: str = ""


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves: everything the report and the checks are made of."""

    settings: OnlineSettings
    prepared: Prepared | None
    source: str
    redis_url: str
    history: list[Progress]
    predictions: list[Path]
    delays_ms: np.ndarray
    store: ShardedRows
    features: list[FeatureState]
    join_counts: dict[str, int]
    unknown_ids: int  # left out, because a table of fixed size can not hold them
    published: Published
    finished: bool  # the stream came to its end, rather than the user's patience
    seconds: float


class OnlineRun:
    """The actors of one run."""

    def __init__(self, settings: OnlineSettings, events: Events, redis_url: str) -> None:
        self.settings, self._events = settings, events
        topology = settings.topology
        self.recommender = Recommender(settings.blueprint)
        self.store = start_shards(self.recommender.groups, topology.num_shards)
        self.store.restore(self.recommender.start_state())
        self._started_at = time.monotonic()
        replayer = self._send_facts()
        examples_from = events.examples_end() if isinstance(events, KafkaEvents) else {}
        self._joiners = self._start_joiners()
        self.predictions = [settings.folder / f"predictions-{index}.parquet" for index in range(topology.num_workers)]
        self._workers = self._start_workers(examples_from)
        self._publisher = start_actor(
            PublisherActor,
            redis_url,
            settings.layout,
            self.recommender.groups,
            self.store.shards,
            self._joiners,
            self._workers,
            threads=4,
        )
        wait_for(self._publisher.describe.remote(settings.blueprint.to_json(), {"data": settings.data_name}))
        for actor in (*self._joiners, *self._workers):
            wait_for(actor.ready.remote())
        self._started_at = time.monotonic()
        self._training = [worker.run.remote() for worker in self._workers]
        self._others = [self._publisher.run.remote(settings.sync_seconds)]
        if isinstance(events, KafkaEvents):
            self._others += [joiner.run.remote() for joiner in self._joiners]
        if replayer is not None:
            self._others.append(replayer.send_events.remote())
        self.history: list[Progress] = []

    def watch(self, on_progress: Callable[[Progress], None], max_minutes: float | None) -> None:
        """Report until the stream has ended, the time is up, or Ctrl-C; an actor's error ends the run."""
        until = None if max_minutes is None else self._started_at + 60 * max_minutes
        try:
            while self._still_training():
                self._report(on_progress)
                if until is not None and time.monotonic() > until:
                    break
        except KeyboardInterrupt:
            pass  # the user has seen enough: finish as at the end of a stream
        for answer in self._stop():
            wait_for(answer)
        self._report(on_progress)

    def save(self, source: str) -> Checkpoint:
        """Stop, and save what was learned."""
        ray.wait(self._stop(), num_returns=len(self._training))
        trained = self.worker_status()
        about = {
            "data": self.settings.data_name,
            "source": source,
            "time_ms": max(look["time_ms"] for look in trained),
            "finished": all(look["finished"] for look in trained),
        }
        states = [wait_for(joiner.state.remote()) for joiner in self._joiners]
        checkpoint = Checkpoint(self.settings.blueprint, self.store.snapshot(), states, about)
        save_checkpoint(self.settings.folder / "checkpoint", checkpoint)
        return checkpoint

    def publish(self) -> Published:
        """Publish what changed since the last publication; nothing moves any more."""
        self._publisher.stop.remote()
        published: Published = wait_for(self._publisher.publish.remote())
        mark_served(self.settings.folder)
        return published

    def delays_ms(self) -> np.ndarray:
        """Milliseconds from an event's reading to its effect in Redis, one an example."""
        return np.concatenate([wait_for(worker.delays_ms.remote()) for worker in self._workers])

    def join_counts(self) -> dict[str, int]:
        """What became of the events, over all joiners."""
        total: dict[str, int] = {}
        for joiner in self._joiners:
            for name, count in wait_for(joiner.status.remote()).items():
                total[name] = total.get(name, 0) + count
        return total

    def worker_status(self) -> list[dict[str, Any]]:
        """Every worker's own account."""
        return [wait_for(worker.status.remote()) for worker in self._workers]

    def _send_facts(self) -> Any:
        """A replayer that has sent its facts, where the run replays into Kafka."""
        if not self.settings.replay.enabled or not isinstance(self._events, KafkaEvents):
            return None
        replay = self.settings.replay
        replayer = start_actor(
            ReplayActor,
            self.settings.data_folder,
            self.settings.data_name,
            self._events,
            replay.events_per_second,
            replay.limit,
        )
        wait_for(replayer.send_facts.remote())
        return replayer

    def _start_joiners(self) -> list[Any]:
        settings, topology = self.settings, self.settings.topology
        return [
            start_actor(
                JoinerActor,
                self._events,
                [p for p in range(topology.num_partitions) if topology.joiner_of(p) == index],
                settings.join,
                settings.blueprint.features,
                settings.times,
                settings.folder / f"dead-letters-{index}",
                threads=4,
            )
            for index in range(topology.num_joiners)
        ]

    def _start_workers(self, examples_from: Position) -> list[Any]:
        settings, topology = self.settings, self.settings.topology
        return [
            start_actor(
                WorkerActor,
                self._events,
                {
                    partition: self._joiners[topology.joiner_of(partition)]
                    for partition in range(topology.num_partitions)
                    if topology.worker_of(partition) == index
                },
                examples_from,
                settings.blueprint,
                self.store.shards,
                self.predictions[index],
                settings.max_examples,
                settings.max_seconds,
                None if settings.replay.enabled or settings.source == "parquet" else settings.times.idle_seconds,
                threads=4,
            )
            for index in range(topology.num_workers)
        ]

    def _stop(self) -> list[Any]:
        """Ask joiners and workers to stop; returns what the workers answer when they have."""
        for actor in (*self._joiners, *self._workers):
            actor.stop.remote()
        return self._training

    def _still_training(self) -> bool:
        """Whether a worker still runs; raises what ended an actor before its time."""
        done, _ = ray.wait(
            [*self._training, *self._others],
            num_returns=len(self._training) + len(self._others),
            timeout=_LOOK_SECONDS,
        )
        for answer in done:
            wait_for(answer)
        return not set(self._training) <= set(done)

    def _report(self, on_progress: Callable[[Progress], None]) -> None:
        self.history.append(self._look())
        if len(self.history) > 1 and self.history[-1].publications and not self.history[-2].publications:
            mark_served(self.settings.folder)
        on_progress(self.history[-1])

    def _look(self) -> Progress:
        joined = self.join_counts()
        trained = self.worker_status()
        published = wait_for(self._publisher.status.remote())
        seconds = time.monotonic() - self._started_at
        examples = sum(worker["examples"] for worker in trained)
        return Progress(
            seconds=seconds,
            events=joined["events"],
            examples=examples,
            events_per_second=joined["events"] / seconds,
            lag=joined["lag"] + joined["examples"] - examples,
            auc=_weighted("auc", trained),
            calibration=_weighted("calibration", trained),
            rows=sum(self.store.num_rows().values()),
            bytes=self.store.nbytes,
            publications=published["publications"],
            last_sync_seconds_ago=time.time() - published["last_at"],
            problem=published["error"],
        )


@contextmanager
def train_online(settings: OnlineSettings, say: Say, on_progress: Callable[[Progress], None]) -> Any:
    """Train on a stream to its end, save, publish; yields what was trained while servers and actors still live.

    What was learned is saved first, whatever became of Kafka, Redis or an actor; the error then says where it is.
    """
    torch.set_num_threads(1)  # the other cores are the actors'
    _check_fresh(settings.folder)
    prepared = _open_data(settings)
    with (
        _leaving_nothing(settings.folder) as begun,
        services(settings, prepared, say) as running,
        ray_session(settings.ray_address),
    ):
        compile_kernels(Recommender(settings.blueprint).groups, say)  # while the broker starts
        run = OnlineRun(settings, running.events(), running.redis_url)
        begun()
        checkpoint = _watched(run, running.source, on_progress)
        yield Trained(
            settings=settings,
            prepared=prepared,
            source=running.source,
            redis_url=running.redis_url,
            history=run.history,
            predictions=run.predictions,
            published=_published(run),
            delays_ms=run.delays_ms(),
            store=run.store,
            features=[FeatureState.from_json(dict(state["features"])) for state in checkpoint.joiners],
            join_counts=run.join_counts(),
            unknown_ids=sum(worker["unknown_ids"] for worker in run.worker_status()),
            finished=checkpoint.about["finished"],
            seconds=run.history[-1].seconds,
        )


def _watched(run: OnlineRun, source: str, on_progress: Callable[[Progress], None]) -> Checkpoint:
    """Watch the run to its end and save it; an error that ends it early says where what was learned is."""
    folder = run.settings.folder / "checkpoint"
    try:
        run.watch(on_progress, run.settings.max_minutes)
    except (RecsysError, ray.exceptions.RayError) as error:
        try:
            run.save(source)
            kept = f"what was learned is in {folder}"
        except RecsysError as also:
            kept = f"nothing could be saved: {also}"
        if isinstance(error, RecsysError):
            raise type(error)(f"{error}; {kept}") from error
        error.add_note(kept)
        raise
    return run.save(source)


def _published(run: OnlineRun) -> Published:
    try:
        return run.publish()
    except ServiceError as error:
        folder = run.settings.folder
        raise ServiceError(f"{error}; what was learned is in {folder}: python -m jobs.publish run={folder}") from error


def _check_fresh(folder: Path) -> None:
    """A folder that holds a run keeps it: what that run published would count as newer than what this one learns."""
    held = [name for name in ("redis", "kafka", "checkpoint") if (folder / name).exists()]
    if held:
        raise ConfigError(f"{folder} holds a run already ({', '.join(held)}); choose another with hydra.run.dir=")


@contextmanager
def _leaving_nothing(folder: Path) -> Iterator[Callable[[], None]]:
    """A run that ends before it has begun leaves its folder as it was, to be tried again."""
    has_begun = False

    def begin() -> None:
        nonlocal has_begun
        has_begun = True

    try:
        yield begin
    finally:
        if not has_begun:
            for name in ("redis", "kafka"):
                shutil.rmtree(folder / name, ignore_errors=True)


def _open_data(settings: OnlineSettings) -> Prepared | None:
    """The prepared data set, where the run replays one."""
    if settings.bootstrap_servers is not None and not settings.replay.enabled:
        return None
    try:
        return open_prepared(settings.data_folder, settings.data_name)
    except DataError:
        if settings.source == "parquet" or settings.replay.enabled:
            raise
        return None  # an embedded broker that somebody else will feed


def _weighted(name: str, parts: list[dict[str, Any]]) -> float:
    """The mean over workers, by examples; NaN before the first."""
    known = [(part[name], part["examples"]) for part in parts if part["examples"] and part[name] == part[name]]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else float("nan")
