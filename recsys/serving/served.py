"""What a ranker asks of whatever holds a trained run: Redis (``published``), or a folder (``exported``)."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from recsys.features.state import FactValues, History
from recsys.models.recommender import Recommender
from recsys.rows.store import RowReader
from recsys.serving.published import Id, Versions


class ServedRun(Protocol):
    """One run: its rows, its dense parameters, and what is known of users and items."""

    recommender: Recommender

    @property
    def rows(self) -> RowReader:
        """Rows of its groups."""

    def at(self, versions: Versions) -> tuple[Recommender, Versions]:
        """The recommender with the dense parameters of a version, and the versions with theirs."""

    def is_there(self) -> bool:
        """Whether it still lies where it is read from."""

    def feature_keys(self, user_id: Id, item_ids: Sequence[Id]) -> list[str]:
        """Where a user's features lie, and those of items."""

    def user(self, user_id: Id) -> tuple[History, FactValues]:
        """(history, profile); both empty for a user never seen."""

    def items(self, item_ids: Sequence[Id]) -> list[FactValues]:
        """Facts of items; empty for those never seen."""

    def user_of(self, value: Any) -> tuple[History, FactValues]:
        """A user as read; None is one never seen."""

    def facts_of(self, values: Sequence[Any]) -> list[FactValues]:
        """Items as read."""

    def item_ids(self) -> tuple[Id, ...]:
        """All items of which facts are known: numbers in order, then strings."""

    def recent_items(self, num: int) -> list[Id]:
        """The items that were shown or liked last, the latest first, as far as that is known."""


class Served(Protocol):
    """Where the run that is served is found."""

    def current(self) -> tuple[ServedRun, Versions]:
        """The run that is served, and its versions."""

    def look(self, keys_of: Callable[[Any], Sequence[str]]) -> tuple[ServedRun, Versions, list[Any]]:
        """``current``, and what lies under keys of that run, from the same look."""

    def close(self) -> None:
        """Let go of what it holds."""
