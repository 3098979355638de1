"""The read side of a row store, over Redis: what tables and models pull from when they serve."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.errors import unknown
from recsys.hashing import Floats, Keys
from recsys.rows.codecs import CODECS
from recsys.rows.layout import Layout
from recsys.rows.store import DENSE, RowGroup, RowReader
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
                if name != DENSE  # those of two times make no model
            }

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull."""
        checked = {name: self._group(name).checked_keys(keys_N) for name, keys_N in keys.items()}
        cached = {name: keys_N for name, keys_N in checked.items() if name in self._caches}
        past = {name: keys_N for name, keys_N in checked.items() if name not in self._caches}
        return {**self._through_cache(cached), **(self._read(past) if past else {})}

    def pull_versioned(self, name: str, keys_N: Keys) -> tuple[Floats, int]:
        """Rows of one group, past the cache, and the newest of their versions; 0 where there are none."""
        (found,) = answered(lambda: self._wire.fetch([self._asked(name, keys_N)]))
        records = np.ascontiguousarray(found.values_NL[:, :8]).view(">f8")
        return self._decoded(name, keys_N, found), int(records.max(initial=0))

    def _through_cache(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """What is here and fresh, and the rest from Redis."""
        rows: dict[str, Floats] = {}
        missing: dict[str, Keys] = {}
        for name, keys_N in keys.items():
            rows[name], fresh_N = self._caches[name].get(keys_N)
            if not fresh_N.all():
                missing[name] = np.flatnonzero(~fresh_N)
        if not missing:
            return rows
        asked_at = time.monotonic()
        for name, read_MW in self._read({name: keys[name][places] for name, places in missing.items()}).items():
            rows[name][missing[name]] = read_MW
            self._caches[name].put(keys[name][missing[name]], read_MW, asked_at)
        return rows

    def _read(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        asked = [self._asked(name, keys_N) for name, keys_N in keys.items()]
        found = answered(lambda: self._wire.fetch(asked)) if any(len(keys_N) for keys_N in keys.values()) else []
        if not found:
            return {name: np.zeros((0, self._group(name).width), np.float32) for name in keys}
        return {one.group: self._decoded(one.group, one.keys_N, part) for one, part in zip(asked, found, strict=True)}

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
