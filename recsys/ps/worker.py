"""A worker's view of the parameter server: steps, read ahead and pushed without waiting.

While a step is computed, the rows of the next batch are already on their way, where that is the quicker (``Pace``).
The answer to the step's push brings those of them that changed meanwhile, by this worker or another, and it comes when
the worker may go on: so it is the barrier, and what is read is never staler than the bound allows.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.hashing import Floats, Keys
from recsys.ps.client import Pending, Routes, Shard, ShardedRows, wait_all
from recsys.ps.pacing import Pace
from recsys.ps.shard import Refreshed
from recsys.ps.steps import Part, TooLate
from recsys.rows.store import Gradients, RowGroup, StreamPosition


@dataclass
class _Ahead:
    """A read that was begun before the push that it has to wait for."""

    keys: Mapping[str, Keys]
    routes: Routes
    read: list[Pending]
    refreshed: list[Pending] | None = None  # the answers to that push


class WorkerRows(ShardedRows):
    """The rows of worker number ``worker``, which has taken ``step`` steps and is expected to take the next.

    One thread's: pull, then perhaps prefetch, then push, and so on.
    """

    def __init__(
        self,
        groups: Sequence[RowGroup],
        shards: Sequence[Shard],
        *,
        worker: int = 0,
        step: int = 0,
        pace: Pace | None = None,
    ) -> None:
        super().__init__(groups, shards)
        self.worker, self.step = worker, step
        self._pace = pace or Pace()
        self._ahead: _Ahead | None = None
        self._pushed: list[Pending] = []
        self.waited_seconds = 0.0  # for rows, and for others' parts

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull; not staler than the bound, or a worker's own last push where the bound is 0."""
        self._pace.began()
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.keys is keys and ahead.refreshed is not None:
            return self._finished(ahead)
        if ahead is not None:
            self._waited(ahead.read)  # one read of a shard at a time
        self.flush()  # a push that has failed is said here, not waited for
        routes = self._routes(keys)
        parts = self._parted(keys, routes)
        asked = [shard.call("pull", part, self.step) for shard, part in zip(self.shards, parts, strict=True)]
        return self._gathered(routes, self._waited(asked))

    def prefetch(self, keys: Mapping[str, Keys]) -> None:
        """See RowStore.prefetch; left undone where asking when needed is the quicker."""
        if not self._pace.reads_ahead:
            return
        routes = self._routes(keys)
        parts = self._parted(keys, routes)
        read = [
            shard.call("prefetch", self.worker, self.step + 1, part)
            for shard, part in zip(self.shards, parts, strict=True)
        ]
        self._ahead = _Ahead(keys, routes, read)

    def push(
        self,
        gradients: Mapping[str, Gradients],
        event_time_ms: int,
        *,
        weight: float = 1.0,
        position: StreamPosition | None = None,
    ) -> None:
        """This worker's part of the next step; under way when this returns. All is checked before any shard has it."""
        parts = self._parted_gradients(gradients)
        self.flush()
        self.step += 1
        sent = [Part(self.worker, self.step, part, event_time_ms, weight, position or {}) for part in parts]
        refresh = self._ahead is not None
        self._pushed = [shard.call("push", part, refresh) for shard, part in zip(self.shards, sent, strict=True)]
        if self._ahead is not None:
            self._ahead.refreshed = self._pushed
        self._pace.ended(sum(len(arrays[0]) for arrays in gradients.values()))

    def flush(self) -> None:
        """See RowStore.flush; as far as the staleness bound goes."""
        pushed, self._pushed = self._pushed, []  # whatever they answer, they answer once
        self._waited(pushed)

    def join(self) -> None:
        """Take part from a step on that no shard has passed; the next push is its."""
        ahead = 1
        while True:
            first = max(look["newest"] for look in self.look()) + ahead
            try:
                wait_all([shard.call("join", self.worker, first) for shard in self.shards])
            except TooLate:
                ahead *= 2
                continue
            self.step = first - 1
            return

    def leave(self) -> None:
        """Take part no more, so that nobody waits for this worker; every push has been applied then."""
        self.flush()
        self._ahead = None
        wait_all([shard.call("leave", self.worker) for shard in self.shards])

    def _finished(self, ahead: _Ahead) -> dict[str, Floats]:
        """What was read before the last push, with what has changed up to it."""
        assert ahead.refreshed is not None
        rows = self._gathered(ahead.routes, self._waited(ahead.read))
        self._pushed = []
        refreshed: list[Refreshed | None] = self._waited(ahead.refreshed)
        for shard, changed in enumerate(refreshed):
            if changed is None:
                changed = self._read_again(ahead, shard)
            for name, (positions, fresh) in changed.items():
                rows[name][ahead.routes[name].positions[shard][positions]] = fresh
        return rows

    def _waited(self, pending: Sequence[Pending]) -> list[Any]:
        started = time.perf_counter()
        answers = wait_all(pending)
        self.waited_seconds += time.perf_counter() - started
        return answers

    def _read_again(self, ahead: _Ahead, shard: int) -> Refreshed:
        """All rows of one shard, which does not remember what was read of it before."""
        keys = {name: keys_N.take(ahead.routes[name].positions[shard]) for name, keys_N in ahead.keys.items()}
        rows = self.shards[shard].call("pull", keys, self.step)()
        return {name: (np.arange(len(rows[name])), rows[name]) for name in rows}
