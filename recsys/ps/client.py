"""The parameter server's client: a row store whose rows live on shards.

It knows nothing of Ray: a shard is anything whose methods can be called and waited for (``Shard``). One call a shard
and step, for all row groups together; calls to the shards run side by side.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from recsys.errors import ConfigError
from recsys.hashing import Floats, Keys
from recsys.ps.routing import merge_snapshots, shards_of, split_snapshot
from recsys.rows.store import (
    Changes,
    Cursor,
    Deletes,
    Gradients,
    RowGroup,
    RowStore,
    Snapshot,
    Upserts,
    by_name,
    check_whole,
)

Pending = Callable[[], Any]  # waits for an answer and returns it


class Shard(Protocol):
    """A row store somewhere else."""

    def call(self, method: str, *arguments: Any) -> Pending:
        """Start a call; the result waits for its answer."""


class LocalShard:
    """A shard in this process: how routing is tested without servers."""

    def __init__(self, store: RowStore) -> None:
        self._store = store

    def call(self, method: str, *arguments: Any) -> Pending:
        """Answers at once."""
        answer = getattr(self._store, method)(*arguments)
        return lambda: answer


class ShardedRows(RowStore):
    """Rows spread over shards by key."""

    def __init__(self, groups: Sequence[RowGroup], shards: Sequence[Shard]) -> None:
        if not shards:
            raise ConfigError("a parameter server needs at least one shard; set store.shards to 1 or more")
        self.groups = by_name(groups)
        self.shards = list(shards)
        self._pushing: list[Pending] = []

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull."""
        routes = {name: self._route(name, keys_N) for name, keys_N in keys.items()}
        asked = [{name: keys[name][route[shard]] for name, route in routes.items()} for shard in self._all_shards]
        answers = self._each("pull", asked)
        rows = {name: np.empty((len(keys_N), self.groups[name].width), np.float32) for name, keys_N in keys.items()}
        for shard, answer in enumerate(answers):
            for name, part in answer.items():
                rows[name][routes[name][shard]] = part
        return rows

    def push(self, gradients: Mapping[str, Gradients], event_time_ms: int) -> None:
        """See RowStore.push. Everything is checked here, before any shard changes.

        A push is under way when this returns, and waited for by the next: a shard takes one client's calls in their
        order, so this client's later pulls see it. Others do after ``flush``.
        """
        for name, (keys_N, gradients_NW, *counts_N) in gradients.items():
            self._group(name).checked_gradients(len(keys_N), gradients_NW)
            if counts_N:
                self._group(name).checked_counts(len(keys_N), counts_N[0])
        parts: list[dict[str, Gradients]] = [{} for _ in self.shards]
        for name, arrays in gradients.items():
            for shard, indices in enumerate(self._route(name, arrays[0])):
                parts[shard][name] = tuple(array[indices] for array in arrays)  # type: ignore[assignment]
        started = [shard.call("push", part, event_time_ms) for shard, part in zip(self.shards, parts, strict=True)]
        pushing, self._pushing = self._pushing, started
        _wait(pushing)

    def flush(self) -> None:
        """See RowStore.flush."""
        _wait(self._pushing)

    def delete(self, keys: Mapping[str, Keys]) -> None:
        """See RowStore.delete."""
        routes = {name: self._route(name, keys_N) for name, keys_N in keys.items()}
        self._each(
            "delete",
            [{name: keys[name][route[shard]] for name, route in routes.items()} for shard in self._all_shards],
        )

    def changes(self, consumer: str, complete: Collection[str] = ()) -> Changes:
        """See RowStore.changes; the cursor has one number a shard."""
        parts: list[Changes] = self._each("changes", [consumer] * len(self.shards), tuple(complete))
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
            shard.call("acknowledge", consumer, (sequence,))
            for shard, sequence in zip(self.shards, cursor, strict=True)
        ]
        _wait(pending)

    def snapshot(self, since: Cursor | None = None) -> Snapshot:
        """See RowStore.snapshot; of one instant where nothing is pushed meanwhile."""
        if since is not None and len(since) == len(self.shards):
            parts: list[Snapshot] = self._each("snapshot", [(sequence,) for sequence in since])
            if all(part.since is not None for part in parts):
                return replace(merge_snapshots(parts), since=since)
        return merge_snapshots(_wait([shard.call("snapshot") for shard in self.shards]))

    def restore(self, snapshot: Snapshot) -> None:
        """See RowStore.restore; the snapshot may come from any number of shards."""
        check_whole(snapshot)
        for name, group in snapshot.groups.items():
            self._group(name).checked_keys(group.keys_U)
        self._each("restore", split_snapshot(snapshot, dict(self.groups), len(self.shards)))

    def num_rows(self) -> dict[str, int]:
        """See RowStore.num_rows."""
        parts = _wait([shard.call("num_rows") for shard in self.shards])
        return {name: sum(part[name] for part in parts) for name in self.groups}

    @property
    def nbytes(self) -> int:
        """See RowStore.nbytes."""
        return sum(_wait([shard.call("total_bytes") for shard in self.shards]))

    @property
    def _all_shards(self) -> range:
        return range(len(self.shards))

    def _each(self, method: str, arguments: Sequence[Any], *common: Any) -> list[Any]:
        """Call every shard with its own argument, then wait for all."""
        return _wait(
            [shard.call(method, argument, *common) for shard, argument in zip(self.shards, arguments, strict=True)]
        )

    def _route(self, name: str, keys_N: Keys) -> list[Keys]:
        """For each shard, the positions in ``keys_N`` of its keys."""
        group = self._group(name)
        shard_of_N = shards_of(group, group.checked_keys(keys_N), len(self.shards))
        return [np.flatnonzero(shard_of_N == shard) for shard in self._all_shards]

    def _group(self, name: str) -> RowGroup:
        if name not in self.groups:
            raise ConfigError(f"unknown row group {name!r}; known: {', '.join(self.groups)}")
        return self.groups[name]


def _wait(pending: Sequence[Pending]) -> list[Any]:
    return [answer() for answer in pending]


def _concatenated(parts: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]
