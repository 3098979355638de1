"""Scalars for TensorBoard, in its own event files: no package is needed to write them, ``tensorboard`` reads them.

A file is a row of records: length, its checksum, an ``Event`` as protocol buffers encode it, its checksum (TensorFlow's
``record_writer.cc``, ``event.proto`` and ``summary.proto``). Of those messages four fields are used here.
"""

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import crc32c

_VERSION = b"brain.Event:2"


class EventFile:
    """A new event file in ``folder``, which TensorBoard reads beside those that are there.

    ``wall_seconds`` is the clock that events are stamped by.
    """

    def __init__(self, folder: Path, *, wall_seconds: float | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        started = time.time() if wall_seconds is None else wall_seconds
        at = sum(1 for _ in folder.glob("events.out.tfevents.*"))
        self._file = (folder / f"events.out.tfevents.{int(started):010}.{at:04}").open("xb")
        self._write(_double(1, started) + _bytes(3, _VERSION))

    def add(self, step: int, values: Mapping[str, float], *, wall_seconds: float | None = None) -> None:
        """The values of a step, by tag."""
        summary = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in values.items())
        stamp = time.time() if wall_seconds is None else wall_seconds
        self._write(_double(1, stamp) + _varint(2 << 3) + _varint(step) + _bytes(5, summary))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted so that checksums of checksums are none of its fixed points."""
    crc = crc32c.crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
