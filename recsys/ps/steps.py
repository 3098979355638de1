"""Steps of several workers on one shard: applied in order, each once, when all its parts are in (stale-synchronous).

A step is one part a worker, and equals one push of their concatenation in worker order: gradients are means over a
batch, so parts count by their ``weight``. With a staleness bound s a worker that has pushed step k may go on when this
shard has applied step k - s (Ho et al. 2013, "More Effective Distributed ML via a Stale Synchronous Parallel Parameter
Server"); s = 0 is one process that takes all batches at once.

Everything here is a state machine without threads: what has to wait gets a Future. Between two steps, at a step that
was agreed on beforehand (``at``), a shard can be read: all shards together then show one instant.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.errors import ServiceError
from recsys.rows.store import Gradients, RowStore, StreamPosition

Action = Callable[[], Any]


@dataclass(frozen=True)
class Part:
    """What one worker adds to a step; ``position`` is where its stream stands after it."""

    worker: int
    step: int
    gradients: Mapping[str, Gradients]
    event_time_ms: int
    weight: float = 1.0
    position: StreamPosition = field(default_factory=dict)


class TooLate(ServiceError):
    """The step is over already, or has not come in time: choose another."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step} is not the one that the shard is at; try again")
        self.step = step

    def __reduce__(self) -> tuple[type["TooLate"], tuple[int]]:
        return TooLate, (self.step,)


class Steps:
    """Takes parts, and applies a step to ``store`` when its last part has come.

    ``applied`` is the last step that was; ``position`` where the streams of all workers stood after it. ``members``
    says from which step on a worker takes part. With ``lost`` set, the store is an older one than the workers believe:
    the first step that is whole is taken, and what lies between is counted. Where ``members`` are not known then, no
    step is whole until somebody says who is expected (``expect``).
    """

    def __init__(
        self,
        store: RowStore,
        *,
        staleness: int = 0,
        applied: int = 0,
        members: Mapping[int, int] | None = None,
        position: StreamPosition | None = None,
        lost: bool = False,
    ) -> None:
        self._store, self.staleness, self.applied = store, staleness, applied
        self.position: dict[int, tuple[int, int]] = dict(position or {})
        self._members = dict(members or {})
        self._knows_members = members is not None or not lost
        self._changed: dict[int, int | None] = {}  # by worker: the step from which it joined here, None where it left
        self._parts: dict[int, dict[int, Part]] = {}  # step -> worker -> part
        self._waiting: dict[int, list[Future[None]]] = {}  # step -> who goes on when it is applied
        self._appointments: dict[int, list[tuple[Action, Future[Any]]]] = {}
        self._lost = lost
        self.num_lost = 0
        self.taken: dict[int, tuple[int, StreamPosition]] = {}  # by worker: its last step, and its stream's position

    # --- who takes part

    def join(self, worker: int, first_step: int) -> None:
        """Count on a worker from a step on; TooLate where that step is over. A later ``first_step`` replaces one."""
        if first_step <= self.applied:
            raise TooLate(first_step)
        self._members[worker] = self._changed[worker] = first_step
        self._advance()

    def regroup(self, members: Mapping[int, int]) -> None:
        """Count on these workers alone, from these steps on. What namesakes of theirs took before is not theirs."""
        self._members, self._knows_members, self._changed = dict(members), True, {}
        self.taken = {w: taken for w, taken in self.taken.items() if w in members and taken[0] >= members[w]}
        self._advance()

    def expect(self, members: Mapping[int, int]) -> None:
        """Count on these workers, as somebody saw them; who has joined or left here meanwhile is known better."""
        joined = {worker: first for worker, first in self._changed.items() if first is not None}
        self._members = {w: first for w, first in members.items() if w not in self._changed} | joined
        self._knows_members = True
        self._advance()

    def counts_on(self, worker: int) -> bool:
        """Whether steps wait for a worker."""
        return worker in self._members

    def leave(self, worker: int) -> None:
        """Count on a worker no more: parts it has sent still do."""
        self._members.pop(worker, None)
        self.taken.pop(worker, None)
        self._changed[worker] = None
        self._advance()

    def let_go(self) -> None:
        """Workers have gone on without this store: the first step that is whole is the next, what lies between lost."""
        self._lost = True
        self._advance()

    def catch_up(self, step: int, position: StreamPosition) -> None:
        """Nobody takes steps any more, and the other stores have come to this one: what lies between is lost.

        Nothing where somebody does again.
        """
        if self._members:
            return
        self._parts, self._lost, self._knows_members = {}, False, True
        self.num_lost += max(0, step - self.applied)
        self.applied = max(step, self.applied)
        self.position.update(position)
        self._advance()

    @property
    def newest(self) -> int:
        """The latest step of which a part has come."""
        return max(self._parts, default=self.applied)

    @property
    def is_lost(self) -> bool:
        """Whether this store is an older one than workers believe, and no step has been whole since."""
        return self._lost

    @property
    def expected(self) -> bool:
        """Whether anybody will take a step."""
        return bool(self._members or self._parts)

    @property
    def num_waiting(self) -> int:
        """Parts that wait for others of their step."""
        return sum(map(len, self._parts.values()))

    # --- pushing and reading

    def add(self, part: Part) -> "Future[None]":
        """Take a part, once; the answer comes when its worker may go on, ``staleness`` steps behind at most."""
        if part.step > self.applied:
            self._parts.setdefault(part.step, {}).setdefault(part.worker, part)
            self.taken[part.worker] = max(
                (part.step, part.position), self.taken.get(part.worker, (0, {})), key=lambda taken: taken[0]
            )
            self._advance()
        return self.after(part.step - self.staleness)

    def completes(self, part: Part) -> bool:
        """Whether a step that a part belongs to would be whole with it, and applied next."""
        others = self._parts.get(part.step, {})
        missing = [w for w, first in self._members.items() if first <= part.step and w not in others]
        return not self._lost and part.step == self.applied + 1 and missing in ([], [part.worker])

    def after(self, step: int) -> "Future[None]":
        """Answers when a step has been applied; at once where what is waited for may never come."""
        future: Future[None] = Future()
        if step <= self.applied or self._lost or not self.expected:
            future.set_result(None)
        else:
            self._waiting.setdefault(step, []).append(future)
        return future

    def at(self, step: int, action: Action) -> "Future[Any]":
        """The answer of ``action``, called between ``step`` and the next; TooLate where the next was applied already.

        Where nobody takes a step any more, it is called now.
        """
        if step < self.applied:
            raise TooLate(step)
        future: Future[Any] = Future()
        self._appointments.setdefault(step, []).append((action, future))
        self._meet()
        return future

    def cancel(self, step: int) -> None:
        """Forget the appointments at a step that has not come: who made them has other plans."""
        for _, future in self._appointments.pop(step, []):
            future.set_exception(TooLate(step))

    # --- applying

    def _advance(self) -> None:
        """Apply every step that is whole, in order, and let go on who waited: an error there is everybody's."""
        while (step := self._next()) is not None:
            try:
                self._apply(step)
            except Exception as error:
                for waited_for in [waited_for for waited_for in self._waiting if waited_for <= step]:
                    for future in self._waiting.pop(waited_for):
                        future.set_exception(error)
                raise
            self._meet()
        for step in [step for step in self._waiting if step <= self.applied or self._lost or not self.expected]:
            for future in self._waiting.pop(step):
                future.set_result(None)
        self._meet()

    def _next(self) -> int | None:
        """The step to apply now, if it is whole. Steps that nobody takes part in are passed over."""
        if self._lost:
            whole = [step for step in self._parts if self._is_whole(step)]
            return min(whole, default=None)
        step = self.applied + 1
        if not self._parts.get(step):
            firsts = [*self._parts, *self._members.values()]
            if not firsts or min(firsts) <= step:
                return None
            step = min(firsts)
            self.applied = step - 1
        return step if self._is_whole(step) else None

    def _is_whole(self, step: int) -> bool:
        parts = self._parts.get(step, {})
        return (
            self._knows_members
            and bool(parts)
            and all(first > step or worker in parts for worker, first in self._members.items())
        )

    def _apply(self, step: int) -> None:
        parts = self._parts.pop(step)
        if self._lost:
            self.num_lost += step - self.applied - 1
            self._lost = False
            self._parts = {later: waiting for later, waiting in self._parts.items() if later > step}
        ordered = [parts[worker] for worker in sorted(parts)]
        gradients = combined(ordered)
        if gradients:
            self._store.push(gradients, max(part.event_time_ms for part in ordered))
        for part in ordered:
            self.position.update(part.position)
        self.applied = step

    def _meet(self) -> None:
        """Keep the appointments at this step, or all where no step will follow."""
        due = [step for step in self._appointments if step <= self.applied or not self.expected]
        for step in due:
            for action, future in self._appointments.pop(step):
                try:
                    if step < self.applied and self.expected:  # a lost store went past it
                        raise TooLate(step)
                    future.set_result(action())
                except Exception as error:
                    future.set_exception(error)


