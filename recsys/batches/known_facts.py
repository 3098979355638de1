"""What is made of the facts of users or items, for as long as it was true: kept of those asked for lately."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from recsys.batches.recent import Lately, Recent
from recsys.features.state import FactTable, FactValues, Id

_SIZE_BYTES = 250
V = TypeVar("V")


class KnownFacts(Generic[V]):
    """What ``make`` makes of an id and its facts.

    >>> table = FactTable(); table.put(7, 100, {"age": 20}); table.put(7, 200, {"age": 21})
    >>> ages = KnownFacts(table, lambda _, facts: facts.get("age"), Lately(10_000))
    >>> ages.as_of(7, 50), ages.as_of(7, 150), ages.as_of(7, 199), ages.as_of(7, 200)
    (None, 20, 20, 21)
    """

    def __init__(self, table: FactTable, make: Callable[[Id, FactValues], V], lately: Lately) -> None:
        self._table, self._make = table, make
        self._held: Recent[Id, tuple[int, int, V]] = lately.kind()
        table.watch(self._forget)

    def fetch(self, ids: Iterable[Id]) -> None:
        """Have at hand what is known of some."""
        self._table.fetch(self._held.missing(ids))

    def as_of(self, of: Id, time_ms: int) -> V:
        """What was true of an id at a time."""
        known = self._held.get(of)
        if known is not None and known[0] <= time_ms < known[1]:
            return known[2]
        begin_ms, end_ms, facts = self._table.valid_at(of, time_ms)
        made = self._make(of, facts)
        self._held.put_all([of], [(begin_ms, end_ms, made)], [_SIZE_BYTES])
        return made

    def _forget(self, of: Id) -> None:
        self._held.drop_all([of])
