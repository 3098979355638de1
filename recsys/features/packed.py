"""The declared features of an impression as bytes (``packing``): what the joiner keeps until a label is final.

The values are those that the extractor gives to a ranker, by its own sources and encoders.
"""

from collections.abc import Callable
from itertools import groupby

from recsys.features.declarations import SEQUENCES, Feature
from recsys.features.extract import CLOCK, HISTORY, HOUR_MS, Encoder, Extractor, item_raw
from recsys.features.packing import Packed, pack, pack_number
from recsys.features.state import FactValues, History, Id

Parts = tuple[Packed, ...]
_Named = tuple[str, Encoder]
_OfHistory = Callable[[Id, History, int], Packed]


class PackedFeatures:
    """Features of an extractor, packed in the order in which they are declared.

    >>> features = [Feature(name=name, kind="id", source=f"{name}.id") for name in ("item", "user")]
    >>> packed = PackedFeatures(Extractor(features))
    >>> packed.as_of(0, 7, History(), packed.of_profile(7, {}), packed.of_item(3, {})) == pack([[3], [7]])
    True
    """

    def __init__(self, extractor: Extractor) -> None:
        self._of_user: list[_OfHistory] = []
        runs: dict[str, list[list[_Named]]] = {"profile": [], "item": [], "time": []}
        order: list[tuple[str, int]] = []
        for owner, run in groupby(extractor.declared, key=lambda declared: declared[0]):
            if owner == "user":
                for _, feature, source, encode in run:
                    order.append((owner, len(self._of_user)))
                    self._of_user.append(_of_history(feature, source, encode))
            else:
                order.append((owner, len(runs[owner])))
                runs[owner].append([(source, encode) for _, _, source, encode in run])
        first = {"user": 0, "profile": len(self._of_user)}
        first["item"] = first["profile"] + len(runs["profile"])
        first["time"] = first["item"] + len(runs["item"])
        self._order = [first[owner] + number for owner, number in order]
        self._profile_runs, self._item_runs, self._time_runs = runs["profile"], runs["item"], runs["time"]
        self._hour, self._of_hour = -1, Parts()

    def as_of(self, time_ms: int, user_id: Id, history: History, profile: Parts, item: Parts) -> Packed:
        """The values of what was known of a user and an item at a time."""
        if time_ms // HOUR_MS != self._hour:
            self._hour = time_ms // HOUR_MS
            self._of_hour = tuple(
                pack(encode(CLOCK[source](self._hour)) for source, encode in run) for run in self._time_runs
            )
        found = [
            *[packed(user_id, history, time_ms) for packed in self._of_user],
            *profile,
            *item,
            *self._of_hour,
        ]
        return b"".join([found[at] for at in self._order])

    def of_profile(self, _: Id, profile: FactValues) -> Parts:
        """What a user's facts give to it."""
        return tuple(pack(encode(profile.get(source)) for source, encode in run) for run in self._profile_runs)

    def of_item(self, item_id: Id, facts: FactValues) -> Parts:
        """What an item's facts give to it."""
        return tuple(
            pack(encode(item_raw(source, item_id, facts)) for source, encode in run) for run in self._item_runs
        )


def _of_history(feature: Feature, source: str, encode: Encoder) -> _OfHistory:
    """A packed value of a user's history. Its items are taken over as they are, unless a vocabulary chooses of them."""
    taken, max_length = HISTORY[source], feature.max_length
    if feature.kind == "number":
        return lambda user_id, history, time_ms: pack_number(encode(taken(user_id, history, time_ms)))
    if source in SEQUENCES and feature.kind != "id" and feature.vocabulary is None:
        if source == "shown":
            return lambda user_id, history, time_ms: history.impressions.packed(time_ms, max_length)
        return lambda user_id, history, time_ms: history.likes.packed(time_ms, max_length)
    return lambda user_id, history, time_ms: pack([encode(taken(user_id, history, time_ms))])
