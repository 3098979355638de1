"""The publisher: changes of rows, dense parameters and features, written to Redis so that replay is harmless.

Each value carries its version and replaces only an older one (a Lua script compares), so that a delta written twice,
late or out of order changes nothing. Changes are acknowledged to the store only after Redis has them: an outage
delays, it does not lose. A run is published beside the one that is served; one pointer switches.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis

from recsys.embedded.redis_url import REDIS_ERRORS, Client, open_client
from recsys.errors import ConfigError, ServiceError
from recsys.features.state import FeatureChanges
from recsys.rows.layout import Layout, payload_of, pointer_key, runs_key, tombstone_bytes, version_of
from recsys.rows.store import WHOLE, Changes, RowStore
from recsys.sync.feature_writer import FeatureFeed, FeatureWriter
from recsys.sync.newest import NewestWins, versioned_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedVersions:
    """The newest numbers that a run has published under: one that goes on from an earlier point starts above them."""

    newest_row: int
    features: int


def published_versions(redis_url: str, layout: Layout) -> PublishedVersions | None:
    """What Redis holds of a run; None where it was never published. ServiceError where Redis does not answer."""
    try:
        client = open_client(redis_url)
        held: Any = client.get(layout.numbers_key)
        described = client.exists(layout.meta_key)
    except REDIS_ERRORS as error:
        raise ServiceError(f"Redis does not answer ({error}); start it again") from error
    if held is None:
        return PublishedVersions(0, 0) if described else None
    return PublishedVersions(**json.loads(payload_of(held)))


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

    ``time_ms`` gives the event clock that goes with the versions; ``clock`` the wall clock, in seconds. ``consumer``
    is the name under which store and feeds remember how far this publisher has come: publishers into several Redis have
    names of their own. Where Redis has lost what it had acknowledged, all is sent again; also where another publisher
    has written this run meanwhile, which may have brought back what is deleted, or buried what it did not know.
    """

    def __init__(
        self,
        client: Client,
        store: RowStore,
        feeds: Sequence[FeatureFeed],
        layout: Layout,
        *,
        time_ms: Callable[[], int],
        clock: Callable[[], float] = time.time,
        consumer: str = "redis",
    ) -> None:
        self._client, self._store, self._feeds, self._layout = client, store, list(feeds), layout
        self._time_ms, self._clock, self._consumer = time_ms, clock, consumer
        self._newest = NewestWins(client, layout)
        self._features = FeatureWriter(client, layout, self._newest)
        self._stored = [0] * len(self._feeds)
        self._meta: str | None = None  # as described
        self._switched = False
        self._name, self._is_known = secrets.token_hex(8), False  # as who published last; not yet
        self._acknowledged = -1  # the version that Redis was last known to have
        self._resends = False  # everything, until it is acknowledged
        self._meanwhile = False  # another wrote while this one did

    @classmethod
    def connect(
        cls,
        redis_url: str,
        store: RowStore,
        feeds: Sequence[FeatureFeed],
        layout: Layout,
        *,
        time_ms: Callable[[], int],
        consumer: str = "redis",
    ) -> "Publisher":
        """A publisher into the Redis at a URL."""
        return cls(open_client(redis_url), store, feeds, layout, time_ms=time_ms, consumer=consumer)

    def describe(self, blueprint: Mapping[str, Any], about: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Write what the run is: the blueprint that the reader rebuilds, and the row format.

        Written once, since readers may have opened the run: ConfigError where it is published as something else, or
        (``fresh``: a run that only begins) at all.
        """
        layout = self._layout
        meta = json.dumps({"blueprint": blueprint, "layout": layout.to_json(), **about})
        self._guarded(lambda: check_room(self._client, layout, self._largest_row()))
        written, held = self._guarded(lambda: self._written_once(meta))
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
        self._meta = meta

    def _largest_row(self) -> int:
        """Bytes of the widest row of a table, with its version."""
        groups = [group for group in self._store.groups.values() if group.name not in WHOLE]
        sizes = [self._layout.record(group.width, self._layout.format_of(group)).itemsize for group in groups]
        return max(sizes, default=0)

    def _written_once(self, meta: str) -> tuple[bool, bytes]:
        """Whether this was the first description, and the one that holds."""
        self._client.zadd(runs_key(self._layout.model), {self._layout.run: 0}, nx=True)
        written = self._client.set(self._layout.meta_key, meta, nx=True)
        return bool(written), self._client.get(self._layout.meta_key) or meta.encode()

    def switch(self) -> None:
        """Serve this run from now on."""
        self._guarded(lambda: switch_to(self._client, self._layout.model, self._layout.run, self._clock()))
        self._switched = True

    def publish(self, *, everything: bool = False) -> Published:
        """Write what changed since the last publication, or ``everything``, then acknowledge it.

        Raises ServiceError where Redis does not answer; nothing is acknowledged then, the next call sends it again.
        """
        started = self._clock()
        if self._guarded(self._is_lost) or self._guarded(self._others_published) or self._meanwhile:
            self._begin_again()
        everything = everything or self._resends
        time_ms = self._time_ms()
        feature_changes = self._feature_changes()
        changes = self._store.changes(self._consumer, tuple(self._store.groups) if everything else ())
        features = sum(part.sequence for part in feature_changes)
        self._guarded(lambda: self._write_numbers(changes, features))
        users, items = self._guarded(lambda: self._features.write(feature_changes))
        rows, deletes = self._guarded(lambda: self._write_rows(changes))
        self._guarded(lambda: self._write_versions(changes, features, time_ms))
        version = sum(changes.cursor) + features
        self._meanwhile = self._guarded(self._others_published)
        self._acknowledge(changes, feature_changes)
        self._acknowledged, self._resends = version, False
        if self._switched:
            self._guarded(self._serve_again)
        return Published(version, rows, deletes, users, items, self._clock() - started)

    def _feature_changes(self) -> list[FeatureChanges]:
        return [feed.changes(self._consumer, since) for feed, since in zip(self._feeds, self._stored, strict=True)]

    def _serve_again(self) -> None:
        """Where no run is served any more, this one is, which was."""
        if not self._client.exists(pointer_key(self._layout.model)):
            switch_to(self._client, self._layout.model, self._layout.run, self._clock())

    def _is_lost(self) -> bool:
        """Whether Redis has forgotten what it had: restarted empty, or from an older file."""
        if self._meta is not None and not self._client.exists(self._layout.meta_key):
            return True
        if self._acknowledged < 0:
            return False
        held = self._client.get(self._layout.versions_key)
        return held is None or version_of(held) < self._acknowledged

    def _others_published(self) -> bool:
        """Whether another publisher wrote this run since this one last looked: before a publication, and after it."""
        last, known = self._client.set(self._layout.publisher_key, self._name, get=True), self._is_known
        self._is_known = True
        if not known or last in (None, self._name.encode()):
            return False
        _log.warning(
            "run %r of model %r has another publisher too: all is sent again; end one of them",
            self._layout.run,
            self._layout.model,
        )
        return True

    def _begin_again(self) -> None:
        """Describe the run again, and send everything with the next publication that Redis takes."""
        self._resends = True
        for at, feed in enumerate(self._feeds):
            feed.everything_changed()
            self._stored[at] = 0
        if self._meta is not None:
            meta = self._meta
            self._guarded(lambda: self._written_once(meta))

    def _write_rows(self, changes: Changes) -> tuple[int, int]:
        num_rows = num_deletes = 0
        for name, upserts in changes.upserts.items():
            row_format = self._layout.format_of(self._store.groups[name])
            values_UL = self._layout.value_bytes(upserts.rows_UW, upserts.sequences_U, row_format)
            # a table's rows stand for themselves; the dense parameters of two versions make no model
            num_rows += self._newest.put_rows(name, upserts.keys_U, values_UL, at_once=name in WHOLE)
            if name in changes.complete:
                num_deletes += self._newest.bury_others(name, upserts.keys_U)
        for name, deletes in changes.deletes.items():
            num_deletes += self._newest.put_rows(name, deletes.keys_U, tombstone_bytes(deletes.sequences_U))
        return num_rows, num_deletes

    def _write_numbers(self, changes: Changes, features: int) -> None:
        """First of all: who goes on from an earlier point begins above what may have been written."""
        numbers = asdict(PublishedVersions(max(changes.cursor), features))
        self._newest.put([(self._layout.numbers_key, versioned_json(numbers, sum(changes.cursor) + features))])

    def _write_versions(self, changes: Changes, features: int, time_ms: int) -> None:
        """Last of all: a reader that sees this version finds everything of it."""
        version = sum(changes.cursor) + features
        about = {
            "version": version,
            "rows": sum(changes.cursor),
            "time_ms": time_ms,
            "published_at_ms": int(1000 * self._clock()),
        }
        self._newest.put([(self._layout.versions_key, versioned_json(about, version))])

    def _acknowledge(self, changes: Changes, parts: Sequence[FeatureChanges]) -> None:
        self._store.acknowledge(self._consumer, changes.cursor)
        for at, (feed, part) in enumerate(zip(self._feeds, parts, strict=True)):
            feed.acknowledge(self._consumer, part.sequence)
            self._stored[at] = part.sequence

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except REDIS_ERRORS as error:
            raise ServiceError(
                f"Redis did not take a publication ({error}); it is sent again with the next one"
            ) from error


def switch_to(client: Client, model: str, run: str, now_seconds: float) -> None:
    """Serve a run from now on; noted first, so that who follows the note finds the pointer there or on its way."""
    client.zadd(runs_key(model), {run: int(1000 * now_seconds)})
    client.set(pointer_key(model), run)


def check_room(client: Client, layout: Layout, row_bytes: int) -> None:
    """ConfigError where Redis would drop rows to make room, or keep hashes of such rows in many times their bytes."""
    if not isinstance(client, redis.Redis):
        return  # each node of a cluster has settings of its own
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        raise ConfigError(
            f"this Redis evicts keys when it is full (maxmemory-policy {policy}), rows of the model too; set noeviction"
        )
    if layout.layout == "compact" and not _keeps_small(client, layout, row_bytes):
        raise ConfigError(
            f"this Redis keeps hashes with values of {row_bytes} bytes in several times as many; set "
            f"hash-max-listpack-value {row_bytes} (hash-max-ziplist-value before Redis 7), or serving.layout=fast"
        )


def _keeps_small(client: redis.Redis, layout: Layout, row_bytes: int) -> bool:
    probe = layout.prefix + "probe"
    client.hset(probe, mapping={"row": b"-" * row_bytes})
    encoding = client.object("encoding", probe)
    client.unlink(probe)
    return encoding in (b"ziplist", b"listpack")


def _differences(held: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What makes one run's description not the other's: fields of the blueprint, or of the layout."""
    one, other = ({**meta["blueprint"], **meta.get("layout", {})} for meta in (held, ours))
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
