"""From state to feature values: one code for the joiner (as of the impression) and the ranker (as of now)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.features.packing import Value
from recsys.features.state import FactValues, History, Id
from recsys.hashing import hash_string

Values = dict[str, Value]
Encoder = Callable[[Any], Value]

_MAX_FLOAT32 = float(np.finfo(np.float32).max)

HISTORY: dict[str, Callable[[Id, History, int], Any]] = {
    "id": lambda user_id, history, time_ms: user_id,
    "shown": lambda user_id, history, time_ms: history.shown(time_ms),
    "likes": lambda user_id, history, time_ms: history.liked(time_ms),
    "like_log_odds": lambda user_id, history, time_ms: history.like_log_odds,
    "recent_like_log_odds": lambda user_id, history, time_ms: history.recent_like_log_odds(time_ms),
    "log_impressions": lambda user_id, history, time_ms: math.log1p(history.num_impressions),
}
HOUR_MS = 3_600_000
CLOCK: dict[str, Callable[[int], int]] = {
    "hour_of_day": lambda hour: hour % 24,
    "day_of_week": lambda hour: (hour // 24 + 3) % 7,  # 1970 began on a Thursday, Monday is 0
}
_OWNERS = ("user", "profile", "item", "time")
_INTEGERS = {int}
_MAX_KEPT = 20_000  # ids of which the values made of their facts are kept


class Extractor:
    """The declared features of users, items and times.

    >>> features = [Feature(name="item", kind="id", source="item.id"),
    ...             Feature(name="genres", kind="bag", source="item.genres", vocabulary=("Drama", "Comedy"))]
    >>> Extractor(features).of_item(7, {"genres": ["Comedy", "Western"]})
    {'item': [7], 'genres': [1]}
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)
        self.declared: list[tuple[str, Feature, str, Encoder]] = []  # with owner and name of the source
        for feature in features:
            owner, _, name = feature.source.partition(".")
            if owner == "column":
                raise ConfigError(
                    f"feature {feature.name!r} is of {feature.source}: of plain examples; no user's state or item's "
                    "facts give it: rank with a model of events, or look its embeddings up (jobs.lookup)"
                )
            self.declared.append((owner, feature, name, _encoder(feature)))
        self._by_owner = {
            owner: [(feature.name, source, encode) for of, feature, source, encode in self.declared if of == owner]
            for owner in _OWNERS
        }
        self._of_history = [(name, HISTORY[source], encode) for name, source, encode in self._by_owner["user"]]
        self._of_hour: tuple[int, Values] | None = None  # the latest, and what the clock's features were in it
        # Facts change rarely and are asked for at every impression: keep what was made of the latest ones.
        self._of_profile: dict[Id, tuple[FactValues, Values]] = {}
        self._of_item: dict[Id, tuple[FactValues, Values]] = {}

    def of_user(self, user_id: Id, history: History, profile: FactValues, time_ms: int) -> Values:
        """Values of the ``user.`` and ``profile.`` features, as of ``time_ms``."""
        values = {name: encode(taken(user_id, history, time_ms)) for name, taken, encode in self._of_history}
        values.update(_kept(self._of_profile, user_id, profile, self._profile_values))
        return values

    def of_item(self, item_id: Id, facts: FactValues) -> Values:
        """Values of the ``item.`` features."""
        return _kept(self._of_item, item_id, facts, self._item_values)

    def of_time(self, time_ms: int) -> Values:
        """Values of the ``time.`` features, in UTC."""
        hour, known = time_ms // HOUR_MS, self._of_hour  # read once: other threads ask for other times
        if known is None or known[0] != hour:
            values = {name: encode(CLOCK[source](hour)) for name, source, encode in self._by_owner["time"]}
            self._of_hour = known = (hour, values)
        return known[1]

    def _profile_values(self, user_id: Id, profile: FactValues) -> Values:
        return {name: encode(profile.get(source)) for name, source, encode in self._by_owner["profile"]}

    def _item_values(self, item_id: Id, facts: FactValues) -> Values:
        return {name: encode(item_raw(source, item_id, facts)) for name, source, encode in self._by_owner["item"]}


def item_raw(source: str, item_id: Id, facts: FactValues) -> Any:
    """The raw value of an ``item.`` feature."""
    return item_id if source == "id" else facts.get(source)


def _kept(
    kept: dict[Id, tuple[FactValues, Values]], of: Id, facts: FactValues, make: Callable[[Id, FactValues], Values]
) -> Values:
    """The values made of these very facts before, or new ones."""
    known = kept.get(of)
    if known is None or known[0] is not facts:
        if len(kept) >= _MAX_KEPT:
            kept.clear()
        kept[of] = known = (facts, make(of, facts))
    return known[1]


def _encoder(feature: Feature) -> Encoder:
    """How a raw value becomes a feature's value: none where it is absent, the first ``max_length`` of a bag."""
    max_length = feature.max_length
    index = None if feature.vocabulary is None else {word: at for at, word in enumerate(feature.vocabulary)}

    def id_of(value: Any) -> int:
        if type(value) is int:
            return value
        if isinstance(value, str):
            return hash_string(value)
        raise DataError(
            f"feature {feature.name!r} ({feature.source}): {value!r} is no id; ids are integers or strings, "
            "declare it kind: number"
        )

    def ids_of(values: list[Any]) -> list[int]:
        if index is None:
            return values if set(map(type, values)) == _INTEGERS else [id_of(value) for value in values]
        return [index[word] for word in values if word in index]

    def encode_number(value: Any) -> float:
        if type(value) is float and -_MAX_FLOAT32 <= value <= _MAX_FLOAT32:
            return value
        if value is None:
            return 0.0
        if isinstance(value, int | float) and abs(value) <= _MAX_FLOAT32:  # no NaN either
            return float(value)
        what = f"feature {feature.name!r} ({feature.source})"
        raise DataError(f"{what}: {value!r} is no finite float32; declare it kind: id")

    def encode_id(value: Any) -> list[int]:
        if index is None and type(value) is int:
            return [value]
        if isinstance(value, list):
            raise DataError(f"feature {feature.name!r} ({feature.source}): {value!r} is a list; declare it kind: bag")
        return [] if value is None else ids_of([value])

    def encode_bag(value: Any) -> list[int]:
        if value is None:
            return []
        return ids_of(value[:max_length] if isinstance(value, list) else [value])

    encoders: dict[str, Encoder] = {
        "number": encode_number,
        "id": encode_id,
        "bag": encode_bag,
        "sequence": encode_bag,  # it keeps the order of what it is given
    }
    return encoders[feature.kind]
