"""Where records go that can not be used: beside the stream, with the reason, for a person to read."""

import base64
import os
from collections import Counter
from pathlib import Path

import msgspec

from recsys.events import encode
from recsys.streams.sink import JsonlSink, Sink
from recsys.streams.source import Partition, Record

DEAD_LETTERS = Partition("dead_letters", 0)
_encoder = msgspec.json.Encoder()


class DeadLetters:
    """Writes each record that is set aside as one JSON line and counts them by class of reason.

    A line holds ``reason``, ``topic``, ``partition``, ``offset``, ``row`` where the message held many events (its
    ``payload`` is that row as JSON then), and ``payload``: text, or base64 (with
    ``"base64": true``) where it is not UTF-8; its first ``max_payload_bytes`` with ``"truncated": true``
    where it is longer. ``destination`` is a sink, which stays the caller's to close, or a folder that
    ``dead_letters.jsonl`` is appended to: what it holds already, from before a crash, counts and is not written
    again. ``counts`` is keyed by the exception's class, or by the reason up to its first colon.
    """

    def __init__(self, destination: Sink | Path, max_payload_bytes: int = 64 * 2**10) -> None:
        self.counts: Counter[str] = Counter()
        self._known: set[tuple[str, int, int, int | None]] = set()
        self._owned = isinstance(destination, Path)
        if isinstance(destination, Path):
            self._recall(destination)
        self._sink = JsonlSink(destination) if isinstance(destination, Path) else destination
        self._max_payload_bytes = max_payload_bytes

    def put(self, record: Record, reason: str | Exception) -> None:
        """Set one record aside; it is stored when ``flush`` returns."""
        if (*record.partition, record.offset, record.row) in self._known:
            return
        kind = reason.partition(":")[0] if isinstance(reason, str) else type(reason).__name__
        payload = record.payload if isinstance(record.payload, bytes) else encode(record.payload)
        line = {
            "reason": str(reason),
            "topic": record.partition.topic,
            "partition": record.partition.index,
            "offset": record.offset,
            **({} if record.row is None else {"row": record.row}),
            **self._readable(payload),
        }
        self._sink.send(DEAD_LETTERS, _encoder.encode(line))
        self.counts[kind] += 1

    def _recall(self, folder: Path) -> None:
        """Count what an earlier life has set aside; half a line at the end is cut off."""
        path = folder / f"{DEAD_LETTERS.topic}.jsonl"
        if not path.exists():
            return
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        os.truncate(path, len(whole))
        for line in whole.splitlines():
            letter = msgspec.json.decode(line)
            self._known.add((letter["topic"], letter["partition"], letter["offset"], letter.get("row")))
            self.counts[letter["reason"].partition(":")[0]] += 1

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
        self._sink.flush()

    def close(self) -> None:
        """Flush, and close the file if it was opened here."""
        self.flush()
        if self._owned:
            self._sink.close()


def _decode_text(payload: bytes, cut: bool) -> str:
    """UTF-8 text; where it was cut, without the character that the cut went through."""
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        if cut and error.reason == "unexpected end of data":
            return payload[: error.start].decode()
        raise
