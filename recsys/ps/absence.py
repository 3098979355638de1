"""Shards that may be away for a while: a worker goes on without one, at a price that is counted.

While a shard is being made anew, its rows read what ids without a row read, its part of the dense parameters stays as
it was last read, and what is pushed to it is lost: the shard counts the steps that it has missed (``Steps.let_go``). A
step touches every shard, so without this all training would wait for one. Where all of them are away, it does.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from recsys.errors import ServiceError
from recsys.hashing import Floats, Keys
from recsys.ps.client import Pending, Shard
from recsys.rows.store import DENSE, RowGroup, by_name

_OF_A_STEP = ("pull", "prefetch", "push")
_POLL_SECONDS = 0.02


class ShardAway(ServiceError):
    """A shard does not answer, and may be there again later."""


class MayBeAway(Shard, Protocol):
    """A shard whose calls of a step raise ShardAway where it is gone."""

    def back(self) -> Callable[[], bool]:
        """Begin to ask whether it is there again."""


def sparing(shards: Sequence[MayBeAway], groups: Sequence[RowGroup]) -> list["SparedShard"]:
    """The shards of one worker, which goes on without those that are away."""
    spared: list[SparedShard] = []
    for shard in shards:
        spared.append(SparedShard(shard, by_name(groups), spared))
    return spared


class SparedShard:
    """One of a worker's shards (``among``), which answers a step's calls in its place while it is away."""

    def __init__(self, shard: MayBeAway, groups: Mapping[str, RowGroup], among: Sequence["SparedShard"]) -> None:
        self._shard, self._groups, self._among = shard, groups, among
        self._back: Callable[[], bool] | None = None
        self._dense: tuple[Keys, Floats] | None = None  # as it was last read

    def call(self, method: str, *arguments: Any) -> Pending:
        """See Shard.call."""
        if method not in _OF_A_STEP:
            return self._shard.call(method, *arguments)
        if self.is_away():
            return self._without(method, *arguments)
        try:
            asked = self._shard.call(method, *arguments)
        except ShardAway:
            return self._left(method, *arguments)
        return lambda: self._answered(asked, method, *arguments)

    def is_away(self) -> bool:
        """Whether the shard is still away; one that has come back is told that steps have gone by."""
        if self._back is not None and self._back():
            self._shard.call("let_go")()
            self._back = None
        return self._back is not None

    def _answered(self, asked: Pending, method: str, *arguments: Any) -> Any:
        try:
            answer = asked()
        except ShardAway:
            return self._left(method, *arguments)()
        if method != "push":
            self._remember(_keys(method, arguments), answer)
        return answer

    def _remember(self, keys: Mapping[str, Keys], rows: Mapping[str, Floats]) -> None:
        if DENSE in keys:
            self._dense = (keys[DENSE], rows[DENSE].copy())

    def _left(self, method: str, *arguments: Any) -> Pending:
        self._back = self._back or self._shard.back()
        return self._without(method, *arguments)

    def _without(self, method: str, *arguments: Any) -> Pending:
        """What a worker goes on with; where it can not, the shard's own answer once it is back."""
        keys = _keys(method, arguments)
        if all(shard.is_away() for shard in self._among) or not self._knows_dense(keys):
            return lambda: self._once_back(method, *arguments)
        if method == "push":
            return dict
        return lambda: {name: self._substitute(name, keys_N) for name, keys_N in keys.items()}

    def _knows_dense(self, keys: Mapping[str, Keys]) -> bool:
        return DENSE not in keys or (self._dense is not None and np.array_equal(keys[DENSE], self._dense[0]))

    def _substitute(self, name: str, keys_N: Keys) -> Floats:
        if name == DENSE and self._dense is not None:
            return self._dense[1]
        return self._groups[name].absent_rows(keys_N)

    def _once_back(self, method: str, *arguments: Any) -> Any:
        while self.is_away():
            time.sleep(_POLL_SECONDS)
        return self.call(method, *arguments)()


def _keys(method: str, arguments: Sequence[Any]) -> Mapping[str, Keys]:
    """The keys that are read; none of a push."""
    return {"pull": arguments[0], "prefetch": arguments[-1]}.get(method, {})
