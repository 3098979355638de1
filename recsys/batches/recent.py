"""What was used lately, within a number of bytes that all kinds of it share.

Two generations: what is used moves to the young one; when that is half of everything, the old one goes. What is used
most keeps the room, whatever kind it is of.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

_ENTRY_BYTES = 250  # what Python takes for a key, its places in two dicts and a size, beside the value
K = TypeVar("K")
V = TypeVar("V")


class Lately:
    """The bytes of all kinds together, no more than ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_young_bytes = max_bytes // 2
        self._kinds: list[Recent] = []
        self._young_bytes = 0

    def kind(self, size_of: Callable[[V], int]) -> "Recent[K, V]":
        """Values of one kind, each of which takes ``size_of`` bytes."""
        self._kinds.append(kind := Recent[K, V](self, size_of))
        return kind

    def grow(self, num_bytes: int) -> None:
        """So much more is held, or less."""
        self._young_bytes += num_bytes
        if self._young_bytes > self._max_young_bytes:
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
        self._sizes: dict[K, int] = {}  # of the young ones
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
        self.put_all({key: value})

    def put_all(self, values: Mapping[K, V]) -> None:
        """Hold many."""
        sizes = dict(zip(values, map(self._size_of, values.values()), strict=True))
        before = sum([self._sizes.get(key, -_ENTRY_BYTES) for key in values])
        self._young.update(values)
        self._sizes.update(sizes)
        self._together.grow(sum(sizes.values()) - before)

    def drop_all(self, keys: Iterable[K]) -> None:
        """Hold some no longer."""
        gone = 0
        for key in keys:
            self._old.pop(key, None)
            if self._young.pop(key, None) is not None:
                gone += self._sizes.pop(key) + _ENTRY_BYTES
        self._together.grow(-gone)

    def age(self) -> None:
        """The old ones go, the young ones are old."""
        self._old, self._young, self._sizes = self._young, {}, {}
