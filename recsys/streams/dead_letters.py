"""Where records go that can not be used: beside the stream, with the reason, for a person to read.

With Kafka that is the topic ``dead_letters``, which has as many partitions as the inputs; without, a file of the run.
"""

import base64
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from recsys.events import encode
from recsys.streams.sink import JsonlSink, Sink
from recsys.streams.source import Partition, Record

DEAD_LETTERS = "dead_letters"
Place = tuple[int, int]  # in a partition: an offset, and the row in its message

_encoder = msgspec.json.Encoder()


class DeadLetters:
    """Writes each record that is set aside as one JSON line and counts them by class of reason.

    A line holds ``reason``, ``topic``, ``partition``, ``offset``, ``row`` where the message held many events (its
    ``payload`` is that row as JSON then), and ``payload``: text, or base64 (with
    ``"base64": true``) where it is not UTF-8; its first ``max_payload_bytes`` with ``"truncated": true``
    where it is longer. ``destination`` is a sink, which stays the caller's to close, one to be opened for the first
    letter, or a folder that ``dead_letters.jsonl`` is appended to. What that file holds, and what is ``known`` (lines),
    is not written again.

    Of ``partitions`` alone, if they are given: several readers of one record agree by its partition who sets it aside.
    """

    def __init__(
        self,
        destination: Sink | Callable[[], Sink] | Path,
        *,
        known: Iterable[bytes] = (),
        partitions: Collection[int] | None = None,
        max_payload_bytes: int = 64 * 2**10,
    ) -> None:
        self._known = {_whose(line) for line in known}
        if isinstance(destination, Path):
            self._known |= {_whose(line) for line in _whole_lines(destination / f"{DEAD_LETTERS}.jsonl")}
        self._destination = destination
        self._sink = destination if isinstance(destination, Sink) else None
        self._partitions = partitions
        self._is_stored = True  # every line is
        self._max_payload_bytes = max_payload_bytes
        self._counts: dict[int, Counter[str]] = {}  # by partition, of those below the last cut
        self._above: dict[Partition, list[tuple[Place, str]]] = {}  # with the class of reason, since then
        self._done: dict[Partition, Place] = {}  # earlier lives have set aside what lies below

    @property
    def counts(self) -> Counter[str]:
        """Letters by the exception's class, or by the reason up to its first colon; those of earlier lives too."""
        above = Counter(kind for letters in self._above.values() for _, kind in letters)
        return sum(self._counts.values(), above)

    def put(self, record: Record, reason: str | Exception) -> None:
        """Set one record aside; it is stored when ``flush`` returns."""
        partition, place = record.partition, (record.offset, record.row or 0)
        if self._partitions is not None and partition.index not in self._partitions:
            return
        if place < self._done.get(partition, (0, 0)):
            return
        kind = reason.partition(":")[0] if isinstance(reason, str) else type(reason).__name__
        self._above.setdefault(partition, []).append((place, kind))
        if (*partition, record.offset, record.row) not in self._known:
            self._is_stored = False
            self._opened().send(Partition(DEAD_LETTERS, partition.index), self._line(record, str(reason)))

    def _opened(self) -> Sink:
        if self._sink is None:
            assert not isinstance(self._destination, Sink)
            self._sink = JsonlSink(self._destination) if isinstance(self._destination, Path) else self._destination()
        return self._sink

    def _line(self, record: Record, reason: str) -> bytes:
        payload = record.payload if isinstance(record.payload, bytes) else encode(record.payload)
        line = {
            "reason": reason,
            "topic": record.partition.topic,
            "partition": record.partition.index,
            "offset": record.offset,
            **({} if record.row is None else {"row": record.row}),
            **self._readable(payload),
        }
        return _encoder.encode(line)

    def cut(self, position: Mapping[Partition, Place]) -> dict[int, dict[str, int]]:
        """Counts by partition of what lies below a position, all of it stored: for a checkpoint.

        A position that is behind what earlier lives have done counts nothing: ``done`` says how far it goes.
        """
        self.flush()
        self._done |= {partition: max(at, self._done.get(partition, at)) for partition, at in position.items()}
        for partition, letters in self._above.items():
            below = [kind for place, kind in letters if place < self._done[partition]]
            self._counts.setdefault(partition.index, Counter()).update(below)
            letters[:] = [letter for letter in letters if letter[0] >= self._done[partition]]
        return {index: dict(counts) for index, counts in self._counts.items()}

    def done(self, index: int) -> dict[Partition, Place]:
        """Up to where ``cut`` has counted what was set aside of one partition of each topic."""
        return {partition: place for partition, place in self._done.items() if partition.index == index}

    def restore(self, index: int, counts: Mapping[str, int], done: Mapping[Partition, Place]) -> None:
        """Go on after ``cut`` with one partition: what lies below ``done`` is stored and counted."""
        self._counts[index] = Counter(counts)
        self._done.update(done)

    def _readable(self, payload: bytes) -> dict[str, str | bool]:
        truncated = len(payload) > self._max_payload_bytes
        fields: dict[str, str | bool] = {"truncated": True} if truncated else {}
        kept = payload[: self._max_payload_bytes]
        try:
            return {"payload": _decode_text(kept, cut=truncated), **fields}
        except UnicodeDecodeError:
            return {"payload": base64.b64encode(kept).decode(), "base64": True, **fields}

    def flush(self) -> None:
        """Return when every line is stored."""
        if self._sink is not None and not self._is_stored:
            self._sink.flush()
            self._is_stored = True

    def close(self) -> None:
        """Flush, and close what was opened here."""
        self.flush()
        if self._sink is not None and self._sink is not self._destination:
            self._sink.close()


def _whose(line: bytes) -> tuple[str, int, int, int | None]:
    """Whose letter a line is."""
    letter = msgspec.json.decode(line)
    return letter["topic"], letter["partition"], letter["offset"], letter.get("row")


def _whole_lines(path: Path) -> list[bytes]:
    """The lines that an earlier life has written; half a line at the end is cut off."""
    if not path.exists():
        return []
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    return whole.splitlines()


def _decode_text(payload: bytes, cut: bool) -> str:
    """UTF-8 text; where it was cut, without the character that the cut went through."""
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        if cut and error.reason == "unexpected end of data":
            return payload[: error.start].decode()
        raise
