"""Checkpoints of a run while it goes on: one instant of joiners, streams and shards, written in the background.

The joiners' states come first, then a step of the shards: what joiners send again after a restart, workers have learned
already and drop. The step is one that all shards show; each copies its rows and lets training go on while it writes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsys.ps.client import furthest, wait_all
from recsys.ps.routing import merge_snapshots
from recsys.rows.store import DENSE, Cursor, Snapshot, StreamPosition
from recsys.runtime.actors import ActorDied, wait_for
from recsys.runtime.events import KafkaEvents
from recsys.runtime.metrics import RunMetrics
from recsys.runtime.run import OnlineRun
from recsys.runtime.shards import Held
from recsys.training.checkpoint import Checkpoints, State

_CONSUMER = "checkpoint"


@dataclass(frozen=True)
class Saved:
    """One checkpoint, and what it cost."""

    name: str
    step: int
    state: State
    seconds: float
    pause_seconds: float  # the longest that a shard answered nobody
    bytes: int
    is_whole: bool


class Saver:
    """Saves a run; an increment over its own last checkpoint, or everything."""

    def __init__(self, run: OnlineRun, checkpoints: Checkpoints, source: str) -> None:
        self._run, self._checkpoints, self._source = run, checkpoints, source
        self._last: tuple[str, list[Cursor]] | None = None
        self._metrics = RunMetrics()
        self.saved_at = self.tried_at = time.monotonic()

    def save(self) -> Saved:
        """One checkpoint; ServiceError where it can not be written, and the last one stays."""
        started = self.tried_at = time.monotonic()
        states = [wait_for(joiner.state.remote()) for joiner in self._run.joiners]
        base = self._base()
        name, folder = self._checkpoints.begin()
        held: list[Held] = self._run.store.at_one_step([(name, cursor) for cursor in base.cursors], "hold")
        step = self._run.store.step
        self._have_logged(step)
        parts = wait_all([shard.call("write", folder, name) for shard in self._run.store.shards])
        position = furthest([part.position for part in held])
        state = self._state(step, position, states)
        dense = merge_snapshots([Snapshot((0,), {DENSE: part.dense}) for part in held if part.dense]).groups[DENSE]
        self._checkpoints.commit(name, parts, dense, state, base.name)
        cursors = [tuple(part["cursor"]) for part in parts]
        self._run.store.acknowledge(_CONSUMER, tuple(cursor[0] for cursor in cursors))
        self._last, self.saved_at = (name, cursors), time.monotonic()
        self._tell_joiners(position)
        saved = Saved(
            name,
            step,
            state,
            time.monotonic() - started,
            max(part.pause_seconds for part in held),
            sum(file["bytes"] for part in parts for file in part["files"].values()),
            base.name is None,
        )
        self._metrics.checkpointed(saved.seconds, saved.pause_seconds, saved.bytes)
        return saved

    def state(self) -> State:
        """What a checkpoint would say of now, when nobody trains: where none can be written."""
        states = [wait_for(joiner.state.remote()) for joiner in self._run.joiners]
        step = self._run.store.settled()[0]["applied"]
        return self._state(step, self._run.store.position(), states)

    def age_seconds(self) -> float:
        """Since the last checkpoint."""
        age = time.monotonic() - self.saved_at
        self._metrics.checkpoint_age(age)
        return age

    def _have_logged(self, step: int) -> None:
        """Have every worker's predictions up to a step in its file; in ``available`` none of one that is gone."""
        for answer in [worker.logged.remote(step) for worker in self._run.workers]:
            try:
                wait_for(answer)
            except ActorDied:
                if self._run.settings.recovery.mode == "exact":
                    raise

    def _base(self) -> "_Base":
        """What the next checkpoint adds to: this run's own last one, unless it is time for a whole one."""
        shards = self._run.store.shards
        if self._last is not None and self._checkpoints.base(len(shards)) == self._last[0]:
            return _Base(*self._last)
        return _Base(None, [None] * len(shards))

    def _tell_joiners(self, position: StreamPosition) -> None:
        """Without a broker between them, joiners keep what workers may not have learned; now they have."""
        if not isinstance(self._run.events, KafkaEvents):
            numbers = {partition: number for partition, (_, number) in position.items()}
            for answer in [joiner.learned.remote(numbers) for joiner in self._run.joiners]:
                wait_for(answer)

    def _state(self, step: int, position: StreamPosition, states: Sequence[dict[str, Any]]) -> State:
        trained = self._run.worker_status()
        about = {
            "data": self._run.settings.data_name,
            "source": self._source,
            "time_ms": max([self._run.time_ms, *(look["time_ms"] for look in trained)]),
            "finished": all(look["finished"] for look in trained),
            "unknown_ids": sum(look["unknown_ids"] for look in trained),
        }
        return State(
            blueprint=self._run.settings.blueprint,
            joiners=states,
            about=about,
            step=step,
            position={str(partition): list(at) for partition, at in sorted(position.items())},
        )


@dataclass(frozen=True)
class _Base:
    name: str | None
    cursors: Sequence[Cursor | None]
