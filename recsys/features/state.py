"""What is known of users and items, as of a time: the part of the joiner's state that features come from."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from recsys.features.latest import Id, Latest

FactValues = dict[str, Any]
Versions = list[tuple[int, FactValues]]  # (valid from, facts) of one id, by time

NOTHING: FactValues = {}  # the facts of an id of which none are known
K = TypeVar("K", contravariant=True)
V = TypeVar("V")
Key = TypeVar("Key")
Kept = TypeVar("Kept")
_first = itemgetter(0)


class Entries(Protocol[K, V]):
    """What state is kept in: a dict, or something larger on disk. What was got and changed is put again."""

    def get(self, key: K, /) -> V | None:
        """The value of a key, or None."""

    def __setitem__(self, key: K, value: V, /) -> None: ...

    def fetch(self, keys: Iterable[K], /) -> None:
        """Have at hand what is going to be asked for."""

    def items(self) -> Iterable[tuple[Any, V]]:
        """Every (key, value)."""

    def __len__(self) -> int: ...


class Held(dict[Key, Kept]):
    """Entries that are all in memory."""

    def fetch(self, keys: Iterable[Key]) -> None:
        """They are at hand."""


_SETTLE_MS = 10_000
_FOREVER = 2**63
_MAX_VERSIONS = 100


@dataclass(slots=True)
class History:
    """One user's past: the latest items shown and liked with their times, the latest first, and two counters.

    >>> history = History(); history.like(10, "a", keep=2); history.like(5, "b", keep=2); history.liked(as_of_ms=7)
    ['b']
    """

    impressions: Latest = field(default_factory=Latest)
    likes: Latest = field(default_factory=Latest)
    num_impressions: int = 0
    num_likes: int = 0

    def show(self, time_ms: int, item_id: Id, keep: int) -> None:
        """Add an impression; of more than ``keep`` the oldest goes."""
        self.num_impressions += 1
        self.impressions.add(time_ms, item_id, keep)

    def like(self, time_ms: int, item_id: Id, keep: int) -> None:
        """Add a like; of more than ``keep`` the oldest goes."""
        self.num_likes += 1
        self.likes.add(time_ms, item_id, keep)

    def shown(self, as_of_ms: int | None = None) -> list[Id]:
        """Items shown, the latest first, as of a time."""
        return self.impressions.items(as_of_ms)

    def liked(self, as_of_ms: int | None = None) -> list[Id]:
        """Liked items, the latest first, as of a time."""
        return self.likes.items(as_of_ms)

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
        settled = self.shown(as_of_ms - _SETTLE_MS)[:5]
        liked = set(self.liked(as_of_ms)) if settled else ()
        num_liked = sum([item in liked for item in settled])
        return math.log((num_liked + 2) / (len(settled) - num_liked + 2))


class FactTable:
    """Facts by id, each valid from its time on; of one id, the latest hundred are kept.

    >>> table = FactTable(); table.put(7, 100, {"age": 20}); table.put(7, 200, {"age": 21}); table.as_of(7, 150)
    {'age': 20}
    """

    def __init__(self, versions: "Entries[Id, Versions] | None" = None) -> None:
        self._versions: Entries[Id, Versions] = Held() if versions is None else versions
        self._watchers: list[Callable[[Id], None]] = []

    def watch(self, told: Callable[[Id], None]) -> None:
        """Have ``told`` of every id that something is put of."""
        self._watchers.append(told)

    def put(self, of: Id, time_ms: int, facts: FactValues) -> None:
        """What is known of an id from ``time_ms`` on; the same time again replaces."""
        versions = self._versions.get(of) or []
        at = bisect_right(versions, time_ms, key=_first)
        if at and versions[at - 1][0] == time_ms:
            versions[at - 1] = (time_ms, facts)
        else:
            versions.insert(at, (time_ms, facts))
        del versions[:-_MAX_VERSIONS]
        self._versions[of] = versions
        for told in self._watchers:
            told(of)

    def as_of(self, of: Id, time_ms: int | None = None) -> FactValues:
        """What was known at a time (None: the latest); empty where nothing was."""
        versions = self._versions.get(of)
        if not versions:
            return NOTHING
        if time_ms is None or versions[-1][0] <= time_ms:
            return versions[-1][1]
        at = bisect_right(versions, time_ms, key=_first)
        return versions[at - 1][1] if at else NOTHING

    def valid_at(self, of: Id, time_ms: int) -> tuple[int, int, FactValues]:
        """What was known at a time; from when on, and when something else was."""
        versions = self._versions.get(of) or []
        at = bisect_right(versions, time_ms, key=_first)
        begin_ms, facts = versions[at - 1] if at else (-_FOREVER, NOTHING)
        return begin_ms, versions[at][0] if at < len(versions) else _FOREVER, facts

    def fetch(self, ids: Iterable[Id]) -> None:
        """Have at hand what is known of some."""
        self._versions.fetch(ids)

    def ids(self) -> list[Id]:
        """Every id that has facts."""
        return [of for of, _ in self._versions.items()]

    def __iter__(self) -> Iterator[tuple[Id, int, FactValues]]:
        """Every (id, time_ms, facts)."""
        return ((of, at, facts) for of, versions in self._versions.items() for at, facts in versions)

    def __len__(self) -> int:
        return len(self._versions)


class FeatureState:
    """Histories of the users of some partitions, and the facts of users and items.

    Each change is numbered, so that a publisher asks for what changed since the number it last stored; of several each
    has a name. The histories of one partition may be kept apart (``with_histories``): facts and numbers are shared.
    """

    def __init__(
        self,
        keep_items: int = 20,
        histories: "Entries[Id, History] | None" = None,
        profiles: FactTable | None = None,
        items: FactTable | None = None,
        changed: "Changed | None" = None,
    ) -> None:
        self.keep_items = keep_items
        self.profiles = FactTable() if profiles is None else profiles
        self.items = FactTable() if items is None else items
        self._histories: Entries[Id, History] = Held() if histories is None else histories
        self._changed = changed or Changed()

    def with_histories(self, histories: "Entries[Id, History]") -> "FeatureState":
        """The same facts and numbers, beside other histories."""
        return FeatureState(self.keep_items, histories, self.profiles, self.items, self._changed)

    def history(self, user_id: Id) -> History:
        """A user's history; a new user's is empty."""
        return self._histories.get(user_id) or History()

    def fetch_histories(self, users: Iterable[Id]) -> None:
        """Have at hand the histories of some users."""
        self._histories.fetch(users)

    def users(self) -> list[Id]:
        """Users that have a history, in the order they were first seen, where that is known."""
        return [user_id for user_id, _ in self._histories.items()]

    def put_facts(self, of: str, id_: Id, time_ms: int, facts: FactValues) -> None:
        """Facts of a user or an item (``of``)."""
        (self.profiles if of == "user" else self.items).put(id_, time_ms, facts)
        self._changed.note(of, id_)

    def count_impression(self, user_id: Id, item_id: Id, time_ms: int, history: History | None = None) -> None:
        """The user was shown something; call it after the features of that impression were taken.

        ``history`` is the user's, where it is at hand.
        """
        history = history or self.history(user_id)
        history.show(time_ms, item_id, self.keep_items)
        self.put_history(user_id, history)

    def count_like(self, user_id: Id, item_id: Id, time_ms: int) -> None:
        """The user liked something."""
        history = self.history(user_id)
        history.like(time_ms, item_id, self.keep_items)
        self.put_history(user_id, history)

    def put_history(self, user_id: Id, history: History) -> None:
        """A user's history in place of what it was."""
        self._histories[user_id] = history
        self._changed.note("user", user_id)

    def everything_changed(self, above: int = 0) -> None:
        """All that is there counts as changed, under a number above one that was published."""
        self._changed.everything(above)

    def changes(self, consumer: str, since: int) -> "FeatureChanges":
        """Users and items changed after number ``since``, as they are now; all of them where that is not known."""
        changed = self._changed.since(consumer, since)
        if changed is None:
            users: Iterable[Id] = dict.fromkeys([*self.users(), *self.profiles.ids()])
            items: Iterable[Id] = self.items.ids()
        else:
            users, items = ([id_ for of, id_ in changed if of == kind] for kind in ("user", "item"))
        return FeatureChanges(
            self._changed.sequence,
            {id_: user_to_json(self, id_) for id_ in users},
            {id_: self.items.as_of(id_) for id_ in items},
        )

    def acknowledge(self, consumer: str, up_to: int) -> None:
        """A publisher has stored what changed up to a number: what all have stored is forgotten."""
        self._changed.acknowledge(consumer, up_to)

    def to_json(self) -> dict[str, Any]:
        """The whole state as plain values, for a checkpoint."""
        return {
            "keep_items": self.keep_items,
            "sequence": self._changed.sequence,
            "histories": [[user_id, history_to_json(history)] for user_id, history in self._histories.items()],
            "profiles": list(self.profiles),
            "items": list(self.items),
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "FeatureState":
        """The state that ``to_json`` described; everything counts as changed."""
        state = cls(saved["keep_items"])
        state.restore([saved], lambda _: True)
        return state

    @classmethod
    def restored(
        cls, saved: Sequence[Mapping[str, Any]], keeps: Callable[[Id], bool], above: int = 0
    ) -> "FeatureState":
        """Out of several states: the histories of the users that it ``keeps``, and all facts.

        Everything counts as changed, under numbers ``above`` one that was published.
        """
        state = cls(max(part["keep_items"] for part in saved))
        state.restore(saved, keeps, above)
        return state

    def restore(self, saved: Sequence[Mapping[str, Any]], keeps: Callable[[Id], bool], above: int = 0) -> None:
        """Take up what ``restored`` takes, beside what is here."""
        self._changed.sequence = max(self._changed.sequence, above)
        for part in saved:
            for of, facts in (("user", part["profiles"]), ("item", part["items"])):
                for id_, time_ms, values in facts:
                    self.put_facts(of, id_, time_ms, values)
            for user_id, history in part["histories"]:
                if keeps(user_id):
                    self.put_history(user_id, history_from_json(history))
        self._changed.sequence = max(self._changed.sequence, *(part["sequence"] for part in saved))


class Changed:
    """Users and items that have changed, each under the number of its last change, until all consumers know.

    Who asks from a number below what is kept is told everything: a consumer that comes later, or that shares its name
    with another. Of more than ``max_kept`` that somebody does not acknowledge none are kept.

    >>> changed = Changed(); changed.note("user", 7); changed.acknowledge("redis", 1); changed.note("item", 8)
    >>> changed.since("redis", 1), changed.since("late", 0)
    ([('item', 8)], None)
    """

    def __init__(self, max_kept: int = 1_000_000) -> None:
        self.sequence = 0
        self._numbers: dict[tuple[str, Id], int] = {}
        self._kept_above = 0  # what changed under this number or a lower one may be forgotten
        self._acknowledged: dict[str, int] = {}  # by consumer
        self._max_kept = max_kept

    def note(self, of: str, id_: Id) -> None:
        """One has changed."""
        self.sequence += 1
        self._numbers[of, id_] = self.sequence
        if len(self._numbers) > self._max_kept:
            self.everything(self.sequence)

    def everything(self, above: int) -> None:
        """All have, under a number above the last one and ``above``."""
        self._kept_above = self.sequence = max(self.sequence, above) + 1
        self._numbers.clear()

    def since(self, consumer: str, number: int) -> list[tuple[str, Id]] | None:
        """What has changed after a number that a consumer has stored; None is everything."""
        self._acknowledged.setdefault(consumer, number)
        if number < self._kept_above:
            return None
        return [key for key, sequence in self._numbers.items() if sequence > number]

    def acknowledge(self, consumer: str, up_to: int) -> None:
        """A consumer has stored all up to a number."""
        self._acknowledged[consumer] = up_to
        self._kept_above = max(self._kept_above, min(self._acknowledged.values()))
        self._numbers = {key: sequence for key, sequence in self._numbers.items() if sequence > self._kept_above}


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
    """A history as plain values, the oldest first."""
    return {
        "shown": list(zip(history.impressions.times_ms()[::-1], history.shown()[::-1], strict=True)),
        "likes": list(zip(history.likes.times_ms()[::-1], history.liked()[::-1], strict=True)),
        "num_impressions": history.num_impressions,
        "num_likes": history.num_likes,
    }


def history_from_json(saved: dict[str, Any]) -> History:
    """The history that ``history_to_json`` described."""
    shown, likes = saved["shown"][::-1], saved["likes"][::-1]
    return History(
        Latest.of([item_id for _, item_id in shown], [time_ms for time_ms, _ in shown]),
        Latest.of([item_id for _, item_id in likes], [time_ms for time_ms, _ in likes]),
        saved["num_impressions"],
        saved["num_likes"],
    )
