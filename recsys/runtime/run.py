"""The actors of an online run, wired: joiners → workers and parameter server → publisher.

A run begins at a ``Start``: a checkpoint, that of its own beginning included. What dies ends it, or is replaced.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from recsys.errors import ConfigError, ServiceError
from recsys.models.recommender import Recommender
from recsys.ps.client import ShardedRows, wait_all
from recsys.rows.store import StreamPosition
from recsys.runtime.actors import ActorDied, Placement, has_died, start_actor, wait_for
from recsys.runtime.events import Events, KafkaEvents
from recsys.runtime.joiner import JoinerActor
from recsys.runtime.publishing import PublisherActor
from recsys.runtime.replaying import ReplayActor
from recsys.runtime.settings import OnlineSettings
from recsys.runtime.shards import Begin, check_started, start_shards
from recsys.runtime.worker import Task, WorkerActor
from recsys.serving.clicks import Shown
from recsys.sync.publisher import Published, PublishedVersions


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins: at a step, at positions of its streams, with states of joiners and, by name, a checkpoint.

    ``learned`` is a checkpoint of another run that a new one begins with: its folder, and its name there.
    ``published`` is what a run before it has published under the same name: everything of this one is newer.
    """

    position: StreamPosition
    step: int = 0
    checkpoint: str | None = None
    joiners: Sequence[Mapping[str, Any]] = ()
    learned: tuple[str, str] | None = None
    published: PublishedVersions | None = None
    time_ms: int = -1

    @property
    def is_new(self) -> bool:
        """Whether nothing came before."""
        return self.checkpoint is None


