"""Row groups in this process: the store of single-process jobs, and what each shard of a parameter server holds."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from recsys.errors import ConfigError
from recsys.hashing import Floats, Keys
from recsys.rows.group import Rows
from recsys.rows.parallel import usable_cores
from recsys.rows.store import (
    Changes,
    Cursor,
    Gradients,
    RowGroup,
    RowStore,
    Snapshot,
    StreamPosition,
    by_name,
    check_whole,
)


class LocalRows(RowStore):
    """Rows in this process's memory.

    ``buckets`` (of ``num_buckets``) is the part of the key space that this store is asked for: all of it by
    default, one shard's share behind a parameter server. Large calls use ``threads`` threads, by default one a core;
    results do not depend on their number.

    >>> from recsys.rows.optimizers import SGD
    >>> from recsys.rows.initial import Initial
    >>> store = LocalRows([RowGroup(name="item", width=2, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0))])
    >>> store.push({"item": (np.array([5, 5]), np.array([[1, 0], [1, 2]], np.float32))}, event_time_ms=0)
    >>> store.pull({"item": np.array([5, 6])})["item"].tolist()
    [[-2.0, -2.0], [0.0, 0.0]]
    """

    def __init__(
        self,
        groups: Sequence[RowGroup],
        *,
        buckets: range = range(1),
        num_buckets: int = 1,
        threads: int | None = None,
    ) -> None:
        self.groups = by_name(groups)
        self._rows = {
            name: Rows(group, buckets=buckets, num_buckets=num_buckets, threads=threads or usable_cores())
            for name, group in self.groups.items()
        }
        self._sequence = 0
        self._acknowledged: dict[str, int] = {}

    def pull(self, keys: Mapping[str, Keys], out: Mapping[str, Floats] | None = None) -> dict[str, Floats]:
        """See RowReader.pull; into the arrays of ``out`` where they are given, float32 of shape (N, W)."""
        checked = {name: self._group(name).group.checked_keys(keys_N) for name, keys_N in keys.items()}
        return {
            name: self._rows[name].pull(keys_N, None if out is None else out[name]) for name, keys_N in checked.items()
        }

    def push(
        self,
        gradients: Mapping[str, Gradients],
        event_time_ms: int,
        *,
        weight: float = 1.0,
        position: StreamPosition | None = None,
    ) -> None:
        """See RowStore.push; every push is a step of its own, so its weight is all there is."""
        pushes = {name: self._group(name).checked(*arrays) for name, arrays in gradients.items()}
        self._sequence += 1
        for name, push in pushes.items():
            self._rows[name].push(push, self._sequence, event_time_ms)

    def retune(self, groups: Sequence[RowGroup]) -> None:
        """See RowStore.retune."""
        for group in groups:
            self._group(group.name).check_retuned(group)
        for group in groups:
            self._rows[group.name].retune(group)
        self.groups = by_name(groups)

    @property
    def sequence(self) -> int:
        """The number of the last change."""
        return self._sequence

    def stale(self, keys: Mapping[str, Keys], since: int) -> dict[str, Keys]:
        """Positions, by group, of the keys whose rows may read otherwise than they did at a sequence number."""
        return {name: self._group(name).stale(keys_N, since) for name, keys_N in keys.items()}

    def delete(self, keys: Mapping[str, Keys]) -> None:
        """See RowStore.delete."""
        checked = {name: self._group(name).group.checked_keys(keys_N) for name, keys_N in keys.items()}
        self._sequence += 1
        for name, keys_N in checked.items():
            self._rows[name].delete(np.unique(keys_N), self._sequence)

    def changes(self, consumer: str, complete: Collection[str] = ()) -> Changes:
        """See RowStore.changes."""
        if complete:
            self._sequence += 1
            for name in complete:
                self._group(name).resend(self._sequence)
        since = self._acknowledged.setdefault(consumer, 0)
        return Changes(
            cursor=(self._sequence,),
            upserts={name: rows.upserts(since) for name, rows in self._rows.items()},
            deletes={name: rows.deletes(since) for name, rows in self._rows.items()},
            complete=frozenset(name for name, rows in self._rows.items() if rows.is_complete(since)),
        )

    def resend(self) -> None:
        """Let every consumer be told all rows anew, as changed now: it may know of changes that are lost."""
        self._sequence += 1
        for rows in self._rows.values():
            rows.resend(self._sequence)

    def acknowledge(self, consumer: str, cursor: Cursor) -> None:
        """See RowStore.acknowledge."""
        self._acknowledged[consumer] = max(self._acknowledged.get(consumer, 0), cursor[0])
        behind = min(self._acknowledged.values())
        for rows in self._rows.values():
            rows.forget_deletes(behind)

    def snapshot(self, since: Cursor | None = None, whole: Collection[str] = ()) -> Snapshot:
        """See RowStore.snapshot; the groups in ``whole`` are told whole in an increment, too."""
        if since is not None and not all(rows.remembers(since[0]) for rows in self._rows.values()):
            since = None
        after = 0 if since is None else since[0]
        groups = {name: rows.snapshot(0 if name in whole else after) for name, rows in self._rows.items()}
        return Snapshot((self._sequence,), groups, since)

    def restore(self, snapshot: Snapshot) -> None:
        """See RowStore.restore."""
        check_whole(snapshot)
        for name, group in snapshot.groups.items():
            self._group(name).check_fits(group)
        newest = [int(group.sequences_U.max(initial=0)) for group in snapshot.groups.values()]
        self._sequence = max(self._sequence, *snapshot.cursor, *newest)
        if self._acknowledged:  # they may be past the snapshot's sequence numbers, and must be told
            self._sequence += 1
        for name, group in snapshot.groups.items():
            self._rows[name].restore(group, self._sequence)
            if self._acknowledged:
                self._rows[name].resend(self._sequence)

    def num_rows(self) -> dict[str, int]:
        """See RowStore.num_rows."""
        return {name: rows.index.num_keys for name, rows in self._rows.items()}

    @property
    def nbytes(self) -> int:
        """See RowStore.nbytes."""
        return sum(rows.nbytes for rows in self._rows.values())

    def _group(self, name: str) -> Rows:
        if name not in self._rows:
            raise ConfigError(f"unknown row group {name!r}; known: {', '.join(self._rows)}")
        return self._rows[name]
