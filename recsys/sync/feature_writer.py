"""Features in Redis: users' histories and profiles, items' facts, and what something happened to last."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from recsys.embedded.redis_url import Client
from recsys.features.state import FeatureChanges
from recsys.hashing import id_text
from recsys.rows.layout import Layout
from recsys.sync.newest import NewestWins, versioned_json

_KEYS_PER_CALL = 500
MOST_RECENT = 10_000  # items, and users, that are known by when something last happened to them


class FeatureFeed(Protocol):
    """Who keeps users' histories and items' facts: a joiner here or elsewhere."""

    def changes(self, consumer: str, since: int) -> FeatureChanges:
        """Users and items changed after number ``since``; all, where some may be forgotten by now."""

    def acknowledge(self, consumer: str, up_to: int) -> None:
        """They are stored; what all consumers have stored may be forgotten."""

    def everything_changed(self) -> None:
        """What was stored is lost: from now on all users and items count as changed."""


class FeatureWriter:
    """Writes what feeds say has changed, of one run; raises redis.RedisError where Redis does not take it."""

    def __init__(self, client: Client, layout: Layout, newest: NewestWins) -> None:
        self._client, self._layout, self._newest = client, layout, newest
        self._with_history: set[int | str] = set()  # users

    def write(self, parts: Sequence[FeatureChanges]) -> tuple[int, int]:
        """Users and items of all feeds; how many of each were newer than what Redis held."""
        version = sum(part.sequence for part in parts)  # one number for all feeds, so that theirs need not compare
        users = self._users(parts)
        items = {id_: item for part in parts for id_, item in part.items.items()}
        num_users = self._newest.put(
            [(self._layout.user_key(id_), versioned_json(user, version)) for id_, user in users.items()]
        )
        num_items = self._newest.put(
            [(self._layout.item_key(id_), versioned_json(item, version)) for id_, item in items.items()]
        )
        self._list_items([id_text(id_) for id_ in items])  # after their facts: who finds an item listed finds them
        self._note_recent(users)
        return num_users, num_items

    def _note_recent(self, users: Mapping[int | str, Mapping[str, Any]]) -> None:
        """Who was last shown something, and what was: times only grow, so that to write them again is harmless."""
        last: dict[str, dict[str, int]] = {self._layout.recent_users_key: {}, self._layout.recent_items_key: {}}
        by_user, by_item = last.values()
        for id_, user in users.items():
            for time_ms, item_id in (*user["history"]["shown"], *user["history"]["likes"]):
                for known, text in ((by_user, id_text(id_)), (by_item, id_text(item_id))):
                    known[text] = max(time_ms, known.get(text, time_ms))
        for key, times in last.items():
            for start in range(0, len(times), _KEYS_PER_CALL):
                part = dict(list(times.items())[start : start + _KEYS_PER_CALL])
                self._client.zadd(key, part, gt=True)
            if times:
                self._client.zremrangebyrank(key, 0, -MOST_RECENT - 1)

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


def _has_history(user: Mapping[str, Any]) -> bool:
    return bool(user["history"]["num_impressions"] or user["history"]["num_likes"])
