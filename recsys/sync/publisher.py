"""The publisher: changes of rows, dense parameters and features, written to Redis so that replay is harmless.

Each value carries its version and replaces only an older one (a Lua script compares), so that a delta written twice,
late or out of order changes nothing. Changes are acknowledged to the store only after Redis has them: an outage
delays, it does not lose. A run is published beside the one that is served; one pointer switches.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import redis

from recsys.errors import ConfigError, ServiceError
from recsys.features.state import FeatureChanges
from recsys.hashing import id_text
from recsys.rows.layout import Layout, payload_of, pointer_key, tombstone, versioned
from recsys.rows.store import DENSE, STATISTICS, Changes, RowStore

Write = tuple[bytes | str, bytes]  # key, versioned value

_CONSUMER = "redis"
_KEYS_PER_CALL = 500
_GLOB_CHARACTER = re.compile(rb"[*?\[\]\\^-]")

# KEYS[i] is set to ARGV[i] unless it holds the same version or a newer one. Returns how many were set.
_SET_NEWER = """
local set = 0
for i = 1, #KEYS do
  local held = redis.call('GETRANGE', KEYS[i], 0, 7)
  if #held < 8 or struct.unpack('>d', held) < struct.unpack('>d', ARGV[i]) then
    redis.call('SET', KEYS[i], ARGV[i])
    set = set + 1
  end
end
return set
"""


# Rows become tombstones, a little newer than the rows were and older than whatever is written after them.
_BURY = """
local buried = 0
for i = 1, #KEYS do
  if redis.call('STRLEN', KEYS[i]) > 8 then
    local version = struct.unpack('>d', redis.call('GETRANGE', KEYS[i], 0, 7))
    redis.call('SET', KEYS[i], struct.pack('>d', version + 0.5))
    buried = buried + 1
  end
