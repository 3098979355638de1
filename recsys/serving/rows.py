"""The read side of a row store, over Redis: what tables and models pull from when they serve."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.errors import unknown
from recsys.hashing import Floats, Keys
from recsys.rows.codecs import CODECS
from recsys.rows.layout import Layout
from recsys.rows.store import WHOLE, RowGroup, RowReader
from recsys.serving.answers import answered
from recsys.serving.cache import RowCache
from recsys.serving.wire import Asked, Client, Found, RowWire


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Rows kept in this process: at most ``num_rows`` of a group, for ``max_age_seconds``; 0 seconds keeps none.

    An answer is then up to ``max_age_seconds`` older than without: what was published longer ago is in it.
    """

    max_age_seconds: float = 0.0
    num_rows: int = 100_000


class PublishedRows(RowReader):
    """Rows of one published run: one request for all groups. Absent rows read as the group says."""

    def __init__(
        self, client: Client, layout: Layout, groups: Mapping[str, RowGroup], cache: CacheConfig | None = None
    ) -> None:
        self._wire, self._layout, self._groups = RowWire(client, layout), layout, groups
        self._caches: dict[str, RowCache] = {}
        if cache is not None and cache.max_age_seconds > 0:
            self._caches = {
                name: RowCache(cache.num_rows, group.width, cache.max_age_seconds)
                for name, group in groups.items()
                if name not in WHOLE
            }

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull."""
        return self.pull_beside(keys, ())[0]

    def pull_beside(self, keys: Mapping[str, Keys], values_of: Sequence[str]) -> tuple[dict[str, Floats], list[Any]]:
        """``pull``, and the values of some keys of Redis, read before the rows, all in one round trip."""
        checked = {name: self._group(name).checked_keys(keys_N) for name, keys_N in keys.items()}
        cached = {name: keys_N for name, keys_N in checked.items() if name in self._caches}
        past = {name: keys_N for name, keys_N in checked.items() if name not in self._caches}
        rows: dict[str, Floats] = {}
        missing: dict[str, Keys] = {}  # where
        for name, keys_N in cached.items():
            rows[name], fresh_N = self._caches[name].get(keys_N)
            if not fresh_N.all():
                missing[name] = np.flatnonzero(~fresh_N)
        asked_at = time.monotonic()
        wanted = {**past, **{name: cached[name][places] for name, places in missing.items()}}
        read, values = self._read(wanted, values_of)
        for name, places in missing.items():
            rows[name][places] = read[name]
            self._caches[name].put(wanted[name], read[name], asked_at)
        return {**rows, **{name: read[name] for name in past}}, values

    def pull_versioned(self, name: str, keys_N: Keys) -> tuple[Floats, int]:
        """Rows of one group, past the cache, and the newest of their versions; 0 where there are none."""
        (found,), _ = answered(lambda: self._wire.fetch([self._asked(name, keys_N)]))
        records = np.ascontiguousarray(found.values_NL[:, :8]).view(">f8")
        return self._decoded(name, keys_N, found), int(records.max(initial=0))

    def _read(self, keys: Mapping[str, Keys], values_of: Sequence[str]) -> tuple[dict[str, Floats], list[Any]]:
        asked = [self._asked(name, keys_N) for name, keys_N in keys.items()]
        if not values_of and not any(len(keys_N) for keys_N in keys.values()):
            return {name: np.zeros((0, self._group(name).width), np.float32) for name in keys}, []
        found, values = answered(lambda: self._wire.fetch(asked, values_of))
        rows = {one.group: self._decoded(one.group, one.keys_N, part) for one, part in zip(asked, found, strict=True)}
        return rows, values

    def _asked(self, name: str, keys_N: Keys) -> Asked:
        group = self._group(name)
        return Asked(name, keys_N, self._layout.record(group.width, self._layout.format_of(group)).itemsize)

    def _decoded(self, name: str, keys_N: Keys, found: Found) -> Floats:
        group = self._group(name)
        codec = CODECS[self._layout.format_of(group)]
        records = np.ascontiguousarray(found.values_NL).view(codec.record(group.width)).reshape(-1)
        if len(records) == len(keys_N):
            return codec.decode(records)
        rows_NW = np.empty((len(keys_N), group.width), np.float32)
        rows_NW[found.present_N] = codec.decode(records)
        rows_NW[~found.present_N] = group.absent_rows(keys_N[~found.present_N])
        return rows_NW

    def _group(self, name: str) -> RowGroup:
        if name not in self._groups:
            raise unknown("row group", name, self._groups)
        return self._groups[name]
