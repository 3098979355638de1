"""Reading a published run: rows, features and versions out of Redis."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis

from recsys.embedded.redis import without_password
from recsys.errors import ConfigError, DataError, ServiceError, unknown
from recsys.features.state import FactValues, History, user_from_json
from recsys.hashing import Floats, Keys, id_of_text
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.layout import Layout, payload_of, pointer_key
from recsys.rows.store import RowGroup, RowReader

Id = int | str


class NotPublished(DataError):
    """What is asked for is not published, or not all of it: it may come."""


@dataclass(frozen=True)
class Versions:
    """What an answer was made from: the run, its version, and the event clock then."""

    run: str
    version: int
    rows: int
    time_ms: int
    published_at_ms: int


class PublishedRun:
    """One run as it lies in Redis: the row reader and the feature reader of serving."""

    def __init__(self, client: redis.Redis, layout: Layout, blueprint: Blueprint) -> None:
        self.client, self.layout = client, layout
        self.recommender = Recommender(blueprint).eval()
        self.rows: RowReader = PublishedRows(client, layout, {group.name: group for group in self.recommender.groups})
        self._item_ids: tuple[Id, ...] = ()

    def user(self, user_id: int | str) -> tuple[History, FactValues]:
        """(history, profile); both empty for a user never seen."""
        value = _answer(lambda: self.client.get(self.layout.user_key(user_id)))
        return user_from_json(json.loads(payload_of(value))) if value else (History(), {})

    def items(self, item_ids: Sequence[int | str]) -> list[FactValues]:
        """Facts of items; empty for those never seen."""
        if not item_ids:
            return []
        values = _answer(lambda: self.client.mget([self.layout.item_key(item_id) for item_id in item_ids]))
        return [json.loads(payload_of(value)) if value else {} for value in values]

    def item_ids(self) -> tuple[Id, ...]:
        """All items of which facts were published: numbers in order, then strings."""
        item_ids, key = self._item_ids, self.layout.items_key
        if _answer(lambda: self.client.scard(key)) != len(item_ids):  # items are only added: as many are the same
            found = [id_of_text(member.decode()) for member in _answer(lambda: self.client.smembers(key))]
            numbers = sorted(id_ for id_ in found if isinstance(id_, int))
            strings = sorted(id_ for id_ in found if isinstance(id_, str))
            self._item_ids = item_ids = (*numbers, *strings)
        return item_ids


class PublishedRows(RowReader):
    """The read side of a row store, over Redis: one MGET for all groups. Absent rows read as the group says."""

    def __init__(self, client: redis.Redis, layout: Layout, groups: Mapping[str, RowGroup]) -> None:
        self._client, self._layout, self._groups = client, layout, groups

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull."""
        for name, keys_N in keys.items():
            self._group(name).checked_keys(keys_N)
        named = {name: self._layout.row_keys(name, keys_N) for name, keys_N in keys.items()}
        asked = [key for row_keys in named.values() for key in row_keys]
        values = _answer(lambda: self._client.mget(asked)) if asked else []
        rows, start = {}, 0
        for name, row_keys in named.items():
            rows[name] = self._decoded(name, keys[name], values[start : start + len(row_keys)])
            start += len(row_keys)
        return rows

    def _decoded(self, name: str, keys_N: Keys, values: Sequence[bytes | None]) -> Floats:
        group = self._group(name)
        rows_NW, present_N = self._layout.decode_rows(values, group.width, group.row_format)
        if not present_N.all():
            rows_NW[~present_N] = group.absent_rows(keys_N[~present_N])
        return rows_NW

    def _group(self, name: str) -> RowGroup:
        if name not in self._groups:
            raise unknown("row group", name, self._groups)
        return self._groups[name]


class Published:
    """What is served now under a model's name; follows the pointer when another run is switched to."""

    def __init__(self, url: str, model: str = "recsys") -> None:
        try:
            self._client = redis.Redis.from_url(url)
        except ValueError as error:
            raise ConfigError(
                f"{without_password(url)!r} is no Redis URL; use redis://HOST:PORT/0, rediss:// or unix://"
            ) from error
        self._model = model
        self._run: PublishedRun | None = None

    def current(self) -> tuple[PublishedRun, Versions]:
        """The run that is served and its versions, from one look at Redis (two where the run changed)."""
        run = self._run
        keys = [pointer_key(self._model)] + ([run.layout.versions_key] if run else [])
        answers = _answer(lambda: self._client.mget(keys))
        if answers[0] is None:
            raise NotPublished(
                f"no model {self._model!r} is published here; run jobs.online, or jobs.publish run=FOLDER"
            )
        name = answers[0].decode()
        if run is None or run.layout.run != name:
            self._run = run = self._open(name)
            answers.append(_answer(lambda: self._client.get(run.layout.versions_key)))
        if answers[-1] is None:
            raise NotPublished(f"run {name!r} of model {self._model!r} holds no version yet; try again shortly")
        return run, Versions(run=name, **json.loads(payload_of(answers[-1])))

    def _open(self, name: str) -> PublishedRun:
        meta_key = Layout(model=self._model, run=name).meta_key
        value = _answer(lambda: self._client.get(meta_key))
        if value is None:
            raise NotPublished(f"run {name!r} of model {self._model!r} is named but not there; publish it again")
        meta: dict[str, Any] = json.loads(value)
        layout = Layout(model=self._model, run=name, row_format=meta["row_format"])
        return PublishedRun(self._client, layout, Blueprint.from_json(meta["blueprint"]))


def checked_ids(ids: Sequence[Id]) -> list[Id]:
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


def _answer(ask: Any) -> Any:
    try:
        return ask()
    except redis.RedisError as error:
        raise ServiceError(f"Redis does not answer ({error}); check redis.url and that the server runs") from error
