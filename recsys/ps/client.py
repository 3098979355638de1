"""The parameter server's client: a row store whose rows live on shards.

It knows nothing of Ray: a shard is anything whose methods can be called and waited for (``Shard``). One call a shard
and step, for all row groups together; calls to the shards run side by side. ``ShardedRows`` is for those who read,
restore and watch; a worker that trains in steps has ``recsys.ps.worker.WorkerRows``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from recsys.errors import ConfigError, ServiceError
from recsys.hashing import Floats, Keys
from recsys.ps.routing import merge_snapshots, shards_of, split_snapshot
from recsys.ps.steps import TooLate
from recsys.rows.store import (
    Changes,
    Cursor,
    Deletes,
    Gradients,
    RowGroup,
    RowStore,
    Snapshot,
    StreamPosition,
    Upserts,
    by_name,
    check_whole,
)

Pending = Callable[[], Any]  # waits for an answer and returns it


class Route(NamedTuple):
    """Where keys go: each shard's ``positions``; and the ``place`` of each key in all those, laid end to end."""

    positions: list[Keys]
    place_N: Keys

    @classmethod
    def by(cls, shard_of_N: Keys, num_shards: int) -> "Route":
        """The route of keys whose shards are known.

        >>> Route.by(np.array([1, 0, 1]), num_shards=2)
        Route(positions=[array([1]), array([0, 2])], place_N=array([1, 0, 2]))
        """
        positions = [np.flatnonzero(shard_of_N == shard) for shard in range(num_shards)]
        place_N = np.empty(len(shard_of_N), np.int64)
        place_N[np.concatenate(positions)] = np.arange(len(shard_of_N))
        return cls(positions, place_N)


Routes = Mapping[str, Route]  # by group


