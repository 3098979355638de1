"""What was used lately, within a number of bytes that all kinds of it share.

Two generations: what is used moves to the young one; when that is half of everything, the old one goes. What is used
most keeps the room, whatever kind it is of.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

_ENTRY_BYTES = 250  # what Python takes for a key, its place in a dict and a size, beside the value
K = TypeVar("K")
V = TypeVar("V")


class Lately:
    """The bytes of all kinds together, no more than ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_young_bytes = max_bytes // 2
        self._kinds: list[Recent] = []
        self._young_bytes = 0  # no less than there are: what is put again counts again

    def kind(self) -> "Recent[K, V]":
        """Values of one kind."""
        self._kinds.append(kind := Recent[K, V](self))
        return kind

    def grow(self, num_bytes: int) -> None:
        """So much more is held."""
        self._young_bytes += num_bytes
        if self._young_bytes > self._max_young_bytes:
            self._young_bytes = 0
            for kind in self._kinds:
                kind.age()


class Recent(Generic[K, V]):
    """Values of one kind that were used lately, each with the bytes that it takes.

    >>> ages = Lately(1000).kind()
    >>> for name in ("anna", "bert", "carl", "dora"): ages.put_all([name], ["x"], [100])
    >>> ages.get("anna"), ages.get("dora")
    (None, 'x')
    """

    def __init__(self, together: Lately) -> None:
        self._together = together
        self._young: dict[K, tuple[V, int]] = {}
        self._old: dict[K, tuple[V, int]] = {}

    def get(self, key: K) -> V | None:
        """A value; None where it is not held."""
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is None:
                return None
            self._young[key] = found
            self._together.grow(found[1] + _ENTRY_BYTES)
        return found[0]

    def missing(self, keys: Iterable[K]) -> list[K]:
        """Those of some keys that are not held; those that are count as used."""
        young, old = self._young, self._old
        others = [key for key in keys if key not in young]
        used = {key: found for key in others if (found := old.pop(key, None)) is not None}
        if used:
            young.update(used)
            self._together.grow(sum([size for _, size in used.values()]) + _ENTRY_BYTES * len(used))
        return [key for key in others if key not in used] if used else others

    def put_all(self, keys: Iterable[K], values: Iterable[V], sizes: list[int]) -> None:
        """Hold values by their keys."""
        self._young.update(zip(keys, zip(values, sizes, strict=True), strict=True))
        self._together.grow(sum(sizes) + _ENTRY_BYTES * len(sizes))

    def drop_all(self, keys: Iterable[K]) -> None:
        """Hold some no longer."""
        young, old = self._young, self._old
        for key in keys:
            young.pop(key, None)
            old.pop(key, None)

    def age(self) -> None:
        """The old ones go, the young ones are old."""
        self._old, self._young = self._young, {}
