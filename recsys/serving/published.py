"""Reading a published run: features, parameters and versions out of Redis."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.embedded.redis_url import Client, is_cluster, open_client, write_all
from recsys.errors import ConfigError, DataError
from recsys.features.state import FactValues, History, user_from_json
from recsys.hashing import id_of_text
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.dense import DENSE
from recsys.rows.layout import SESSIONS, Layout, payload_of, pointer_key
from recsys.serving.answers import answered
from recsys.serving.rows import CacheConfig, PublishedRows

Id = int | str
_MOST_SWITCHES = 5  # within one call
_MAX_FACTS = 20_000  # items whose facts are kept as they were read


class NotPublished(DataError):
    """What is asked for is not published, or not all of it: it may come."""


class NotReady(NotPublished):
    """What is asked for is published, and still being made ready here: it comes."""


@dataclass(frozen=True)
class Versions:
    """What an answer was made from.

    The run and its version, the number of its rows' last change, and the event clock then. ``dense`` is the number of
    the last change of the dense parameters that were used (0: none were). Rows are as of ``version`` or up to one
    publication later.
    """

    run: str
    version: int
    rows: int
    time_ms: int
    published_at_ms: int
    dense: int = 0


class PublishedRun:
    """One run as it lies in Redis: the row reader and the feature reader of serving."""

    def __init__(self, client: Client, layout: Layout, blueprint: Blueprint, cache: CacheConfig | None = None) -> None:
        self.client, self.layout = client, layout
        self.recommender = Recommender(blueprint).eval()
        self.rows = PublishedRows(client, layout, {group.name: group for group in self.recommender.groups}, cache)
        # tables may bring parameters beside their rows: cores, an MLP
        self.tables_have_parameters = any(True for _ in self.recommender.embeddings.parameters())
        self._item_ids: tuple[Id, ...] = ()
        self._facts: dict[bytes, FactValues] = {}
        self._loaded: tuple[int, int, Recommender] | None = None

    def at(self, versions: Versions) -> tuple[Recommender, Versions]:
        """The recommender with the dense parameters of this version, and the versions with theirs.

        Read once a version. A copy: another thread may still be scoring with the parameters of before.
        """
        loaded = self._loaded
        if loaded is None or loaded[0] != versions.version:
            recommender = copy.deepcopy(self.recommender)
            found = {name: self.rows.pull_versioned(name, keys) for name, keys in recommender.dense_keys.items()}
            recommender.load_dense({name: rows for name, (rows, _) in found.items()})
            newest = found[DENSE][1]
            self._loaded = loaded = (versions.version, newest, recommender)
        return loaded[2], replace(versions, dense=loaded[1])

    def is_there(self) -> bool:
        """Whether it still lies in Redis: not removed."""
        return self.values([self.layout.meta_key])[0] is not None

    def feature_keys(self, user_id: Id, item_ids: Sequence[Id]) -> list[str]:
        """Where a user's features lie, and those of items."""
        return [self.layout.user_key(user_id), *(self.layout.item_key(item_id) for item_id in item_ids)]

    def user(self, user_id: Id) -> tuple[History, FactValues]:
        """(history, profile); both empty for a user never seen."""
        return self.user_of(self.values([self.layout.user_key(user_id)])[0])

    def items(self, item_ids: Sequence[Id]) -> list[FactValues]:
        """Facts of items; empty for those never seen."""
        return self.facts_of(self.values([self.layout.item_key(item_id) for item_id in item_ids]))

    def user_of(self, value: bytes | None) -> tuple[History, FactValues]:
        """A user as read."""
        return user_from_json(json.loads(payload_of(value))) if value else (History(), {})

    def facts_of(self, values: Sequence[bytes | None]) -> list[FactValues]:
        """Items as read; what was read before is the same object again."""
        return [self._facts_of(value) if value else {} for value in values]

    def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """What lies under keys."""
        return self.rows.pull_beside({}, keys)[1]

    def item_ids(self) -> tuple[Id, ...]:
        """All items of which facts were published: numbers in order, then strings."""
        item_ids, key = self._item_ids, self.layout.items_key
        if answered(lambda: self.client.scard(key)) != len(item_ids):  # items are only added: as many are the same
            found = [id_of_text(member.decode()) for member in answered(lambda: self.client.smembers(key))]
            numbers = sorted(id_ for id_ in found if isinstance(id_, int))
            strings = sorted(id_ for id_ in found if isinstance(id_, str))
            self._item_ids = item_ids = (*numbers, *strings)
        return item_ids

    def recent_items(self, num: int) -> list[Id]:
        """The items that were shown or liked last, the latest first; of equal times the last by their texts."""
        return self._recent(self.layout.recent_items_key, num)

    def recent_users(self, num: int) -> list[Id]:
        """The users who were shown something last, the latest first."""
        return self._recent(self.layout.recent_users_key, num)

    def progress(self) -> dict[str, Any] | None:
        """How the run that learns is getting on; None where none does."""
        (value,) = read_keys(self.client, [self.layout.progress_key])
        return None if value is None else json.loads(value)

    def _recent(self, key: str, num: int) -> list[Id]:
        members: list[bytes] = answered(lambda: self.client.zrevrange(key, 0, num - 1))
        return [id_of_text(member.decode()) for member in members]

    def _facts_of(self, value: bytes) -> FactValues:
        facts = self._facts.get(value)
        if facts is None:
            if len(self._facts) >= _MAX_FACTS:
                self._facts.clear()
            self._facts[value] = facts = json.loads(payload_of(value))
        return facts


