"""A mapping and two queues that are larger than memory, each under a prefix of one database.

Between commits changes are objects in memory; ``write`` adds them to a batch, encoded as msgpack. Keys sort as their
numbers do.
"""

import heapq
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Generic, TypeVar

import msgspec

from recsys.batches.join_state import Timed
from recsys.batches.merge import FOREVER
from recsys.batches.recent import Recent
from recsys.batches.rocks import Rocks

_BUCKET_MS = 1000
K = TypeVar("K")
V = TypeVar("V")
Changes = dict[bytes, bytes | None]

encode = msgspec.msgpack.Encoder().encode
decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder().decode
_decode_timed: Callable[[bytes], list[Timed]] = msgspec.msgpack.Decoder(list[Timed]).decode
number_bytes = struct.Struct(">Q").pack
_ABSENT: Any = object()
_OBJECT_BYTES = 300  # what objects take, beside the bytes of their encoded form


class DiskEntries(Generic[K, V]):
    """A mapping, larger than memory. What is got and changed must be put again.

    What was used lately is held as objects, which take ``object_factor`` times the bytes of their encoded form and some
    more; ``fetch`` has many at hand by one question to the disk.
    """

    def __init__(
        self,
        rocks: Rocks,
        prefix: bytes,
        *,
        key_text: tuple[Callable[[K], str], Callable[[str], K]],
        coded: tuple[Callable[[V], bytes], Callable[[bytes], V]],
        object_factor: int = 1,
    ) -> None:
        self._rocks, self._prefix = rocks, prefix
        self._recent: Recent[K, V] = rocks.lately.kind()
        self._object_factor = object_factor
        text_of, self._key_of = key_text
        self._raw: Callable[[K], bytes] = lambda key: prefix + text_of(key).encode()
        self._encode, self._decode = coded
        self._changed: dict[K, V | None] = {}  # since the last commit; None is deleted
        self._absent: set[K] = set()  # asked for since then, and not there

    def get(self, key: K) -> V | None:
        """The value of a key, or None."""
        changed: V | None = self._changed.get(key, _ABSENT)
        if changed is not _ABSENT:
            return changed
        found = self._recent.get(key)
        if found is not None or key in self._absent:
            return found
        data = self._rocks.get(self._raw(key))
        if data is None:
            return None
        value = self._decode(data)
        self._recent.put_all([key], [value], self._sizes([data]))
        return value

    def fetch(self, keys: Iterable[K]) -> None:
        """Have at hand what is going to be asked for."""
        changed, absent, recent = self._changed, self._absent, self._recent
        missing = recent.missing([key for key in dict.fromkeys(keys) if key not in changed and key not in absent])
        if not missing:
            return
        found = self._rocks.get_many([self._raw(key) for key in missing])
        data = [data for data in found if data is not None]
        if data:
            keys = [key for key, data in zip(missing, found, strict=True) if data is not None]
            recent.put_all(keys, map(self._decode, data), self._sizes(data))
        if len(data) < len(found):
            absent.update([key for key, data in zip(missing, found, strict=True) if data is None])

    def _sizes(self, data: Sequence[bytes]) -> list[int]:
        factor = self._object_factor
        return [_OBJECT_BYTES + factor * len(encoded) for encoded in data]

    def __setitem__(self, key: K, value: V) -> None:
        self._changed[key] = value

    def __delitem__(self, key: K) -> None:
        self._changed[key] = None

    def items(self) -> Iterator[tuple[K, V]]:
        """Every (key, value); those that changed since the last commit come last."""
        changed = dict(self._changed)
        for raw, data in self._rocks.scan(self._prefix, after(self._prefix)):
            key = self._key_of(raw[len(self._prefix) :].decode())
            if key not in changed:
                yield key, self._decode(data)
        yield from ((key, value) for key, value in changed.items() if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self.items())

    def write(self, into: Changes) -> None:
        """Add what changed to a batch."""
        held = {key: value for key, value in self._changed.items() if value is not None}
        data = list(map(self._encode, held.values()))
        into.update(zip(map(self._raw, held), data, strict=True))
        self._recent.put_all(held, held.values(), self._sizes(data))
        if len(held) < len(self._changed):
            gone = [key for key, value in self._changed.items() if value is None]
            into.update(dict.fromkeys(map(self._raw, gone)))
            self._recent.drop_all(gone)
        self._changed.clear()
        self._absent.clear()


