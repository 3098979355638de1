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

    An outage of Redis is reported and tried again; a dead shard, joiner or worker is the end.
    """

    def __init__(
        self,
        redis_url: str,
        layout: Layout,
        groups: Sequence[RowGroup],
        shards: Sequence[RayShard],
        joiners: Sequence[Any],
        workers: Sequence[Any],
    ) -> None:
        self._workers = list(workers)
        self._time_ms = -1
        self._publisher = Publisher.connect(
            redis_url,
            ShardedRows(groups, shards),
            [JoinerFeatures(joiner) for joiner in joiners],
            layout,
            time_ms=lambda: self._time_ms,
        )
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._history: list[tuple[float, Published]] = []
        self._error = ""

    def describe(self, blueprint: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Claim the run's name in Redis; ConfigError where it is taken."""
        self._publisher.describe(blueprint, about, fresh=True)

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
            marks = [wait_for(worker.mark.remote()) for worker in self._workers]
            self._time_ms = max([self._time_ms, *(time_ms for _, time_ms in marks)])
            published = self._publisher.publish()
            if not self._history:
                self._publisher.switch()
            at = time.time()
            self._history.append((at, published))
            noted = [
                worker.published.remote(steps, 1000 * at)
                for worker, (steps, _) in zip(self._workers, marks, strict=True)
            ]
            for answer in noted:
                wait_for(answer)
            return published

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
