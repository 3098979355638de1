"""The publisher as an actor: every few seconds, what changed goes to Redis."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from recsys.errors import ServiceError
from recsys.ps.client import ShardedRows
from recsys.rows.layout import Layout
from recsys.rows.store import RowGroup
from recsys.runtime.actors import ActorDied, wait_for
from recsys.runtime.joiner import JoinerFeatures
from recsys.runtime.shards import RayShard
from recsys.sync.publisher import Published, Publisher


class PublisherActor:
    """Publishes at an interval, and once more when asked.

    ``everything`` at first, where the run goes on from an earlier point than was published. An outage of Redis is
    reported and tried again; a dead shard, joiner or worker is the end, but for a worker that will be replaced.
    """

    def __init__(
        self,
        redis_url: str,
        layout: Layout,
        groups: Sequence[RowGroup],
        shards: Sequence[RayShard],
        joiners: Sequence[Any],
        everything: bool,
        workers_may_die: bool = False,
    ) -> None:
        self._workers: list[Any] = []
        self._everything = everything
        self._workers_may_die = workers_may_die
        self._time_ms = -1
        self._store = ShardedRows(groups, shards)
        self._publisher = Publisher.connect(
            redis_url,
            self._store,
            [JoinerFeatures(joiner) for joiner in joiners],
            layout,
            time_ms=lambda: self._time_ms,
        )
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._history: list[tuple[float, Published]] = []
        self._error = ""

    def set_workers(self, workers: Sequence[Any]) -> None:
        """Who trains from now on."""
        with self._lock:
            self._workers = list(workers)

    def describe(self, blueprint: Mapping[str, Any], about: Mapping[str, Any], fresh: bool) -> None:
        """Claim the run's name in Redis; ConfigError where it is taken, or (not ``fresh``) was another's."""
        self._publisher.describe(blueprint, about, fresh=fresh)

    def run(self, interval_seconds: float) -> None:
        """Publish every ``interval_seconds`` until ``stop``."""
        while not self._stopping.wait(interval_seconds):
            try:
                self.publish()
                self._error = ""
            except ActorDied:
                raise
            except ServiceError as error:
                self._error = str(error)

    def publish(self) -> Published:
        """Publish now; the first publication makes this run the one that is served."""
        with self._lock:
            self._time_ms = max([self._time_ms, *self._of_workers("mark")])
            published = self._publisher.publish(everything=self._everything)
            self._everything = False
            if not self._history:
                self._publisher.switch()
            at = time.time()
            self._history.append((at, published))
            self._of_workers("published", self._store.step, 1000 * at)
            return published

    def _of_workers(self, method: str, *arguments: Any) -> list[Any]:
        """The workers' answers; without those of the dead, where they are to be replaced."""
        answers = []
        for asked in [getattr(worker, method).remote(*arguments) for worker in self._workers]:
            try:
                answers.append(wait_for(asked))
            except ActorDied:
                if not self._workers_may_die:
                    raise
        return answers

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    def status(self) -> dict[str, Any]:
        """The last publication, for the display."""
        at = self._history[-1][0] if self._history else float("nan")
        return {
            "publications": len(self._history),
            "last_at": at,
            "error": self._error,
        }