class OnlineRun:
    """The actors of one run, from one start on: ``prepare`` makes them, ``begin`` lets them go."""

    def __init__(
        self, settings: OnlineSettings, events: Events, redis_url: str, start: Start, num_workers: int | None = None
    ) -> None:
        self.settings, self.events, self._redis_url, self._begun = settings, events, redis_url, start
        self.time_ms = start.time_ms
        self.num_workers = num_workers or settings.topology.num_workers
        self.recommender = Recommender(settings.blueprint)
        self.training: list[Any] = []
        self._others: list[Any] = []
        self._past_delays_ms: list[np.ndarray] = []
        self._asked: dict[int, Any] = {}  # shards whether they are there: answers that are not
        self.is_described = False  # in Redis: its name is this run's from then on
        self._actors: list[Any] = []  # all that were started, whatever became of the rest

    def prepare(self) -> None:
        """Start every actor, and wait until each holds what it starts from."""
        self.store = self._start_shards()
        self._replayer = self._send_facts()
        self.joiners = self._start_joiners()
        self.workers = self._start_workers(self._begun.step, self._begun.position)
        self._publisher = self._start_publisher()
        for actor in (*self.joiners, *self.workers):
            wait_for(actor.ready.remote())

    def begin(self) -> None:
        """Let everything go."""
        self.training = [worker.run.remote() for worker in self.workers]
        self._others = [self._publisher.run.remote(self.settings.sync_seconds)]
        if isinstance(self.events, KafkaEvents):
            self._others += [joiner.run.remote() for joiner in self.joiners]
        if self._replayer is not None:
            self._others.append(self._replayer.send_events.remote())

    def ended(self, patience_seconds: float) -> list[Any]:
        """Answers of actors that have come to an end, well or not; waits so long for all of them."""
        everything = [*self.training, *self._others]
        done, _ = ray.wait(everything, num_returns=len(everything), timeout=patience_seconds)
        return list(done)

    def shards_away(self, patience_seconds: float) -> list[int]:
        """Shards that do not answer within that time; those that do not are not asked again before they have."""
        for number, shard in enumerate(self.store.shards):
            if number not in self._asked:
                self._asked[number] = shard.actor.ready.remote()  # type: ignore[attr-defined]
        answered, _ = ray.wait([*self._asked.values()], num_returns=len(self._asked), timeout=patience_seconds)
        self._asked = {number: answer for number, answer in self._asked.items() if answer not in answered}
        return sorted(self._asked)

    def stop(self) -> list[Any]:
        """Ask joiners and workers to stop; returns what the workers answer when they have."""
        for actor in (*self.joiners, *self.workers):
            actor.stop.remote()
        return self.training

    def kill(self) -> None:
        """End every actor at once: what they held is given up."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)

    def publish(self) -> Published:
        """Publish what changed since the last publication; nothing moves any more."""
        self._publisher.stop.remote()
        published: Published = wait_for(self._publisher.publish.remote())
        return published

    def act(self, shown: Shown, kind: str) -> int:
        """Send a click at the replay's own time, in ms; ServiceError where the run replays nothing."""
        if self._replayer is None:
            raise ServiceError("this run replays nothing that a click could go with")
        time_ms: int = wait_for(self._replayer.act.remote(shown, kind))
        return time_ms

    # --- workers that come and go

    def set_workers(self, num_workers: int) -> None:
        """Go on with another number of workers, from the step and the positions that these have come to."""
        if not 1 <= num_workers <= self.settings.topology.num_partitions:
            raise ConfigError(
                f"{num_workers} workers for {self.settings.topology.num_partitions} partitions; each needs at least one"
            )
        for worker in self.workers:
            worker.stop.remote()
        for answer in self.training:
            wait_for(answer)
        self._past_delays_ms.append(self._delays_of(self.workers))
        step, position = self._reached()
        self.num_workers = num_workers
        members = dict.fromkeys(range(num_workers), step + 1)
        wait_all([shard.call("regroup", members) for shard in self.store.shards])
        former, self.workers = self.workers, self._start_workers(step, position)
        wait_for(self._publisher.set_workers.remote(self.workers))
        self.training = [worker.run.remote() for worker in self.workers]
        for worker in former:
            ray.kill(worker, no_restart=True)

    def replace_worker(self, worker: int) -> None:
        """Put another in a lost worker's place: it takes the steps that a shard still misses of it.

        In the place of one that had left because its stream is silent, one that joins when something comes.
        """
        joins = not self._is_counted_on(worker)
        step, position = (None if joins else self._taken_by(worker)) or self._furthest()
        known = {**self._begun.position, **self.store.position(), **position}
        begin = {partition: known[partition] for partition in self._partitions_of(worker)}
        task = replace(self._task(worker, step, begin), joins=joins)
        self.workers[worker] = self._started(WorkerActor, task, threads=8, placement=self.settings.placement.worker)
        self.training[worker] = self.workers[worker].run.remote()
        wait_for(self._publisher.set_workers.remote(self.workers))

    def expect_workers(self, shard: int) -> None:
        """Tell a shard that was made anew who takes part now; who has died is to be replaced, and does too."""
        done, _ = ray.wait(self.training, num_returns=len(self.training), timeout=0)
        members = {
            w: 1
            for w, answer in enumerate(self.training)
            if (has_died(answer) if answer in done else self._takes_part(w))
        }
        self.store.shards[shard].call("expect", members)()

    def _is_counted_on(self, worker: int) -> bool:
        """Whether every shard waits for a worker's parts; where only some do (it was about to leave), none from now."""
        if all(wait_all([shard.call("counts_on", worker) for shard in self.store.shards])):
            return True
        wait_all([shard.call("leave", worker) for shard in self.store.shards])
        return False

    def _takes_part(self, worker: int) -> bool:
        """Whether a worker that trains has not left because its stream is silent; who has just died counts too."""
        try:
            return bool(wait_for(self.workers[worker].takes_part.remote()))
        except ActorDied:
            return True

    def _taken_by(self, worker: int) -> tuple[int, StreamPosition] | None:
        """The step of a worker that every shard has a part of, and its stream's position; None where none knows one."""
        taken = [found[worker] for shard in self.store.shards if worker in (found := shard.call("taken")())]
        return min(taken, key=lambda part: part[0], default=None)

    def _furthest(self) -> tuple[int, StreamPosition]:
        """The last step that a shard has applied, and the streams' positions after it: a lost one is behind."""
        looks = self.store.look()
        shard = max(range(len(looks)), key=lambda shard: looks[shard]["applied"])
        return looks[shard]["applied"], self.store.shards[shard].call("position")()

    def _reached(self) -> tuple[int, dict[int, tuple[int, int]]]:
        """The step that all shards have applied, and the streams' positions after it: nobody trains."""
        steps = [look["applied"] for look in self.store.settled()]
        assert len(set(steps)) == 1, steps
        return steps[0], self.store.position()

    # --- what is told of it

    def delays_ms(self) -> np.ndarray:
        """Milliseconds from reading an event to its effect in Redis, one an example; none of a worker that is gone."""
        return np.concatenate([*self._past_delays_ms, self._delays_of(self.workers)])

    def _delays_of(self, workers: Sequence[Any]) -> np.ndarray:
        known = [np.empty(0)]
        for asked in [worker.delays_ms.remote() for worker in workers]:
            with suppress(ActorDied):
                known.append(wait_for(asked))
        return np.concatenate(known)

    def joiner_status(self) -> list[dict[str, Any]]:
        """Every joiner's own account."""
        return [wait_for(asked) for asked in [joiner.status.remote() for joiner in self.joiners]]

    def worker_status(self) -> list[dict[str, Any]]:
        """Every worker's own account; of one that is to be replaced, none."""
        looks = []
        for asked in [worker.status.remote() for worker in self.workers]:
            try:
                looks.append(wait_for(asked))
            except ActorDied:
                if self.settings.recovery.mode == "exact":
                    raise
        return looks

    def published_status(self) -> dict[str, Any]:
        """The publisher's."""
        status: dict[str, Any] = wait_for(self._publisher.status.remote())
        return status

    # --- starting

    def _started(self, kind: type, *arguments: Any, threads: int, placement: Placement | None = None) -> Any:
        actor = start_actor(kind, *arguments, threads=threads, placement=placement)
        self._actors.append(actor)
        return actor

    def _start_publisher(self) -> Any:
        """A publisher that has claimed the run's name in Redis."""
        settings, start = self.settings, self._begun
        publisher = self._started(
            PublisherActor,
            self._redis_url,
            settings.layout,
            self.recommender.groups,
            self.store.shards,
            self.joiners,
            not start.is_new,
            settings.recovery.mode == "available",
            threads=4,
        )
        about = {"data": settings.data_name}
        wait_for(publisher.describe.remote(settings.blueprint.to_json(), about, start.published is None))
        self.is_described = True
        wait_for(publisher.set_workers.remote(self.workers))
        return publisher

    def _start_shards(self) -> ShardedRows:
        settings, start = self.settings, self._begun
        begin = Begin(
            start=self.recommender.start_state(),
            checkpoints=settings.checkpoints,
            name=start.checkpoint,
            learned=start.learned,
            step=start.step,
            position=start.position,
            members=dict.fromkeys(range(self.num_workers), start.step + 1),
            staleness=settings.staleness,
            above=0 if start.published is None else start.published.newest_row,
            restarts=settings.recovery.max_recoveries if settings.recovery.mode == "available" else 0,
        )
        groups = self.recommender.groups
        shards = start_shards(groups, settings.topology.num_shards, begin, settings.placement.shard)
        self._actors += [shard.actor for shard in shards]
        check_started(shards)
        return ShardedRows(groups, shards)

    def _send_facts(self) -> Any:
        """A replayer that has sent its facts, where the run replays into Kafka."""
        if not self.settings.replay.enabled or not isinstance(self.events, KafkaEvents):
            return None
        replay = self.settings.replay
        replayer = self._started(
            ReplayActor,
            self.settings.data_folder,
            self.settings.data_name,
            self.events,
            replay.events_per_second,
            replay.limit,
            not self._begun.is_new,
            replay.repeat,
            threads=2,  # clicks come beside
        )
        wait_for(replayer.send_facts.remote())
        return replayer

    def _start_joiners(self) -> list[Any]:
        settings, topology, published = self.settings, self.settings.topology, self._begun.published
        above = 0 if published is None else -(-published.features // topology.num_joiners)
        return [
            self._started(
                JoinerActor,
                self.events,
                [p for p in range(topology.num_partitions) if topology.joiner_of(p) == index],
                settings.join,
                settings.blueprint.features,
                settings.times,
                settings.folder / f"dead-letters-{index}",
                self._begun.joiners,
                above,
                settings.sampler,
                settings.folder / "joiner" if isinstance(self.events, KafkaEvents) else None,
                threads=4,
                placement=settings.placement.joiner,
            )
            for index in range(topology.num_joiners)
        ]

    def _partitions_of(self, worker: int) -> list[int]:
        topology = replace(self.settings.topology, num_workers=self.num_workers)
        return [p for p in range(topology.num_partitions) if topology.worker_of(p) == worker]

    def _task(self, worker: int, step: int, position: StreamPosition) -> Task:
        settings, topology = self.settings, self.settings.topology
        live = not (settings.replay.enabled or settings.source == "parquet")
        mine = self._partitions_of(worker)
        return Task(
            worker=worker,
            blueprint=settings.blueprint,
            shards=self.store.shards,  # type: ignore[arg-type]
            events=self.events,
            joiners={partition: self.joiners[topology.joiner_of(partition)] for partition in mine},
            start={partition: position[partition] for partition in mine},
            predictions=settings.folder / "predictions",
            archive=settings.folder / "archive",
            archiving=settings.archiving,
            goes_on=settings.recovery.mode == "available",
            max_examples=settings.max_examples,
            max_seconds=settings.max_seconds,
            idle_seconds=settings.times.idle_seconds if live else None,
            step=step,
        )

    def _start_workers(self, step: int, position: StreamPosition) -> list[Any]:
        return [
            self._started(
                WorkerActor, self._task(worker, step, position), threads=8, placement=self.settings.placement.worker
            )
            for worker in range(self.num_workers)
        ]


def join_counts(joiners: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What became of the events, over all joiners."""
    total: dict[str, int] = {}
    for look in joiners:
        for name, count in look["counts"].items():
            total[name] = total.get(name, 0) + count
    return total