class Published:
    """What is served now under a model's name; follows the pointer when another run is switched to."""

    def __init__(self, url: str, model: str = "recsys", cache: CacheConfig | None = None) -> None:
        self._open_client: Callable[[], Client] = lambda: open_client(url)
        self._held: Client | None = None if is_cluster(url) else open_client(url)
        self._model, self._cache = model, cache
        self._run: PublishedRun | None = None
        self._versions: tuple[tuple[str, bytes], Versions] | None = None  # as they were read last

    def current(self) -> tuple[PublishedRun, Versions]:
        """The run that is served and its versions, from one look at Redis (two where the run changed)."""
        run, versions, _ = self.look(lambda run: [])
        return run, versions

    def look(self, keys_of: Callable[[PublishedRun], Sequence[str]]) -> tuple[PublishedRun, Versions, list[Any]]:
        """``current``, and what lies under keys of that run, from the same look."""
        for _ in range(_MOST_SWITCHES):
            run = self.last_seen()
            asked = [*self.keys_of(run), *keys_of(run)]
            values = run.values(asked)
            versions = self.versions_of(run, values)
            if versions is not None:
                return run, versions, values[2:]
        raise self._restless()

    def last_seen(self) -> PublishedRun:
        """The run that was served at the last look; at first, now."""
        if self._run is None:
            (pointer,) = read_keys(self._client, [pointer_key(self._model)])
            self._run = self._open(self._name(pointer))
        return self._run

    def keys_of(self, run: PublishedRun) -> list[str]:
        """Where it says which run is served, and a run's versions: what ``versions_of`` reads."""
        return [pointer_key(self._model), run.layout.versions_key]

    def versions_of(self, run: PublishedRun, values: Sequence[bytes | None]) -> Versions | None:
        """A run's versions; None where another is served by now, which is the one last seen then."""
        name = self._name(values[0])
        if name != run.layout.run:
            self._run = self._open(name)
            return None
        if values[1] is None:
            raise NotPublished(f"run {name!r} of model {self._model!r} holds no version yet; try again shortly")
        read = self._versions
        if read is None or read[0] != (name, values[1]):
            self._versions = read = ((name, values[1]), Versions(run=name, **json.loads(payload_of(values[1]))))
        return read[1]

    def _name(self, pointer: bytes | None) -> str:
        if pointer is None:
            self._run = None
            raise NotPublished(
                f"no model {self._model!r} is published here; run jobs.online, or jobs.publish run=FOLDER"
            )
        return pointer.decode()

    def _restless(self) -> NotPublished:
        return NotPublished(f"model {self._model!r} switches versions all the time; try again shortly")

    def close(self) -> None:
        """Let go of the connections; the next call makes new ones."""
        if self._held is not None:
            self._held.close()

    @property
    def _client(self) -> Client:
        """Opened at the first call: a cluster is asked for its nodes then."""
        if self._held is None:
            self._held = self._open_client()
        return self._held

    def _open(self, name: str) -> PublishedRun:
        (value,) = read_keys(self._client, [Layout(model=self._model, run=name).meta_key])
        if value is None:
            raise NotPublished(f"run {name!r} of model {self._model!r} is named but not there; publish it again")
        meta: dict[str, Any] = json.loads(value)
        if meta.get("kind") == SESSIONS:
            raise ConfigError(f"run {name!r} of model {self._model!r} is of sessions; jobs.session_online serves it")
        if "layout" not in meta:
            raise DataError(f"run {name!r} of model {self._model!r} is another release's; publish it again")
        layout = Layout(model=self._model, run=name, **meta["layout"])
        return PublishedRun(self._client, layout, Blueprint.from_json(meta["blueprint"]), self._cache)


def read_keys(client: Client, keys: Sequence[str]) -> list[bytes | None]:
    """Values of keys; in a cluster each is asked of its own node."""
    if not keys:
        return []
    if hasattr(client, "nodes_manager"):
        return answered(lambda: write_all(client, [("GET", key) for key in keys]))
    return answered(lambda: client.mget(keys))


def checked_ids(ids: Sequence[Id] | npt.NDArray[Any]) -> list[Id]:
    """Ids as plain integers and strings, numpy's taken too; ConfigError for what is neither, or beyond 64 bits.

    >>> checked_ids(np.array([1, 2])), checked_ids(["tt1", 2])
    ([1, 2], ['tt1', 2])
    """
    if isinstance(ids, str):
        raise ConfigError(f"{ids!r} is one string; give a list of ids")
    plain = [id_.item() if isinstance(id_, np.generic) else id_ for id_ in ids]
    for id_ in plain:
        if type(id_) is not str and not (type(id_) is int and -(2**63) <= id_ < 2**63):
            raise ConfigError(f"{id_!r} is no id; ids are integers of 64 bits, or strings")
    return plain
