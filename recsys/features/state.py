"""What is known of users and items, as of a time: the part of the joiner's state that features come from."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Id = int | str
FactValues = dict[str, Any]

NOTHING: FactValues = {}  # the facts of an id of which none are known


Recent = list[tuple[int, Id]]  # (time_ms, item), by time
_SETTLE_MS = 10_000


@dataclass(slots=True)
class History:
    """One user's past: the latest items shown and liked with their times, and two counters.

    >>> history = History(); history.like(10, "a", keep=2); history.like(5, "b", keep=2); history.liked(as_of_ms=7)
    ['b']
    """

    shown_items: Recent = field(default_factory=list)
    likes: Recent = field(default_factory=list)
    num_impressions: int = 0
    num_likes: int = 0

    def show(self, time_ms: int, item_id: Id, keep: int) -> None:
        """Add an impression; of more than ``keep`` the oldest goes."""
        self.num_impressions += 1
        _insert(self.shown_items, time_ms, item_id, keep)

    def like(self, time_ms: int, item_id: Id, keep: int) -> None:
        """Add a like; of more than ``keep`` the oldest goes."""
        self.num_likes += 1
        _insert(self.likes, time_ms, item_id, keep)

    def shown(self, as_of_ms: int | None = None) -> list[Id]:
        """Items shown, the latest first, as of a time."""
        return _latest_first(self.shown_items, as_of_ms)

    def liked(self, as_of_ms: int | None = None) -> list[Id]:
        """Liked items, the latest first, as of a time."""
        return _latest_first(self.likes, as_of_ms)

    @property
    def like_log_odds(self) -> float:
        """Log-odds of a like over the impressions so far, with four of each added: 0 at first."""
        num_others = max(self.num_impressions - self.num_likes, 0)  # an action may come before its impression
        return math.log((self.num_likes + 4) / (num_others + 4))

    def recent_like_log_odds(self, as_of_ms: int) -> float:
        """The same over the latest 5 impressions that were shown at least 10 s before, with two of each added.

        The pause gives an impression's like the time to arrive; without it, what was just shown would count as
        disliked.
        """
        settled = [item for time_ms, item in self.shown_items if time_ms <= as_of_ms - _SETTLE_MS][-5:]
        liked = {item for time_ms, item in self.likes if time_ms <= as_of_ms}
        num_liked = sum(item in liked for item in settled)
        return math.log((num_liked + 2) / (len(settled) - num_liked + 2))


def _insert(recent: Recent, time_ms: int, item_id: Id, keep: int) -> None:
    recent.append((time_ms, item_id))
    if len(recent) > 1 and recent[-2][0] > time_ms:  # a late one: put it in its place
        recent.sort(key=lambda entry: entry[0])
    del recent[: max(0, len(recent) - keep)]


def _latest_first(recent: Recent, as_of_ms: int | None) -> list[Id]:
    if as_of_ms is None or not recent or recent[-1][0] <= as_of_ms:
        return [item for _, item in reversed(recent)]
    return [item for time_ms, item in reversed(recent) if time_ms <= as_of_ms]


class FactTable:
    """Facts by id, each valid from its time on.

    >>> table = FactTable(); table.put(7, 100, {"age": 20}); table.put(7, 200, {"age": 21}); table.as_of(7, 150)
    {'age': 20}
    """

    def __init__(self) -> None:
        self._versions: dict[Id, list[tuple[int, FactValues]]] = {}

    def put(self, of: Id, time_ms: int, facts: FactValues) -> None:
        """What is known of an id from ``time_ms`` on; the same time again replaces."""
        versions = self._versions.setdefault(of, [])
        at = bisect_right(versions, time_ms, key=lambda version: version[0])
        if at and versions[at - 1][0] == time_ms:
            versions[at - 1] = (time_ms, facts)
        else:
            versions.insert(at, (time_ms, facts))

    def as_of(self, of: Id, time_ms: int | None = None) -> FactValues:
        """What was known at a time (None: the latest); empty where nothing was."""
        versions = self._versions.get(of)
        if not versions:
            return NOTHING
        at = len(versions) if time_ms is None else bisect_right(versions, time_ms, key=lambda v: v[0])
        return versions[at - 1][1] if at else NOTHING

    def __iter__(self) -> Iterator[tuple[Id, int, FactValues]]:
        """Every (id, time_ms, facts)."""
        return ((of, at, facts) for of, versions in self._versions.items() for at, facts in versions)

    def __len__(self) -> int:
        return len(self._versions)


class FeatureState:
    """Histories of the users of some partitions, and the facts of users and items.

    Each change is numbered, so that a publisher asks for what changed since the number it last stored.
    """

    def __init__(self, keep_items: int = 20) -> None:
        self.keep_items = keep_items
        self.profiles, self.items = FactTable(), FactTable()
        self._histories: dict[Id, History] = {}
        self._sequence = 0
        self._changed: dict[tuple[str, Id], int] = {}

    def history(self, user_id: Id) -> History:
        """A user's history; a new user's is empty."""
        return self._histories.get(user_id) or History()

    def users(self) -> list[Id]:
        """Users that have a history, in the order they were first seen."""
        return list(self._histories)

    def put_facts(self, of: str, id_: Id, time_ms: int, facts: FactValues) -> None:
        """Facts of a user or an item (``of``)."""
        (self.profiles if of == "user" else self.items).put(id_, time_ms, facts)
        self._touch(of, id_)

    def count_impression(self, user_id: Id, item_id: Id, time_ms: int) -> None:
        """The user was shown something; call it after the features of that impression were taken."""
        self._open(user_id).show(time_ms, item_id, self.keep_items)
        self._touch("user", user_id)

    def count_like(self, user_id: Id, item_id: Id, time_ms: int) -> None:
        """The user liked something."""
        self._open(user_id).like(time_ms, item_id, self.keep_items)
        self._touch("user", user_id)

    def changes(self, since: int) -> "FeatureChanges":
        """Users and items changed after number ``since``, as they are now."""
        changed = [key for key, sequence in self._changed.items() if sequence > since]
        users = {id_: user_to_json(self, id_) for of, id_ in changed if of == "user"}
        items = {id_: self.items.as_of(id_) for of, id_ in changed if of == "item"}
        return FeatureChanges(self._sequence, users, items)

    def acknowledge(self, up_to: int) -> None:
        """Forget the numbers up to one that the publisher has stored."""
        self._changed = {key: sequence for key, sequence in self._changed.items() if sequence > up_to}

    def to_json(self) -> dict[str, Any]:
        """The whole state as plain values, for a checkpoint."""
        return {
            "keep_items": self.keep_items,
            "sequence": self._sequence,
            "histories": [[user_id, history_to_json(history)] for user_id, history in self._histories.items()],
            "profiles": list(self.profiles),
            "items": list(self.items),
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "FeatureState":
        """The state that ``to_json`` described; everything counts as changed."""
        return cls.restored([saved], lambda _: True)

    @classmethod
    def restored(
        cls, saved: Sequence[Mapping[str, Any]], keeps: Callable[[Id], bool], above: int = 0
    ) -> "FeatureState":
        """Out of several states: the histories of the users that it ``keeps``, and all facts.

        Everything counts as changed, under numbers ``above`` one that was published.
        """
        state = cls(max(part["keep_items"] for part in saved))
        state._sequence = above
        for part in saved:
            for of, facts in (("user", part["profiles"]), ("item", part["items"])):
                for id_, time_ms, values in facts:
                    state.put_facts(of, id_, time_ms, values)
            for user_id, history in part["histories"]:
                if keeps(user_id):
                    state._histories[user_id] = history_from_json(history)
                    state._touch("user", user_id)
        state._sequence = max(state._sequence, *(part["sequence"] for part in saved))
        return state

    def _open(self, user_id: Id) -> History:
        return self._histories.setdefault(user_id, History())

    def _touch(self, of: str, id_: Id) -> None:
        self._sequence += 1
        self._changed[of, id_] = self._sequence


@dataclass(frozen=True)
class FeatureChanges:
    """Users (history and profile) and items (facts) to be published, and the number to acknowledge."""

    sequence: int
    users: dict[Id, dict[str, Any]]
    items: dict[Id, FactValues]


def user_to_json(state: FeatureState, user_id: Id) -> dict[str, Any]:
    """One user's history and latest profile as plain values: what serving reads back with ``user_from_json``."""
    return {
        "history": history_to_json(state.history(user_id)),
        "profile": state.profiles.as_of(user_id),
    }


def user_from_json(saved: dict[str, Any]) -> tuple[History, FactValues]:
    """(history, profile) of one user."""
    return history_from_json(saved["history"]), saved["profile"]


def history_to_json(history: History) -> dict[str, Any]:
    """A history as plain values."""
    return {
        "shown": list(history.shown_items),
        "likes": list(history.likes),
        "num_impressions": history.num_impressions,
        "num_likes": history.num_likes,
    }


def history_from_json(saved: dict[str, Any]) -> History:
    """The history that ``history_to_json`` described; JSON has made lists of its pairs."""
    return History(
        shown_items=[(time_ms, item_id) for time_ms, item_id in saved["shown"]],
        likes=[(time_ms, item_id) for time_ms, item_id in saved["likes"]],
        num_impressions=saved["num_impressions"],
        num_likes=saved["num_likes"],
    )
