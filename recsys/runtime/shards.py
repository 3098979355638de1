"""Row shards as Ray actors: the parameter server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.ps.client import Pending, ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.wire import PackedKeys, PackedRows
from recsys.rows.local import LocalRows
from recsys.rows.store import Gradients, RowGroup
from recsys.runtime.actors import start_actor, wait_for


class RowShard:
    """One shard: a LocalRows over its share of the virtual buckets. One call at a time, so each is atomic."""

    def __init__(self, groups: Sequence[RowGroup], shard: int, num_shards: int) -> None:
        self._store = LocalRows(groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)

    def call(self, method: str, *arguments: Any) -> Any:
        """Any method of the row store."""
        return getattr(self._store, method)(*arguments)

    def pull(self, keys: PackedKeys) -> PackedRows:
        """``pull``, packed."""
        return PackedRows.of(self._store.pull(keys.unpack()))

    def push(self, keys: PackedKeys, gradients: PackedRows, counts: PackedKeys, event_time_ms: int) -> None:
        """``push``, packed; ``counts`` of the groups that come with some."""
        rows, counted = gradients.unpack(), counts.unpack()
        self._store.push(
            {
                name: (keys_N, rows[name], counted[name]) if name in counted else (keys_N, rows[name])
                for name, keys_N in keys.unpack().items()
            },
            event_time_ms,
        )


@dataclass(frozen=True)
class RayShard:
    """A shard seen from elsewhere; can be sent to other actors."""

    actor: Any

    def call(self, method: str, *arguments: Any) -> Pending:
        """Start a call; the result waits for its answer. Pulls and pushes, the calls of every step, go packed."""
        if method == "pull":
            pulled = self.actor.pull.remote(PackedKeys.of(*arguments))
            return lambda: wait_for(pulled).unpack()
        if method == "push":
            answer = self.actor.push.remote(*_packed(*arguments))
        else:
            answer = self.actor.call.remote(method, *arguments)
        return lambda: wait_for(answer)


def _packed(gradients: Mapping[str, Gradients], event_time_ms: int) -> tuple[PackedKeys, PackedRows, PackedKeys, int]:
    keys = PackedKeys.of({name: arrays[0] for name, arrays in gradients.items()})
    rows = PackedRows.of({name: arrays[1] for name, arrays in gradients.items()})
    counts = PackedKeys.of({name: arrays[2] for name, arrays in gradients.items() if len(arrays) == 3})
    return keys, rows, counts, event_time_ms


def start_shards(groups: Sequence[RowGroup], num_shards: int) -> ShardedRows:
    """A parameter server of ``num_shards`` actors, and the client to it."""
    return ShardedRows(
        groups,
        [RayShard(start_actor(RowShard, list(groups), shard, num_shards)) for shard in range(num_shards)],
    )
