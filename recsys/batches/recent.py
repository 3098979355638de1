"""What was used lately, within a number of bytes that all kinds of it share.

Two generations: what is used moves to the young one; when that is half of everything, the old one goes. What is used
most keeps the room, whatever kind it is of.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

_ENTRY_BYTES = 200  # what Python takes for a key and a place in a dict, beside the value
_FULL = 0.75  # of the young generation, when counted again
K = TypeVar("K")
V = TypeVar("V")


class Lately:
    """The bytes of all kinds together, no more than ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_young_bytes = max_bytes // 2
        self._kinds: list[Recent] = []
        self._young_bytes = 0  # no less than there are: what is put again is counted again

    def kind(self, size_of: Callable[[V], int]) -> "Recent[K, V]":
        """Values of one kind, each of which takes ``size_of`` bytes."""
        self._kinds.append(kind := Recent[K, V](self, size_of))
        return kind

    def grow(self, num_bytes: int) -> None:
        """So much more is held."""
        self._young_bytes += num_bytes
        if self._young_bytes <= self._max_young_bytes:
            return
        self._young_bytes = sum(kind.young_bytes() for kind in self._kinds)
        if self._young_bytes > _FULL * self._max_young_bytes:
            self._young_bytes = 0
            for kind in self._kinds:
                kind.age()


class Recent(Generic[K, V]):
    """Values of one kind that were used lately.

    >>> ages = Lately(2000).kind(len)
    >>> for name in ("anna", "bert", "carl", "dora"): ages.put(name, "x" * 100)
    >>> ages.get("anna"), ages.get("dora") is not None
    (None, True)
    """

    def __init__(self, together: Lately, size_of: Callable[[V], int]) -> None:
        self._together, self._size_of = together, size_of
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """A value; None where it is not held."""
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Hold a value."""
        self._young[key] = value
        self._together.grow(self._size_of(value) + _ENTRY_BYTES)

    def put_all(self, values: Mapping[K, V]) -> None:
        """Hold many."""
        self._young.update(values)
        self._together.grow(sum(map(self._size_of, values.values())) + _ENTRY_BYTES * len(values))

    def drop(self, key: K) -> None:
        """Hold it no longer."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def young_bytes(self) -> int:
        """What the young ones take."""
        return sum(map(self._size_of, self._young.values())) + _ENTRY_BYTES * len(self._young)

    def age(self) -> None:
        """The old ones go, the young ones are old."""
        self._old, self._young = self._young, {}
