"""Row groups in this process: the store of single-process jobs, and what each shard of a parameter server holds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError
from recsys.hashing import Floats, Keys
from recsys.rows import kernels
from recsys.rows.array import ArrayIndex
from recsys.rows.collisionless import CollisionlessIndex, Slots
from recsys.rows.store import (
    Changes,
    Cursor,
    Deletes,
    GroupSnapshot,
    RowGroup,
    RowStore,
    Snapshot,
    Upserts,
    by_name,
)


class LocalRows(RowStore):
    """Rows in this process's memory.

    ``buckets`` (of ``num_buckets``) is the part of the key space that this store is asked for: all of it by
    default, one shard's share behind a parameter server.

    >>> from recsys.rows.optimizers import SGD
    >>> from recsys.rows.initial import Initial
    >>> store = LocalRows([RowGroup(name="item", width=2, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0))])
    >>> store.push({"item": (np.array([5, 5]), np.array([[1, 0], [1, 2]], np.float32))}, event_time_ms=0)
    >>> store.pull({"item": np.array([5, 6])})["item"].tolist()
    [[-2.0, -2.0], [0.0, 0.0]]
    """

    def __init__(self, groups: Sequence[RowGroup], *, buckets: range = range(1), num_buckets: int = 1) -> None:
        self.groups = by_name(groups)
        self._rows = {name: _Rows(group, buckets, num_buckets) for name, group in self.groups.items()}
        self._sequence = 0
        self._acknowledged: dict[str, int] = {}

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull."""
        checked = {name: self._group(name).group.checked_keys(keys_N) for name, keys_N in keys.items()}
        return {name: self._rows[name].pull(keys_N) for name, keys_N in checked.items()}

    def push(self, gradients: Mapping[str, tuple[Keys, Floats]], event_time_ms: int) -> None:
        """See RowStore.push."""
        summed = {
            name: self._group(name).summed(keys_N, gradients_NW) for name, (keys_N, gradients_NW) in gradients.items()
        }
        self._sequence += 1
        for name, (keys_U, gradients_UW) in summed.items():
            self._rows[name].apply(keys_U, gradients_UW, event_time_ms, self._sequence)

    def delete(self, keys: Mapping[str, Keys]) -> None:
        """See RowStore.delete."""
        checked = {name: self._group(name).group.checked_keys(keys_N) for name, keys_N in keys.items()}
        self._sequence += 1
        for name, keys_N in checked.items():
            self._rows[name].delete(np.unique(keys_N), self._sequence)

    def changes(self, consumer: str) -> Changes:
        """See RowStore.changes."""
        since = self._acknowledged.setdefault(consumer, 0)
        return Changes(
            cursor=(self._sequence,),
            upserts={name: rows.upserts(since) for name, rows in self._rows.items()},
            deletes={name: rows.deletes(since) for name, rows in self._rows.items()},
        )

    def acknowledge(self, consumer: str, cursor: Cursor) -> None:
        """See RowStore.acknowledge."""
        self._acknowledged[consumer] = max(self._acknowledged.get(consumer, 0), cursor[0])
        behind = min(self._acknowledged.values())
        for rows in self._rows.values():
            rows.forget_deletes(behind)

    def snapshot(self) -> Snapshot:
        """See RowStore.snapshot."""
        return Snapshot((self._sequence,), {name: rows.snapshot() for name, rows in self._rows.items()})

    def restore(self, snapshot: Snapshot) -> None:
        """See RowStore.restore."""
        for name, group in snapshot.groups.items():
            self._group(name).check_fits(group)
        newest = [int(group.sequences_U.max(initial=0)) for group in snapshot.groups.values()]
        self._sequence = max(self._sequence, *snapshot.cursor, *newest)
        if self._acknowledged:  # they are past the snapshot's sequence numbers, and must be told
            self._sequence += 1
        for name, group in snapshot.groups.items():
            self._rows[name].restore(group, changed_at=self._sequence if self._acknowledged else None)

    def num_rows(self) -> dict[str, int]:
        """See RowStore.num_rows."""
        return {name: rows.index.num_keys for name, rows in self._rows.items()}

    @property
    def nbytes(self) -> int:
        """See RowStore.nbytes."""
        return sum(rows.nbytes for rows in self._rows.values())

    def _group(self, name: str) -> "_Rows":
        if name not in self._rows:
            raise ConfigError(f"unknown row group {name!r}; known: {', '.join(self._rows)}")
        return self._rows[name]