class EveryShardLost(ServiceError):
    """All shards are older than what was learned, and nobody takes steps that could follow on it: return to the last
    checkpoint.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        super().__init__(f"every shard was made anew (from step {min(steps)}), and nobody trains any more")
        self.steps = list(steps)

    def __reduce__(self) -> tuple[type["EveryShardLost"], tuple[list[int]]]:
        return EveryShardLost, (self.steps,)


PATIENCE_SECONDS = 1.0  # how long a step that all shards are to show together may take to come


class Shard(Protocol):
    """A StepShard somewhere else."""

    def call(self, method: str, *arguments: Any) -> Pending:
        """Start a call of one of its methods; the result waits for its answer."""


class ShardedRows(RowStore):
    """Rows spread over shards by key.

    Changes and snapshots show all shards after the same step: ``step`` is the one that the last of them showed.
    """

    def __init__(self, groups: Sequence[RowGroup], shards: Sequence[Shard]) -> None:
        if not shards:
            raise ConfigError("a parameter server needs at least one shard; set store.shards to 1 or more")
        self.groups = by_name(groups)
        self.shards = list(shards)
        self.step = 0
        self._known_routes: dict[str, tuple[tuple[Keys, Route], ...]] = {}  # by group, of the last two arrays

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull."""
        routes = self._routes(keys)
        return self._gathered(routes, self._each("pull", self._parted(keys, routes)))

    def push(
        self,
        gradients: Mapping[str, Gradients],
        event_time_ms: int,
        *,
        weight: float = 1.0,
        position: StreamPosition | None = None,
    ) -> None:
        """See RowStore.push: applied at once, beside the steps of workers. All is checked before any shard changes."""
        parts = self._parted_gradients(gradients)
        wait_all([s.call("call", "push", part, event_time_ms) for s, part in zip(self.shards, parts, strict=True)])

    def delete(self, keys: Mapping[str, Keys]) -> None:
        """See RowStore.delete."""
        parts = self._parted(keys, self._routes(keys))
        self.flush()
        wait_all([shard.call("call", "delete", part) for shard, part in zip(self.shards, parts, strict=True)])

    def changes(self, consumer: str, complete: Collection[str] = ()) -> Changes:
        """See RowStore.changes; the cursor has one number a shard."""
        parts: list[Changes] = self.at_one_step([("changes", consumer, tuple(complete))] * len(self.shards))
        whole = frozenset[str]().union(*(part.complete for part in parts))
        if any(part.complete != whole for part in parts):  # all the rows of one shard are not all the rows
            return self.changes(consumer, whole)
        return Changes(
            complete=whole,
            cursor=tuple(sequence for part in parts for sequence in part.cursor),
            upserts={name: Upserts(*_concatenated([p.upserts[name] for p in parts])) for name in self.groups},
            deletes={name: Deletes(*_concatenated([p.deletes[name] for p in parts])) for name in self.groups},
        )

    def acknowledge(self, consumer: str, cursor: Cursor) -> None:
        """See RowStore.acknowledge."""
        pending = [
            shard.call("call", "acknowledge", consumer, (sequence,))
            for shard, sequence in zip(self.shards, cursor, strict=True)
        ]
        wait_all(pending)

    def snapshot(self, since: Cursor | None = None) -> Snapshot:
        """See RowStore.snapshot."""
        if since is not None and len(since) == len(self.shards):
            parts: list[Snapshot] = self.at_one_step([("snapshot", (sequence,)) for sequence in since])
            if all(part.since is not None for part in parts):
                return replace(merge_snapshots(parts), since=since)
        return merge_snapshots(self.at_one_step([("snapshot",)] * len(self.shards)))

    def restore(self, snapshot: Snapshot) -> None:
        """See RowStore.restore; the snapshot may come from any number of shards."""
        check_whole(snapshot)
        for name, group in snapshot.groups.items():
            self._group(name).checked_keys(group.keys_U)
        parts = split_snapshot(snapshot, dict(self.groups), len(self.shards))
        self.flush()
        wait_all([shard.call("call", "restore", part) for shard, part in zip(self.shards, parts, strict=True)])

    def num_rows(self) -> dict[str, int]:
        """See RowStore.num_rows."""
        self.flush()
        parts = wait_all([shard.call("call", "num_rows") for shard in self.shards])
        return {name: sum(part[name] for part in parts) for name in self.groups}

    @property
    def nbytes(self) -> int:
        """See RowStore.nbytes."""
        self.flush()
        return sum(wait_all([shard.call("call", "total_bytes") for shard in self.shards]))

    def look(self) -> list[dict[str, int]]:
        """Where each shard is: see StepShard.look."""
        return wait_all([shard.call("look") for shard in self.shards])

    def position(self) -> dict[int, tuple[int, int]]:
        """Where the streams of all workers stand."""
        return furthest(wait_all([shard.call("position") for shard in self.shards]))

    def settled(self) -> list[dict[str, int]]:
        """Where each shard is. One that was lost when the last worker had left is told where the others stand;
        EveryShardLost where there are no others.
        """
        looks = self.look()
        lost = [(shard, look) for shard, look in zip(self.shards, looks, strict=True) if look["is_lost"]]
        others = [(shard, look) for shard, look in zip(self.shards, looks, strict=True) if not look["is_lost"]]
        if not lost or any(look["expected"] for _, look in others or lost):
            return looks
        if not others:
            raise EveryShardLost([look["applied"] for look in looks])
        step = max(look["applied"] for _, look in others)
        position = furthest([shard.call("position")() for shard, _ in others])
        wait_all([shard.call("catch_up", step, position) for shard, _ in lost])
        return self.look()

    def at_one_step(self, calls: Sequence[tuple[Any, ...]], method: str = "at") -> list[Any]:
        """Each shard's answer to its call of a store's method (name, arguments …), all after the same step.

        First the latest step that any of them has reached is tried: the others are on their way to it. Where they run
        past it meanwhile, one somewhat later is agreed on; where that does not come (a silent stream) it begins anew.
        """
        self.flush()
        ahead = 0
        while True:
            applied = max(look["applied"] for look in self.settled())
            step = applied + ahead
            pending = [s.call(method, step, PATIENCE_SECONDS, *c) for s, c in zip(self.shards, calls, strict=True)]
            answers = [_unless_late(answer) for answer in pending]
            reached = {answer[0] for answer in answers if answer is not None}
            if None not in answers and len(reached) == 1 and min(reached) >= applied:  # none was made anew meanwhile
                self.step = reached.pop()
                return [answer[1] for answer in answers]
            ahead = 2 * ahead if 0 < ahead < 64 else 1

    # --- by shard

    def _parted(self, keys: Mapping[str, Keys], routes: Routes) -> list[dict[str, Keys]]:
        """What each shard is asked for: every group, though there may be no keys."""
        return [
            {name: keys[name].take(route.positions[shard]) for name, route in routes.items()}
            for shard in range(len(self.shards))
        ]

    def _parted_gradients(self, gradients: Mapping[str, Gradients]) -> list[dict[str, Gradients]]:
        """What each shard is sent; DataError where something of it can not be."""
        for name, (keys_N, gradients_NW, *counts_N) in gradients.items():
            self._group(name).checked_gradients(len(keys_N), gradients_NW)
            if counts_N:
                self._group(name).checked_counts(len(keys_N), counts_N[0])
        routes = self._routes({name: arrays[0] for name, arrays in gradients.items()})
        parts: list[dict[str, Gradients]] = [{} for _ in self.shards]
        for name, arrays in gradients.items():
            for part, positions in zip(parts, routes[name].positions, strict=True):  # take: four times as quick as [ ]
                part[name] = tuple(array.take(positions, axis=0) for array in arrays)  # type: ignore[assignment]
        return parts

    def _gathered(self, routes: Routes, answers: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
        """The shards' rows in the order of the keys."""
        return {
            name: np.concatenate([answer[name] for answer in answers]).take(route.place_N, axis=0)
            for name, route in routes.items()
        }

    def _each(self, method: str, arguments: Sequence[Any], *common: Any) -> list[Any]:
        """Call every shard with its own argument, then wait for all."""
        return wait_all(
            [shard.call(method, argument, *common) for shard, argument in zip(self.shards, arguments, strict=True)]
        )

    def _routes(self, keys: Mapping[str, Keys]) -> Routes:
        """Routes of keys. What was pulled is pushed: to see that they are the same is quicker than to route again."""
        routes: dict[str, Route] = {}
        for name, keys_N in keys.items():
            known = self._known_routes.get(name, ())
            route = next((route for of, route in known if _same(of, keys_N)), None)
            if route is None:
                route = self._route(name, keys_N)
                self._known_routes[name] = (*known[-1:], (keys_N.copy(), route))
            routes[name] = route
        return routes

    def _route(self, name: str, keys_N: Keys) -> Route:
        group = self._group(name)
        return Route.by(shards_of(group, group.checked_keys(keys_N), len(self.shards)), len(self.shards))

    def _group(self, name: str) -> RowGroup:
        if name not in self.groups:
            raise ConfigError(f"unknown row group {name!r}; known: {', '.join(self.groups)}")
        return self.groups[name]


def _same(known_N: Keys, keys_N: Keys) -> bool:
    return known_N.dtype == keys_N.dtype and np.array_equal(known_N, keys_N)


def wait_all(pending: Sequence[Pending]) -> list[Any]:
    """The answers, in the order of the calls."""
    return [answer() for answer in pending]


def furthest(positions: Sequence[StreamPosition]) -> dict[int, tuple[int, int]]:
    """Where the streams stand: all shards say the same, but one that was lost may not have heard of all of them.

    >>> furthest([{0: (9, 90), 1: (2, 20)}, {0: (7, 70)}])
    {0: (9, 90), 1: (2, 20)}
    """
    furthest: dict[int, tuple[int, int]] = {}
    for position in positions:
        for partition, at in position.items():
            furthest[partition] = max(at, furthest.get(partition, at), key=lambda at: at[1])
    return furthest


def _unless_late(answer: Pending) -> Any:
    try:
        return answer()
    except TooLate:
        return None


def _concatenated(parts: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]