end
return buried
"""


@dataclass(frozen=True)
class PublishedVersions:
    """The newest numbers that a run has published under: one that goes on from an earlier point starts above them."""

    newest_row: int
    features: int


def published_versions(redis_url: str, layout: Layout) -> PublishedVersions | None:
    """What Redis holds of a run; None where it was never published. ServiceError where Redis does not answer."""
    try:
        client = redis.Redis.from_url(redis_url)
        held: Any = client.get(layout.numbers_key)
        described = client.exists(layout.meta_key)
    except redis.RedisError as error:
        raise ServiceError(f"Redis does not answer ({error}); start it again") from error
    if held is None:
        return PublishedVersions(0, 0) if described else None
    return PublishedVersions(**json.loads(payload_of(held)))


class FeatureFeed(Protocol):
    """Who keeps users' histories and items' facts: a joiner here or elsewhere."""

    def changes(self, since: int) -> FeatureChanges:
        """Users and items changed after number ``since``."""

    def acknowledge(self, up_to: int) -> None:
        """They are stored."""


@dataclass(frozen=True)
class Published:
    """What one publication wrote: of rows, deletes, users and items those that were newer than what Redis held."""

    version: int
    rows: int
    deletes: int
    users: int
    items: int
    seconds: float


class Publisher:
    """Keeps one published run in Redis up to date.

    ``time_ms`` gives the event clock that goes with the versions; ``clock`` the wall clock, in seconds.
    """

    def __init__(
        self,
        client: redis.Redis,
        store: RowStore,
        feeds: Sequence[FeatureFeed],
        layout: Layout,
        *,
        time_ms: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._store, self._feeds, self._layout = client, store, list(feeds), layout
        self._time_ms, self._clock = time_ms, clock
        self._set_newer = client.register_script(_SET_NEWER)
        self._bury = client.register_script(_BURY)
        self._stored = [0] * len(self._feeds)
        self._with_history: set[int | str] = set()  # users

    @classmethod
    def connect(
        cls,
        redis_url: str,
        store: RowStore,
        feeds: Sequence[FeatureFeed],
        layout: Layout,
        *,
        time_ms: Callable[[], int],
    ) -> "Publisher":
        """A publisher into the Redis at a URL."""
        return cls(redis.Redis.from_url(redis_url), store, feeds, layout, time_ms=time_ms)

    def describe(self, blueprint: Mapping[str, Any], about: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Write what the run is: the blueprint that the reader rebuilds, and the row format.

        Written once, since readers may have opened the run: ConfigError where it is published as something else, or
        (``fresh``: a run that only begins) at all.
        """
        layout = self._layout
        meta = json.dumps({"blueprint": blueprint, "row_format": layout.row_format, **about})
        write_once = self._client.pipeline()
        write_once.set(layout.meta_key, meta, nx=True)
        write_once.get(layout.meta_key)
        written, held = self._guarded(write_once.execute)
        if fresh and not written:
            raise ConfigError(
                f"run {layout.run!r} of model {layout.model!r} is published in this Redis already; choose another "
                "hydra.run.dir="
            )
        if different := _differences(json.loads(held), json.loads(meta)):
            raise ConfigError(
                f"run {layout.run!r} of model {layout.model!r} is published with another {', '.join(different)}; "
                "publish from a folder of another name, or under another serving.model"
            )

    def switch(self) -> None:
        """Serve this run from now on."""
        self._guarded(lambda: self._client.set(pointer_key(self._layout.model), self._layout.run))

    def publish(self, *, everything: bool = False) -> Published:
        """Write what changed since the last publication, or ``everything``, then acknowledge it.

        Raises ServiceError where Redis does not answer; nothing is acknowledged then, the next call sends it again.
        """
        started = self._clock()
        time_ms = self._time_ms()
        feature_changes = [feed.changes(since) for feed, since in zip(self._feeds, self._stored, strict=True)]
        changes = self._store.changes(_CONSUMER, tuple(self._store.groups) if everything else ())
        features = sum(part.sequence for part in feature_changes)
        self._guarded(lambda: self._write_numbers(changes, features))
        users, items = self._guarded(lambda: self._write_features(feature_changes))
        rows, deletes = self._guarded(lambda: self._write_rows(changes))
        self._guarded(lambda: self._write_versions(changes, features, time_ms))
        version = sum(changes.cursor) + features
        self._acknowledge(changes, feature_changes)
        return Published(version, rows, deletes, users, items, self._clock() - started)

    def _write_rows(self, changes: Changes) -> tuple[int, int]:
        num_rows = num_deletes = 0
        for group, upserts in changes.upserts.items():
            keys = self._layout.row_keys(group, upserts.keys_U)
            kept_as = self._store.groups[group].row_format
            values = self._layout.encode_rows(upserts.rows_UW, upserts.sequences_U, kept_as)
            # a table's rows stand for themselves; the dense parameters of two versions make no model
            write = self._write_at_once if group in (DENSE, STATISTICS) else self._write
            num_rows += write(list(zip(keys, values, strict=True)))
            if group in changes.complete:
                num_deletes += self._bury_others(group, set(keys))
        for group, deletes in changes.deletes.items():
            keys = self._layout.row_keys(group, deletes.keys_U)
            num_deletes += self._write(
                [(key, tombstone(int(s))) for key, s in zip(keys, deletes.sequences_U, strict=True)]
            )
        return num_rows, num_deletes

    def _bury_others(self, group: str, keys: set[bytes]) -> int:
        """Of a group whose rows came all: what else Redis holds of it is gone."""
        pattern = _GLOB_CHARACTER.sub(rb"\\\g<0>", self._layout.group_prefix(group)) + b"*"
        found = self._client.scan_iter(match=pattern, count=_KEYS_PER_CALL)
        others = [key for key in found if key not in keys]
        chunks = (others[start : start + _KEYS_PER_CALL] for start in range(0, len(others), _KEYS_PER_CALL))
        return sum(int(self._bury(keys=chunk)) for chunk in chunks)

    def _write_features(self, parts: Sequence[FeatureChanges]) -> tuple[int, int]:
        version = sum(part.sequence for part in parts)  # one number for all feeds, so that theirs need not compare
        users = self._users(parts)
        items = {id_: item for part in parts for id_, item in part.items.items()}
        num_users = self._write([(self._layout.user_key(id_), _json(user, version)) for id_, user in users.items()])
        num_items = self._write([(self._layout.item_key(id_), _json(item, version)) for id_, item in items.items()])
        self._list_items([id_text(id_) for id_ in items])  # after their facts: who finds an item listed finds them
        return num_users, num_items

    def _list_items(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), _KEYS_PER_CALL):
            self._client.sadd(self._layout.items_key, *texts[start : start + _KEYS_PER_CALL])

    def _users(self, parts: Sequence[FeatureChanges]) -> dict[int | str, dict[str, Any]]:
        """Changed users. All feeds read all facts, but one alone has a user's history: the others' word is less."""
        for part in parts:
            self._with_history.update(id_ for id_, user in part.users.items() if _has_history(user))
        return {
            id_: user
            for part in parts
            for id_, user in part.users.items()
            if _has_history(user) or id_ not in self._with_history
        }

    def _write_numbers(self, changes: Changes, features: int) -> None:
        """First of all: who goes on from an earlier point begins above what may have been written."""
        numbers = asdict(PublishedVersions(max(changes.cursor), features))
        self._write([(self._layout.numbers_key, _json(numbers, sum(changes.cursor) + features))])

    def _write_versions(self, changes: Changes, features: int, time_ms: int) -> None:
        """Last of all: a reader that sees this version finds everything of it."""
        version = sum(changes.cursor) + features
        about = {
            "version": version,
            "rows": sum(changes.cursor),
            "time_ms": time_ms,
            "published_at_ms": int(1000 * self._clock()),
        }
        self._write([(self._layout.versions_key, _json(about, version))])

    def _write(self, writes: Sequence[Write]) -> int:
        chunks = (writes[start : start + _KEYS_PER_CALL] for start in range(0, len(writes), _KEYS_PER_CALL))
        return sum(self._write_at_once(chunk) for chunk in chunks)

    def _write_at_once(self, writes: Sequence[Write]) -> int:
        """Returns how many were newer. No other client sees, or asks, anything while the script runs."""
        return int(self._set_newer(keys=[key for key, _ in writes], args=[value for _, value in writes]))

    def _acknowledge(self, changes: Changes, parts: Sequence[FeatureChanges]) -> None:
        self._store.acknowledge(_CONSUMER, changes.cursor)
        for at, (feed, part) in enumerate(zip(self._feeds, parts, strict=True)):
            feed.acknowledge(part.sequence)
            self._stored[at] = part.sequence

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except redis.RedisError as error:
            raise ServiceError(
                f"Redis did not take a publication ({error}); it is sent again with the next one"
            ) from error


def _differences(held: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What makes one run's description not the other's: fields of the blueprint, or the row format."""
    one, other = ({**meta["blueprint"], "row_format": meta["row_format"]} for meta in (held, ours))
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _has_history(user: Mapping[str, Any]) -> bool:
    return bool(user["history"]["num_impressions"] or user["history"]["num_likes"])


def _json(value: Any, version: int) -> bytes:
    return versioned(json.dumps(value, separators=(",", ":")).encode(), version)
