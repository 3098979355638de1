"""What a served copy of a row store answers from: the rows as they were when it was last brought up to date.

It goes the way that publications go, ``changes`` and ``acknowledge``, deletions among them; only Redis is left out.
"""

from collections.abc import Mapping

import numpy as np

from recsys.errors import unknown
from recsys.hashing import Floats, Keys
from recsys.rows.store import Deletes, RowGroup, RowReader, RowStore, Upserts


class ServedCopy(RowReader):
    """Rows of every group of ``store``, the dense parameters' among them, as of the last ``sync``.

    >>> from recsys.rows.initial import Initial
    >>> from recsys.rows.local import LocalRows
    >>> from recsys.rows.optimizers import SGD
    >>> store = LocalRows([RowGroup(name="item", width=1, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0))])
    >>> copy, push = ServedCopy(store, "copy"), {"item": (np.array([5]), np.ones((1, 1), np.float32))}
    >>> store.push(push, event_time_ms=0)
    >>> copy.sync()
    >>> store.push(push, event_time_ms=0)
    >>> [rows.pull({"item": np.array([5])})["item"].item() for rows in (copy, store)]
    [-1.0, -2.0]
    """

    def __init__(self, store: RowStore, consumer: str) -> None:
        self._store, self._consumer = store, consumer
        self._groups = {name: _Copied(group) for name, group in store.groups.items()}

    def sync(self) -> None:
        """Take over what has changed since the last time; at first, everything."""
        changes = self._store.changes(self._consumer)
        for name, copied in self._groups.items():
            if name in changes.complete:
                copied.clear()
            copied.apply(changes.upserts[name], changes.deletes[name])
        self._store.acknowledge(self._consumer, changes.cursor)

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull; a key that the copy does not hold reads what its group says."""
        for name in keys:
            if name not in self._groups:
                raise unknown("row group", name, self._groups)
        return {name: self._groups[name].pull(keys_N) for name, keys_N in keys.items()}


class _Copied:
    """The rows of one group, in the order of their keys."""

    def __init__(self, group: RowGroup) -> None:
        self._group = group
        self.clear()

    def clear(self) -> None:
        """Hold nothing."""
        self._keys_U: Keys = np.empty(0, np.int64)
        self._rows_UW: Floats = np.empty((0, self._group.width), np.float32)

    def apply(self, upserts: Upserts, deletes: Deletes) -> None:
        """Deletions first: a key that came back since is among the upserts."""
        kept_U = ~np.isin(self._keys_U, np.concatenate([deletes.keys_U, upserts.keys_U]))
        keys_U = np.concatenate([self._keys_U[kept_U], upserts.keys_U])
        order_U = np.argsort(keys_U)
        self._keys_U = keys_U[order_U]
        self._rows_UW = np.concatenate([self._rows_UW[kept_U], upserts.rows_UW])[order_U]

    def pull(self, keys_N: Keys) -> Floats:
        """Rows (N, W), writable."""
        keys_N = self._group.checked_keys(keys_N)
        rows_NW = self._group.absent_rows(keys_N)
        places_N = np.searchsorted(self._keys_U, keys_N)
        found_N = places_N < len(self._keys_U)
        found_N[found_N] = self._keys_U[places_N[found_N]] == keys_N[found_N]
        rows_NW[found_N] = self._rows_UW[places_N[found_N]]
        return rows_NW
