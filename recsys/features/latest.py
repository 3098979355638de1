"""The latest items of a user's history with their times, in few bytes: 16 an item where ids are integers.

Held as they are packed into features (``packing``): an impression takes them over without looking at each.
"""

import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import neg
from typing import Self

from recsys.features.packing import Packed, pack_words, unpack_words
from recsys.hashing import to_id

Id = int | str

_word = struct.Struct("<q").pack
_word_at = struct.Struct("<q").unpack_from


@dataclass(slots=True)
class Latest:
    """Items and their times, the latest first.

    >>> latest = Latest(); latest.add(10, "a", keep=2); latest.add(5, 7, keep=2); latest.items(as_of_ms=7)
    [7]
    """

    times: bytes = b""  # int64 each
    ids: bytes = b""  # int64 each; of strings, what they are hashed to
    texts: list[Id] | None = None  # the ids themselves, where one is a string

    @classmethod
    def of(cls, items: Sequence[Id], times_ms: Sequence[int]) -> Self:
        """Items with their times, both the latest first."""
        return cls(pack_words(times_ms), pack_words(list(map(to_id, items))), _texts(items))

    def add(self, time_ms: int, item: Id, keep: int) -> None:
        """Put in one more; of more than ``keep`` the oldest goes. Of equal times, the last to come is the later."""
        at = 8 * self.first(time_ms)
        word, end = _word(to_id(item)), 8 * keep
        if self.texts is None and isinstance(item, str):
            self.texts = self.items()
        self.times = (self.times[:at] + _word(time_ms) + self.times[at:])[:end]
        self.ids = (self.ids[:at] + word + self.ids[at:])[:end]
        if self.texts is not None:
            self.texts.insert(at // 8, item)
            self.texts = _texts(self.texts[:keep])

    def items(self, as_of_ms: int | None = None) -> list[Id]:
        """The items, as of a time."""
        first = self.first(as_of_ms)
        return list(unpack_words(self.ids[8 * first :])) if self.texts is None else self.texts[first:]

    def times_ms(self) -> list[int]:
        """The time of each item."""
        return list(unpack_words(self.times))

    def packed(self, as_of_ms: int, max_length: int) -> Packed:
        """The ids as of a time, no more than ``max_length``, as a packed feature."""
        first = 8 * self.first(as_of_ms)
        ids = self.ids[first : first + 8 * max_length]
        return _word(len(ids) // 8) + ids

    def first(self, as_of_ms: int | None) -> int:
        """How many of them are later than a time."""
        if as_of_ms is None or not self.times or _word_at(self.times)[0] <= as_of_ms:
            return 0
        return bisect_left(unpack_words(self.times), -as_of_ms, key=neg)

    def __len__(self) -> int:
        return len(self.times) // 8


def _texts(items: Sequence[Id]) -> list[Id] | None:
    return list(items) if any(isinstance(item, str) for item in items) else None
