"""The online job: Kafka → joiners → workers and parameter server → Redis, as actors, watched to the end.

``OnlineRun`` wires the actors; ``train_online`` is the job as a list of steps.
"""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from recsys.datasets.prepared import Prepared, open_prepared
from recsys.errors import ConfigError, DataError
from recsys.features.state import FeatureState
from recsys.models.recommender import Recommender
from recsys.ps.client import ShardedRows
from recsys.runtime.actors import start_actor, wait_for
from recsys.runtime.cluster import ray_session
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.joiner import JoinerActor
from recsys.runtime.publishing import PublisherActor
from recsys.runtime.replaying import ReplayActor
from recsys.runtime.services import Say, services
from recsys.runtime.settings import OnlineSettings
from recsys.runtime.shards import start_shards
from recsys.runtime.worker import WorkerActor
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
    published: Published
    finished: bool  # the stream came to its end, rather than the user's patience
    seconds: float


class OnlineRun:
    """The actors of one run."""

    def __init__(self, settings: OnlineSettings, events: Events, redis_url: str) -> None:
        self._settings, self._events = settings, events
        topology = settings.topology
        self.recommender = Recommender(settings.blueprint)
        self.store = start_shards(self.recommender.groups, topology.num_shards)
        self.store.restore(self.recommender.start_state())
        self._started_at = time.monotonic()
        replayer = self._send_facts()
        self._joiners = self._start_joiners()
        self.predictions = [settings.folder / f"predictions-{index}.parquet" for index in range(topology.num_workers)]
        self._workers = self._start_workers()
        self._publisher = start_actor(
            PublisherActor,
            redis_url,
            settings.layout,
            self.recommender.groups,
            settings.blueprint.to_json(),
            self.store.shards,
            self._joiners,
            self._workers,
            {"data": settings.data_name},
            threads=4,
        )
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
                self.history.append(self._look())
                on_progress(self.history[-1])
                if until is not None and time.monotonic() > until:
                    break
        except KeyboardInterrupt:
            pass  # the user has seen enough: finish as at the end of a stream
        for actor in (*self._joiners, *self._workers):
            actor.stop.remote()
        for answer in self._training:
            wait_for(answer)
        self.history.append(self._look())
        on_progress(self.history[-1])

    def finish(self) -> tuple[Published, list[FeatureState], np.ndarray, list[dict[str, Any]]]:
        """Publish the last state, then return it: nothing moves any more."""
        self._publisher.stop.remote()
        published: Published = wait_for(self._publisher.publish.remote())
        states = [wait_for(joiner.state.remote()) for joiner in self._joiners]
        delays_ms = np.concatenate([wait_for(worker.delays_ms.remote()) for worker in self._workers])
        return published, [FeatureState.from_json(state["features"]) for state in states], delays_ms, states

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
        if not self._settings.replay.enabled or not isinstance(self._events, KafkaEvents):
            return None
        replay = self._settings.replay
        replayer = start_actor(
            ReplayActor,
            self._settings.data_folder,
            self._settings.data_name,
            self._events,
            replay.events_per_second,
            replay.limit,
        )
        wait_for(replayer.send_facts.remote())
        return replayer

    def _start_joiners(self) -> list[Any]:
        settings, topology = self._settings, self._settings.topology
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

    def _start_workers(self) -> list[Any]:
        settings, topology = self._settings, self._settings.topology
        return [
            start_actor(
                WorkerActor,
                self._events,
                {
                    partition: self._joiners[topology.joiner_of(partition)]
                    for partition in range(topology.num_partitions)
                    if topology.worker_of(partition) == index
                },
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
    """Train on a stream to its end, publish, save; yields what was trained while servers and actors still live."""
    torch.set_num_threads(1)  # the other cores are the actors'
    _check_fresh(settings.folder)
    prepared = _open_data(settings)
    with services(settings, prepared, say) as running, ray_session(settings.ray_address):
        run = OnlineRun(settings, running.events(), running.redis_url)
        run.watch(on_progress, settings.max_minutes)
        published, features, delays_ms, states = run.finish()
        about = {
            "data": settings.data_name,
            "source": running.source,
            "time_ms": max(look["time_ms"] for look in run.worker_status()),
        }
        checkpoint = Checkpoint(settings.blueprint, run.store.snapshot(), states, about)
        save_checkpoint(settings.folder / "checkpoint", checkpoint)
        yield Trained(
            settings=settings,
            prepared=prepared,
            source=running.source,
            redis_url=running.redis_url,
            history=run.history,
            predictions=run.predictions,
            delays_ms=delays_ms,
            store=run.store,
            features=features,
            join_counts=run.join_counts(),
            published=published,
            finished=all(worker["finished"] for worker in run.worker_status()),
            seconds=run.history[-1].seconds,
        )


def _check_fresh(folder: Path) -> None:
    """A folder that holds a run keeps it: what that run published would count as newer than what this one learns."""
    held = [name for name in ("redis", "kafka", "checkpoint") if (folder / name).exists()]
    if held:
        raise ConfigError(f"{folder} holds a run already ({', '.join(held)}); choose another with hydra.run.dir=")


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