def combined(parts: Sequence[Part]) -> dict[str, Gradients]:
    """The gradients of a whole step: one push, in worker order, each part counted by its weight.

    >>> keys, ones = np.array([7]), np.ones((1, 1), np.float32)
    >>> two = [Part(0, 1, {"item": (keys, ones)}, 0, weight=3), Part(1, 1, {"item": (keys, 5 * ones)}, 0, weight=1)]
    >>> combined(two)["item"][1].tolist()
    [[0.75], [1.25]]
    """
    parts = [part for part in parts if part.gradients]
    if len(parts) == 1:
        return dict(parts[0].gradients)
    total = sum(part.weight for part in parts) or 1.0
    shares = [np.float32(part.weight / total) for part in parts]
    gradients: dict[str, Gradients] = {}
    for name in dict.fromkeys(name for part in parts for name in part.gradients):
        found = [(part.gradients[name], share) for part, share in zip(parts, shares, strict=True)
                 if name in part.gradients]  # fmt: skip
        columns = [
            np.concatenate([arrays[0] for arrays, _ in found]),
            np.concatenate([arrays[1] * share for arrays, share in found]),
        ]
        if all(len(arrays) == 3 for arrays, _ in found):
            columns.append(np.concatenate([arrays[2] for arrays, _ in found]))  # type: ignore[misc]
        gradients[name] = tuple(columns)  # type: ignore[assignment]
    return gradients
