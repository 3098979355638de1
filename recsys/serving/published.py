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
from recsys.rows.layout import Layout, payload_of, pointer_key
from recsys.serving.answers import answered
from recsys.serving.rows import CacheConfig, PublishedRows

Id = int | str
_MAX_FACTS = 20_000  # items whose facts are kept as they were read


class NotPublished(DataError):
    """What is asked for is not published, or not all of it: it may come."""


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
            rows, newest = self.rows.pull_versioned(DENSE, recommender.dense.keys)
            recommender.dense.load(rows)
            self._loaded = loaded = (versions.version, newest, recommender)
        return loaded[2], replace(versions, dense=loaded[1])

    def user(self, user_id: int | str) -> tuple[History, FactValues]:
        """(history, profile); both empty for a user never seen."""
        value = answered(lambda: self.client.get(self.layout.user_key(user_id)))
        return user_from_json(json.loads(payload_of(value))) if value else (History(), {})

    def items(self, item_ids: Sequence[int | str]) -> list[FactValues]:
        """Facts of items; empty for those never seen. What was read before is the same object again."""
        values = read_keys(self.client, [self.layout.item_key(item_id) for item_id in item_ids])
        return [self._facts_of(value) if value else {} for value in values]

    def item_ids(self) -> tuple[Id, ...]:
        """All items of which facts were published: numbers in order, then strings."""
        item_ids, key = self._item_ids, self.layout.items_key
        if answered(lambda: self.client.scard(key)) != len(item_ids):  # items are only added: as many are the same
            found = [id_of_text(member.decode()) for member in answered(lambda: self.client.smembers(key))]
            numbers = sorted(id_ for id_ in found if isinstance(id_, int))
            strings = sorted(id_ for id_ in found if isinstance(id_, str))
            self._item_ids = item_ids = (*numbers, *strings)
        return item_ids

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

    def current(self) -> tuple[PublishedRun, Versions]:
        """The run that is served and its versions, from one look at Redis (two where the run changed)."""
        run = self._run
        keys = [pointer_key(self._model)] + ([run.layout.versions_key] if run else [])
        answers = read_keys(self._client, keys)
        if answers[0] is None:
            raise NotPublished(
                f"no model {self._model!r} is published here; run jobs.online, or jobs.publish run=FOLDER"
            )
        name = answers[0].decode()
        if run is None or run.layout.run != name:
            self._run = run = self._open(name)
            answers = read_keys(self._client, [run.layout.versions_key])
        if answers[-1] is None:
            raise NotPublished(f"run {name!r} of model {self._model!r} holds no version yet; try again shortly")
        return run, Versions(run=name, **json.loads(payload_of(answers[-1])))

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
