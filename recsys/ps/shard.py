"""One shard of the parameter server, without Ray: rows, the steps that change them, and reads that run ahead.

Calls come from many threads; a lock makes each atomic. A call that waits (for a step) waits outside the lock.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from recsys.hashing import Floats, Keys
from recsys.ps.steps import Part, Steps, TooLate
from recsys.rows.local import LocalRows
from recsys.rows.store import Gradients, StreamPosition

Refreshed = dict[str, tuple[Keys, Floats]]  # by group: positions in the keys that were read ahead, and their rows now


class _Ahead(NamedTuple):
    """What a worker has read ahead while it took a step, and the store's sequence number then."""

    step: int
    keys: Mapping[str, Keys]
    sequence: int


class StepShard:
    """A ``LocalRows`` that workers train in steps, and others read between them.

    ``noted`` is told of every pull and push: (kind, seconds, rows).
    """

    def __init__(
        self, store: LocalRows, steps: Steps, noted: Callable[[str, float, int], None] = lambda *_: None
    ) -> None:
        self.store, self.steps, self._noted = store, steps, noted
        self._lock = threading.Lock()
        self._ahead: dict[int, _Ahead] = {}

    # --- what workers call

    def pull(
        self, keys: Mapping[str, Keys], after: int | None = None, *, out: Mapping[str, Floats] | None = None
    ) -> dict[str, Floats]:
        """Rows (into ``out``, where it is given); of a worker that has pushed step ``after``: not staler than it may
        see.
        """
        if after is not None:
            with self._lock:
                known = self.steps.after(after - self.steps.staleness)
            known.result()
        with self._lock:
            return self._pull(keys, out)

    def prefetch(
        self, worker: int, step: int, keys: Mapping[str, Keys], *, out: Mapping[str, Floats] | None = None
    ) -> dict[str, Floats]:
        """Rows as they are now; the answer to the worker's push of ``step`` says which of them have changed since."""
        with self._lock:
            self._ahead[worker] = _Ahead(step, keys, self.store.sequence)
            return self._pull(keys, out)

    def push(self, part: Part, refresh: bool, *, borrowed: bool = False) -> Refreshed | None:
        """Take a part; answers when the worker may go on, with what has changed of what it read ahead.

        None where that is not known here (the shard was restarted): read it again. The same part again changes nothing.
        ``borrowed`` arrays are the worker's again after the answer: those of a part that waits longer are copied.
        """
        started = time.perf_counter()
        with self._lock:
            if borrowed and not self.steps.completes(part):
                part = replace(part, gradients=_copied(part.gradients))
            known = self.steps.add(part)
            self._noted("push", time.perf_counter() - started, sum(len(a[0]) for a in part.gradients.values()))
        known.result()
        return self._refreshed(part) if refresh else {}

    # --- what everybody calls

    def call(self, method: str, *arguments: Any) -> Any:
        """Any method of the row store."""
        with self._lock:
            return getattr(self.store, method)(*arguments)

    def at(self, step: int, patience_seconds: float, method: str, *arguments: Any) -> tuple[int, Any]:
        """(step, answer) of a method of the row store, called between ``step`` and the next.

        TooLate where that moment is over, or does not come in ``patience_seconds``.
        """
        answered = self.appoint(step, lambda: (self.steps.applied, getattr(self.store, method)(*arguments)))
        return self.kept(step, answered, patience_seconds)

    def appoint(self, step: int, action: Callable[[], Any]) -> "Future[Any]":
        """The answer of ``action`` at a step: see Steps.at."""
        with self._lock:
            return self.steps.at(step, action)

    def kept(self, step: int, answered: "Future[Any]", patience_seconds: float) -> Any:
        """Wait for an appointment; TooLate, and it is cancelled, where it does not come in time."""
        try:
            return answered.result(patience_seconds)
        except (NotYet, CancelledError):
            with self._lock:
                if not answered.done():
                    self.steps.cancel(step)
            if answered.done() and answered.exception() is None:
                return answered.result()
            raise TooLate(step) from None

    def join(self, worker: int, first_step: int) -> None:
        """See Steps.join."""
        with self._lock:
            self.steps.join(worker, first_step)

    def leave(self, worker: int) -> None:
        """See Steps.leave."""
        with self._lock:
            self.steps.leave(worker)
            self._ahead.pop(worker, None)

    def regroup(self, members: Mapping[int, int]) -> None:
        """See Steps.regroup."""
        with self._lock:
            self.steps.regroup(members)

    def expect(self, members: Mapping[int, int]) -> None:
        """See Steps.expect."""
        with self._lock:
            self.steps.expect(members)

    def counts_on(self, worker: int) -> bool:
        """See Steps.counts_on."""
        with self._lock:
            return self.steps.counts_on(worker)

    def let_go(self) -> None:
        """See Steps.let_go."""
        with self._lock:
            self.steps.let_go()

    def catch_up(self, step: int, position: StreamPosition) -> None:
        """See Steps.catch_up."""
        with self._lock:
            self.steps.catch_up(step, position)

    def look(self) -> dict[str, int]:
        """Where the shard is: ``applied``, ``newest`` step, parts that ``wait``, steps ``lost``; and, 0 or 1, whether
        it ``is_lost``, and whether a step is ``expected``.
        """
        with self._lock:
            steps = self.steps
            return {
                "applied": steps.applied,
                "newest": steps.newest,
                "waiting": steps.num_waiting,
                "lost": steps.num_lost,
                "is_lost": int(steps.is_lost),
                "expected": int(steps.expected),
            }

    def taken(self) -> dict[int, tuple[int, StreamPosition]]:
        """By worker: its last step of which a part has come, and where its stream stood after it."""
        with self._lock:
            return dict(self.steps.taken)

    def position(self) -> dict[int, tuple[int, int]]:
        """Where the streams of all workers stood after the last step applied."""
        with self._lock:
            return dict(self.steps.position)

    def _pull(self, keys: Mapping[str, Keys], out: Mapping[str, Floats] | None) -> dict[str, Floats]:
        started = time.perf_counter()
        rows = self.store.pull(keys, out)
        self._noted("pull", time.perf_counter() - started, sum(map(len, keys.values())))
        return rows

    def _refreshed(self, part: Part) -> Refreshed | None:
        with self._lock:
            ahead = self._ahead.get(part.worker)
            if ahead is None or ahead.step != part.step:
                return None
            stale = self.store.stale(ahead.keys, ahead.sequence)
            rows = self.store.pull({name: ahead.keys[name][at] for name, at in stale.items()})
            return {name: (stale[name], rows[name]) for name in stale}


class LocalShard:
    """A shard in this process: how routing and steps are tested without servers."""

    def __init__(self, store: LocalRows, steps: Steps | None = None) -> None:
        self.shard = StepShard(store, steps or Steps(store))

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Answers at once, but for what may have to wait for a step."""
        if method in ("push", "pull", "at"):
            return _threads().submit(getattr(self.shard, method), *arguments).result
        answer = getattr(self.shard, method)(*arguments)
        return lambda: answer


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(64, thread_name_prefix="shard")


def _copied(gradients: Mapping[str, Gradients]) -> dict[str, Gradients]:
    return {name: tuple(a.copy() for a in arrays) for name, arrays in gradients.items()}  # type: ignore[misc]