class _Rows:
    """One group: an index from key to slot, and arrays by slot."""

    def __init__(self, group: RowGroup, buckets: range, num_buckets: int) -> None:
        self.group, self._share = group, (buckets, num_buckets)
        self._deletes: list[Deletes] = []
        self.clear()

    def clear(self) -> None:
        """Forget all rows, without a word to the consumers."""
        group = self.group
        self.index: ArrayIndex | CollisionlessIndex
        if group.num_rows is None:
            self.index, capacity = CollisionlessIndex(seed=group.seed), 0
        else:
            self.index = ArrayIndex(group.num_rows, *self._share)
            capacity = self.index.num_slots
        self._values = np.zeros((capacity, group.width), np.float32)
        widths = group.optimizer.state_widths(group.width)
        self._state = {name: np.zeros((capacity, width), np.float32) for name, width in widths.items()}
        self._event_times = np.zeros(capacity, np.int64)
        self._sequences = np.zeros(capacity, np.int64)

    def pull(self, keys_N: Keys) -> Floats:
        slots_N = self.index.find(keys_N)
        absent = slots_N < 0
        if not absent.any():
            return self._values[slots_N]
        rows_NW = np.empty((len(keys_N), self.group.width), np.float32)
        rows_NW[~absent] = self._values[slots_N[~absent]]
        rows_NW[absent] = self.group.absent_rows(keys_N[absent])
        return rows_NW

    def summed(self, keys_N: Keys, gradients_NW: Floats) -> tuple[Keys, Floats]:
        """The gradients checked, repeated keys summed; nothing is changed yet."""
        keys_N = self.group.checked_keys(keys_N)
        gradients_NW = self.group.checked_gradients(len(keys_N), gradients_NW)
        if (keys_N[1:] > keys_N[:-1]).all():  # as Embeddings sends them: there is nothing to sum
            return keys_N, gradients_NW
        keys_U, inverse_N = np.unique(keys_N, return_inverse=True)
        gradients_UW = np.zeros((len(keys_U), self.group.width), np.float32)
        kernels.sum_repeats(inverse_N, gradients_NW, gradients_UW)
        return keys_U, gradients_UW

    def apply(self, keys_U: Keys, gradients_UW: Floats, event_time_ms: int, sequence: int) -> None:
        slots_U = self._slots_with_new_rows(keys_U)
        rows_UW = self._values[slots_U]
        state = {name: values[slots_U] for name, values in self._state.items()}
        self.group.optimizer.update(rows_UW, state, gradients_UW)
        self._values[slots_U] = rows_UW
        for name, values_US in state.items():
            self._state[name][slots_U] = values_US
        self._event_times[slots_U] = np.maximum(self._event_times[slots_U], event_time_ms)
        self._sequences[slots_U] = sequence

    def delete(self, keys_U: Keys, sequence: int) -> None:
        present = self.index.find(keys_U) >= 0
        self.index.delete(keys_U)
        self._record_deletes(keys_U[present], sequence)

    def upserts(self, since: int) -> Upserts:
        keys, slots = self.index.items()
        touched = self._sequences[slots] > since
        keys, slots = keys[touched], slots[touched]
        return Upserts(keys, self._values[slots], self._sequences[slots])

    def deletes(self, since: int) -> Deletes:
        """Keys deleted since and not back again, each with its latest deletion."""
        recent = [part for part in self._deletes if part.sequences_U[0] > since]
        if not recent:
            return Deletes(np.empty(0, np.int64), np.empty(0, np.int64))
        keys = np.concatenate([part.keys_U for part in recent])[::-1]
        sequences = np.concatenate([part.sequences_U for part in recent])[::-1]
        keys, latest = np.unique(keys, return_index=True)
        gone = self.index.find(keys) < 0
        return Deletes(keys[gone], sequences[latest][gone])

    def forget_deletes(self, up_to: int) -> None:
        self._deletes = [part for part in self._deletes if part.sequences_U[0] > up_to]

    def snapshot(self) -> GroupSnapshot:
        keys, slots = self.index.items()
        state = {name: values[slots] for name, values in self._state.items()}
        return GroupSnapshot(keys, self._values[slots], state, self._event_times[slots], self._sequences[slots])

    def check_fits(self, snapshot: GroupSnapshot) -> None:
        """Refuse a snapshot of other keys, width or optimizer, before anything is replaced."""
        name = self.group.name
        self.group.checked_keys(snapshot.keys_U)
        if snapshot.rows_UW.shape[1:] != (self.group.width,):
            raise ConfigError(
                f"row group {name!r}: the snapshot's rows are {snapshot.rows_UW.shape[1]} wide, not {self.group.width}"
            )
        if set(snapshot.state) != set(self._state):
            raise ConfigError(
                f"row group {name!r}: the snapshot's optimizer state is {sorted(snapshot.state)}, this optimizer's is "
                f"{sorted(self._state)}; restore with the optimizer it was trained with"
            )

    def restore(self, snapshot: GroupSnapshot, changed_at: int | None) -> None:
        """Replace all rows; with ``changed_at``, what differs from before is marked as changed then."""
        if changed_at is not None:
            keys_before, _ = self.index.items()
            self._record_deletes(np.setdiff1d(keys_before, snapshot.keys_U), changed_at)
        self.clear()
        slots = self.index.insert(snapshot.keys_U)
        self._grow(self.index.num_slots)
        self._values[slots] = snapshot.rows_UW
        for name, values in self._state.items():
            values[slots] = snapshot.state[name]
        self._event_times[slots] = snapshot.event_times_U
        self._sequences[slots] = snapshot.sequences_U if changed_at is None else changed_at

    @property
    def nbytes(self) -> int:
        of_rows = self._values.nbytes + sum(values.nbytes for values in self._state.values())
        return self.index.nbytes + of_rows + self._event_times.nbytes + self._sequences.nbytes

    def _record_deletes(self, keys_U: Keys, sequence: int) -> None:
        if len(keys_U):
            self._deletes.append(Deletes(keys_U, np.full(len(keys_U), sequence, np.int64)))

    def _slots_with_new_rows(self, keys_U: Keys) -> Slots:
        """Slots of all keys; rows and optimizer state of new ones start afresh, in reused slots too."""
        new = self.index.find(keys_U) < 0
        slots_U = self.index.insert(keys_U)
        if new.any():
            self._grow(self.index.num_slots)
            self._values[slots_U[new]] = self.group.initial.rows(keys_U[new], self.group.width, self.group.seed)
            for name, values in self._state.items():
                values[slots_U[new]] = self.group.optimizer.initial_state(name)
            self._event_times[slots_U[new]] = 0
        return slots_U

    def _grow(self, num_slots: int) -> None:
        if num_slots <= len(self._values):
            return
        capacity = max(num_slots, 2 * len(self._values), 1024)
        self._values = _grown(self._values, capacity)
        self._state = {name: _grown(values, capacity) for name, values in self._state.items()}
        self._event_times = _grown(self._event_times, capacity)
        self._sequences = _grown(self._sequences, capacity)


def _grown(array: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    grown = np.zeros((capacity, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
