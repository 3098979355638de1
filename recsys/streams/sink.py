"""What every sink promises, and the two that need no server: a dictionary of lists, and files of JSON
lines."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from recsys.errors import DataError
from recsys.events import END, END_PAYLOAD, Event, decode
from recsys.streams.source import Headers, Partition


class Sink(ABC):
    """Takes messages for partitions; what ``flush`` has returned for is stored."""

    @abstractmethod
    def send(self, partition: Partition, payload: bytes, key: bytes | None = None, headers: Headers = ()) -> None:
        """Take one message; it may be buffered until ``flush``. A failure is raised here or at the next
        call."""

    @abstractmethod
    def flush(self) -> None:
        """Return when every message sent so far is stored, or raise."""

    @abstractmethod
    def close(self) -> None:
        """Flush and let go; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class MemorySink(Sink):
    """Messages kept in ``payloads`` (lists by partition), which a MemorySource can read.

    ``events()`` gives the same decoded, for topics of ``recsys.events``.

    >>> sink = MemorySink()
    >>> sink.send(Partition("actions", 0), b'{"request_id":"r","user_id":1,"kind":"like","time_ms":5}')
    >>> sink.events()[Partition("actions", 0)]
    [Action(request_id='r', user_id=1, kind='like', time_ms=5)]
    """

    def __init__(self) -> None:
        self.payloads: dict[Partition, list[bytes]] = {}
        self.keys: dict[Partition, list[bytes | None]] = {}
        self.headers: dict[Partition, list[Headers]] = {}

    def send(self, partition: Partition, payload: bytes, key: bytes | None = None, headers: Headers = ()) -> None:
        self.payloads.setdefault(partition, []).append(payload)
        self.keys.setdefault(partition, []).append(key)
        self.headers.setdefault(partition, []).append(headers)

    def events(self) -> dict[Partition, list[Event]]:
        """The messages decoded by their topics."""
        return {
            partition: [END if payload == END_PAYLOAD else decode(partition.topic, payload) for payload in payloads]
            for partition, payloads in self.payloads.items()
        }

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Nothing is held."""


class JsonlSink(Sink):
    """Messages appended to ``<folder>/<topic>.jsonl``, one a line, whatever their partition, key and headers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}

    def send(self, partition: Partition, payload: bytes, key: bytes | None = None, headers: Headers = ()) -> None:
        if b"\n" in payload:
            at = payload.index(b"\n")
            message = f"a message for {partition} has a line break at byte {at}; JSON lines have none"
            raise DataError(message)
        self._file(partition.topic).write(payload + b"\n")

    def _file(self, topic: str) -> BinaryIO:
        if topic not in self._files:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._files[topic] = (self._folder / f"{topic}.jsonl").open("ab")
        return self._files[topic]

    def flush(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        self.flush()
        for file in self._files.values():
            file.close()
        self._files.clear()