class DiskDeadlines:
    """A DeadlineQueue on disk, in buckets of one second; those that come next are in memory.

    A bucket is deleted as a whole: after a crash, what was taken of it comes again. ``opened`` is told of the request
    ids that are about to come.
    """

    def __init__(
        self,
        rocks: Rocks,
        prefix: bytes,
        opened: Callable[[Iterable[str]], None] = lambda _: None,
        bucket_ms: int = _BUCKET_MS,
    ) -> None:
        self._rocks, self._prefix, self._bucket_ms = rocks, prefix, bucket_ms
        self._tell_opened = opened
        self._due: list[Timed] = []  # of the buckets that are open, the earliest last
        self._fresh: list[Timed] = []  # a heap too: since the last commit
        self._open: list[tuple[int, bytes]] = []  # (end of the bucket, key) of what the heap was made of
        self._open_below_ms = 0
        self.next_ms = FOREVER
        self._closed_ms = self._first_closed()  # where the first bucket begins that is not open
        self.settle()

    def add(self, time_ms: int, request_id: str) -> None:
        """Put in one more."""
        heapq.heappush(self._fresh, (time_ms, request_id))
        self.next_ms = min(self.next_ms, time_ms)

    def pop(self) -> Timed:
        """Take out the earliest."""
        due, fresh = self._due, self._fresh
        first = due.pop() if due and not (fresh and fresh[0] < due[-1]) else heapq.heappop(fresh)
        self.next_ms = self._first_at_hand()
        if self._closed_ms <= self.next_ms:
            self.settle()
        return first

    def items(self) -> Iterator[Timed]:
        """All of them."""
        yield from self._due
        yield from self._fresh
        for _, data in self._rocks.scan(self._key(self._open_below_ms), after(self._prefix)):
            yield from _decode_timed(data)

    def __len__(self) -> int:
        return sum(1 for _ in self.items())

    def settle(self) -> None:
        """Have the earliest at hand."""
        self.next_ms = self._first_at_hand()
        while self._closed_ms <= self.next_ms and self._closed_ms < FOREVER:
            self._open_bucket()
            self.next_ms = self._first_at_hand()

    def write(self, into: Changes, commit: int) -> None:
        """Add what changed to a batch; ``settle`` when that is written."""
        into.update((key, None) for end_ms, key in self._open if end_ms <= self.next_ms)
        self._open = [(end_ms, key) for end_ms, key in self._open if end_ms > self.next_ms]
        for bucket, entries in groupby(sorted(self._fresh), lambda entry: entry[0] // self._bucket_ms):
            self._write_bucket(bucket * self._bucket_ms, list(entries), into, commit)
        self._fresh = []

    def _write_bucket(self, begin_ms: int, entries: list[Timed], into: Changes, commit: int) -> None:
        key = self._key(begin_ms) + number_bytes(commit)
        into[key] = encode(entries)
        if begin_ms < self._open_below_ms:
            self._open.append((begin_ms + self._bucket_ms, key))
            self._due = sorted(self._due + entries, reverse=True)
        else:
            self._closed_ms = min(self._closed_ms, begin_ms)

    def _open_bucket(self) -> None:
        self._open_below_ms = self._closed_ms + self._bucket_ms
        for key, data in self._rocks.scan(self._key(self._closed_ms), self._key(self._open_below_ms)):
            self._open.append((self._open_below_ms, key))
            self._due += _decode_timed(data)
        self._due.sort(reverse=True)
        self._tell_opened([request_id for _, request_id in self._due])
        self._closed_ms = self._first_closed()

    def _first_closed(self) -> int:
        for key, _ in self._rocks.scan(self._key(self._open_below_ms), after(self._prefix)):
            return int.from_bytes(key[len(self._prefix) :][:8], "big")
        return FOREVER

    def _first_at_hand(self) -> int:
        first = self._due[-1][0] if self._due else FOREVER
        return min(first, self._fresh[0][0]) if self._fresh else first

    def _key(self, begin_ms: int) -> bytes:
        return self._prefix + number_bytes(begin_ms)


class DiskForgets:
    """A ForgetQueue on disk, in chunks of one commit each; the first chunk is in memory.

    How many of it were ``taken`` at the last ``write`` is to be kept beside it.
    """

    def __init__(self, rocks: Rocks, prefix: bytes, taken: int = 0) -> None:
        self._rocks, self._prefix = rocks, prefix
        self._head: deque[Timed] = deque()
        self._fresh: deque[Timed] = deque()  # since the last commit, behind all chunks
        self._done: list[bytes] = []
        self._head_key = prefix
        self._has_more = True  # chunks after the head
        self.next_ms = FOREVER
        self.taken = 0  # of the head
        self.settle()
        for _ in range(taken):
            self.pop()

    def add(self, time_ms: int, request_id: str) -> None:
        """Put in one more, behind the others."""
        self._fresh.append((time_ms, request_id))
        if len(self._fresh) == 1:
            self.settle()

    def pop(self) -> Timed:
        """Take out the one that was added first."""
        if self._head:
            self.taken += 1
            first = self._head.popleft()
        else:
            first = self._fresh.popleft()
        if not self._head:
            self.settle()
        else:
            self.next_ms = self._head[0][0]
        return first

    def items(self) -> Iterator[Timed]:
        """All of them, in order."""
        yield from self._head
        for _, data in self._rocks.scan(self._head_key + b"\0", after(self._prefix)):
            yield from _decode_timed(data)
        yield from self._fresh

    def __len__(self) -> int:
        return sum(1 for _ in self.items())

    def settle(self) -> None:
        """Have the first at hand."""
        while not self._head and self._has_more:
            self._next_chunk()
        first = self._head or self._fresh
        self.next_ms = first[0][0] if first else FOREVER

    def write(self, into: Changes, commit: int) -> None:
        """Add what changed to a batch; ``settle`` when that is written."""
        into.update(dict.fromkeys(self._done))
        self._done = []
        if self._fresh:
            into[self._prefix + number_bytes(commit)] = encode(list(self._fresh))
            self._fresh.clear()
            self._has_more = True

    def _next_chunk(self) -> None:
        if len(self._head_key) > len(self._prefix):
            self._done.append(self._head_key)
        self.taken = 0
        for key, data in self._rocks.scan(self._head_key + b"\0", after(self._prefix)):
            self._head_key = key
            self._head.extend(_decode_timed(data))
            return
        self._has_more = False


def after(prefix: bytes) -> bytes:
    """The first key after all that begin with a prefix of one byte."""
    return bytes([prefix[0] + 1])
