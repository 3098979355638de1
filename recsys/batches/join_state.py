"""What the joiner of one partition remembers, and the form of it that lives in memory.

Of a request id it knows one of three things: an impression that waits for its label (``Pending``), actions that came
before their impression (``Early``), or that its example was emitted, and until when that is remembered (``Emitted``).
Beside these there are three queues: the ends of windows in time order; and what is to be forgotten in the order noted,
of what was emitted and of what came early.
``disk_state`` has the same on disk.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from recsys.batches.merge import FOREVER
from recsys.events import Action
from recsys.features.packing import Packed
from recsys.features.state import Entries, Held

Timed = tuple[int, str]  # (time_ms, request id)


class Pending(msgspec.Struct, array_like=True, gc=False):
    """An impression that waits for its label, with the features as of when it was shown."""

    request_id: str
    user_id: int | str
    item_id: int | str
    time_ms: int
    values: Packed
    label: float = 0.0
    kinds: tuple[str, ...] = ()  # of the actions that counted


Early = list[Action]
Emitted = int  # forget at, in milliseconds
Request = Pending | Early | Emitted


class Requests(Entries[str, Request], Protocol):
    """What is known by request id."""

    def __delitem__(self, key: str, /) -> None: ...


class Queue(Protocol):
    """Request ids with times; which comes first is the implementation's promise."""

    next_ms: int  # the time of the first; FOREVER where there is none

    def add(self, time_ms: int, request_id: str) -> None:
        """Put in one more."""

    def pop(self) -> Timed:
        """Take out the first."""

    def items(self) -> Iterable[Timed]:
        """All of them, in no promised order unless they are in the order they were added."""

    def __len__(self) -> int: ...


class DeadlineQueue:
    """The earliest first, the smaller id among equals.

    >>> queue = DeadlineQueue(); queue.add(7, "b"); queue.add(5, "a"); queue.next_ms
    5
    """

    def __init__(self) -> None:
        self._heap: list[Timed] = []
        self.next_ms = FOREVER

    def add(self, time_ms: int, request_id: str) -> None:
        """Put in one more."""
        heapq.heappush(self._heap, (time_ms, request_id))
        self.next_ms = self._heap[0][0]

    def pop(self) -> Timed:
        """Take out the earliest."""
        first = heapq.heappop(self._heap)
        self.next_ms = self._heap[0][0] if self._heap else FOREVER
        return first

    def items(self) -> Iterator[Timed]:
        """All of them."""
        return iter(self._heap)

    def __len__(self) -> int:
        return len(self._heap)


class ForgetQueue:
    """In the order they were added, whatever their times."""

    def __init__(self) -> None:
        self._queue: deque[Timed] = deque()
        self.next_ms = FOREVER

    def add(self, time_ms: int, request_id: str) -> None:
        """Put in one more, behind the others."""
        self._queue.append((time_ms, request_id))
        self.next_ms = self._queue[0][0]

    def pop(self) -> Timed:
        """Take out the one that was added first."""
        first = self._queue.popleft()
        self.next_ms = self._queue[0][0] if self._queue else FOREVER
        return first

    def items(self) -> Iterator[Timed]:
        """All of them, in order."""
        return iter(self._queue)

    def __len__(self) -> int:
        return len(self._queue)


@dataclass
class JoinState:
    """The state of one partition's joiner: in memory, unless it is given other things."""

    requests: Requests = field(default_factory=lambda: Held[str, Request]())
    deadlines: Queue = field(default_factory=DeadlineQueue)
    forgets: Queue = field(default_factory=ForgetQueue)
    early_forgets: Queue = field(default_factory=ForgetQueue)
