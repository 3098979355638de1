"""A shard seen by one worker on the same machine: a step's arrays go through memory that both have, calls by a bell."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from recsys.hashing import Keys
from recsys.ps.absence import ShardAway
from recsys.ps.client import Pending
from recsys.ps.shard import Refreshed
from recsys.ps.steps import Part
from recsys.rows.store import RowGroup
from recsys.runtime.actors import wait_for
from recsys.runtime.bells import Bell, Door, Push, Read
from recsys.runtime.lanes import PUSH, PUSH_ANSWER, READ, READ_ANSWER, Laid, Lane, LaneLost, OtherEndGone, bytes_for
from recsys.runtime.shards import RayShard

_FIRST_BYTES = 1 << 20
_GROWTH = 1.5


class _Line(NamedTuple):
    """Memory and bell of one worker and one shard."""

    lane: Lane
    bell: Bell


def near(shards: Sequence[RayShard], groups: Sequence[RowGroup]) -> list["NearShard"]:
    """Shards as one worker's thread sees them."""
    widths = {group.name: group.width for group in groups}
    return [NearShard(shard, widths) for shard in shards]


class NearShard:
    """A RayShard for one thread, which waits for each read's and each push's answer before the next.

    Where the shard is on another machine, or there is no shared memory, everything goes by Ray; and what was asked of
    a shard that has died meanwhile, once more: Ray knows whether it comes back. Unless its RayShard ``waits``, that
    raises ShardAway.
    """

    def __init__(self, shard: RayShard, widths: Mapping[str, int]) -> None:
        self._shard, self._widths = shard, dict(widths)
        self._line: _Line | None = None
        self._is_far = False
        self._numbers = count()

    def call(self, method: str, *arguments: Any) -> Pending:
        """See Shard.call."""
        if method == "pull":
            keys, *after = arguments
            return self._read(method, keys, *after)
        if method == "prefetch":
            worker, step, keys = arguments
            return self._read(method, keys, worker, step)
        if method == "push":
            return self._push(*arguments)
        return self._shard.call(method, *arguments)

    def back(self) -> Callable[[], bool]:
        """See RayShard.back."""
        return self._shard.back()

    def _read(self, method: str, keys: Mapping[str, Keys], *others: int) -> Pending:
        arguments = (keys, *others) if method == "pull" else (*others, keys)
        line = self._line_of(bytes_for(sum(map(len, keys.values())), [keys], self._widths))
        if line is None:
            return self._shard.call(method, *arguments)
        asked = Read(next(self._numbers), method, line.lane.put(READ, keys), others)

        def rows(laid: tuple[Laid, ...]) -> Any:
            return line.lane.get(READ_ANSWER, *laid)[0]

        return self._rung(line, asked, rows, otherwise=(method, *arguments))

    def _push(self, part: Part, refresh: bool) -> Pending:
        keys = {name: arrays[0] for name, arrays in part.gradients.items()}
        rows = {name: arrays[1] for name, arrays in part.gradients.items()}
        counts = {name: arrays[2] for name, arrays in part.gradients.items() if len(arrays) == 3}
        line = self._line_of(bytes_for(sum(map(len, keys.values())), [keys, rows, counts], self._widths))
        if line is None:
            return self._shard.call("push", part, refresh)
        told = Push(
            next(self._numbers), line.lane.put(PUSH, keys, rows, counts), refresh,
            part.worker, part.step, part.event_time_ms, part.weight, part.position,
        )  # fmt: skip

        def refreshed(laid: tuple[Laid, ...]) -> Refreshed:
            positions, fresh = line.lane.get(PUSH_ANSWER, *laid)
            return {name: (positions[name], fresh[name]) for name in positions}

        return self._rung(line, told, refreshed, otherwise=("push", part, refresh))

    def _rung(
        self, line: _Line, message: Read | Push, read: Callable[[tuple[Laid, ...]], Any], otherwise: tuple[Any, ...]
    ) -> Pending:
        """Ring; what ``read`` makes of the answer, or the answer by Ray where nobody answers here any more."""
        try:
            line.bell.send(message)
        except LaneLost as lost:
            return self._without(line, lost, otherwise)

        def answer() -> Any:
            try:
                answered = line.bell.answer_to(message.number)
            except LaneLost as lost:
                return self._without(line, lost, otherwise)()
            if answered.failed:
                wait_for(self._shard.actor.failed.remote(line.lane.name, message.number))
            return None if answered.laid is None else read(answered.laid)

        return remembered(answer)

    def _without(self, line: _Line, lost: LaneLost, otherwise: tuple[Any, ...]) -> Pending:
        """The same by Ray; ShardAway where nobody answers here any more, and one does not wait for it to come back."""
        if self._line is line:
            self._line = None
        if isinstance(lost, OtherEndGone) and not self._shard.waits:
            raise ShardAway(str(lost)) from lost
        return self._shard.call(*otherwise)

    def _line_of(self, num_bytes: int) -> _Line | None:
        """A line whose lane's regions hold so much; None where there can be none."""
        if self._is_far or (self._line is not None and self._line.lane.capacity >= num_bytes):
            return self._line
        try:
            self._line = self._opened(max(_FIRST_BYTES, int(_GROWTH * num_bytes)))
        except LaneLost:
            self._line = None
        self._is_far = self._line is None
        return self._line

    def _opened(self, capacity: int) -> _Line:
        """A new line; LaneLost where the shard is on another machine. What is under way on another still comes."""
        lane = Lane.create(capacity)
        door = Door(lane.name)
        try:
            if not wait_for(self._shard.actor.open_lane.remote(lane.name)):
                raise LaneLost("the shard is on another machine")
            return _Line(lane, door.accept())
        finally:
            lane.unlink()
            door.close()


def remembered(answer: Pending) -> Pending:
    """The same answer, or the same error, however often it is asked for: it comes through the bell once.

    >>> twice = remembered(iter([1, 2]).__next__)
    >>> twice(), twice()
    (1, 1)
    """
    outcome: list[tuple[Any, BaseException | None]] = []

    def again() -> Any:
        if not outcome:
            try:
                outcome.append((answer(), None))
            except BaseException as error:
                outcome.append((None, error))
        value, refusal = outcome[0]
        if refusal is not None:
            raise refusal
        return value

    return again
