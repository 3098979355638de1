"""A shard seen by one worker on the same machine: the arrays of a step go through memory that both have."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from recsys.hashing import Keys
from recsys.ps.client import Pending
from recsys.ps.shard import Refreshed
from recsys.ps.steps import Part
from recsys.rows.store import RowGroup
from recsys.runtime.actors import wait_for
from recsys.runtime.lanes import PUSH, PUSH_ANSWER, READ, READ_ANSWER, Laid, Lane, LaneLost, bytes_for
from recsys.runtime.shards import RayShard

_FIRST_BYTES = 1 << 20
_GROWTH = 1.5


def near(shards: Sequence[RayShard], groups: Sequence[RowGroup]) -> list["NearShard"]:
    """Shards as one worker's thread sees them."""
    widths = {group.name: group.width for group in groups}
    return [NearShard(shard, widths) for shard in shards]


class NearShard:
    """A RayShard for one thread, which waits for each read's and each push's answer before the next.

    Where the shard is on another machine, or there is no shared memory, everything goes by Ray.
    """

    def __init__(self, shard: RayShard, widths: Mapping[str, int]) -> None:
        self._shard, self._widths = shard, dict(widths)
        self._id = secrets.token_hex(8)
        self._lane: Lane | None = None
        self._is_far = False

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

    def _read(self, method: str, keys: Mapping[str, Keys], *others: int) -> Pending:
        arguments = (keys, *others) if method == "pull" else (*others, keys)
        num_keys = sum(map(len, keys.values()))
        lane = self._lane_of(bytes_for(num_keys, [keys], self._widths))
        if lane is None:
            return self._shard.call(method, *arguments)
        asked = self._shard.actor.read_laid.remote((self._id, lane.name), method, lane.put(READ, keys), others)

        def answer() -> Any:
            laid: tuple[Laid, ...] | None = self._answered(asked)
            if laid is None:
                return self._shard.call(method, *arguments)()
            return lane.get(READ_ANSWER, *laid)[0]

        return answer

    def _push(self, part: Part, refresh: bool) -> Pending:
        keys = {name: arrays[0] for name, arrays in part.gradients.items()}
        rows = {name: arrays[1] for name, arrays in part.gradients.items()}
        counts = {name: arrays[2] for name, arrays in part.gradients.items() if len(arrays) == 3}
        num_keys = sum(map(len, keys.values()))
        lane = self._lane_of(bytes_for(num_keys, [keys, rows, counts], self._widths))
        if lane is None:
            return self._shard.call("push", part, refresh)
        laid = lane.put(PUSH, keys, rows, counts)
        sent = self._shard.actor.push_laid.remote((self._id, lane.name), replace(part, gradients={}), laid, refresh)

        def answer() -> Refreshed | None:
            answered = self._answered(sent)
            if answered is None:
                found: Refreshed | None = self._shard.call("push", part, refresh)()
                return found
            if not answered:  # of what was read ahead, nothing is known there
                return None
            positions, fresh = lane.get(PUSH_ANSWER, *answered)
            return {name: (positions[name], fresh[name]) for name in positions}

        return answer

    def _answered(self, asked: Any) -> Any:
        """The answer; None where the lane is not known there any more: then all goes by Ray, this once."""
        try:
            return wait_for(asked)
        except LaneLost:
            self._lane = None
            return None

    def _lane_of(self, num_bytes: int) -> Lane | None:
        """A lane whose regions hold so much; None where there can be none."""
        if self._is_far or (self._lane is not None and self._lane.capacity >= num_bytes):
            return self._lane
        try:
            lane = Lane.create(max(_FIRST_BYTES, int(_GROWTH * num_bytes)))
        except LaneLost:
            self._lane, self._is_far = None, True
            return None
        try:
            self._is_far = not wait_for(self._shard.actor.open_lane.remote(self._id, lane.name))
        finally:
            lane.unlink()
        self._lane = None if self._is_far else lane
        return self._lane
