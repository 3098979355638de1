"""Event files, read back by a reader of their own: what TensorFlow's record and protocol-buffer formats say."""

import struct
from collections.abc import Iterator
from pathlib import Path

import crc32c
import pytest

from recsys.training.tensorboard import EventFile


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file; every checksum is looked at."""
    while data:
        (length,), (of_length,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        record, (of_record,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (of_length, of_record) == (masked(data[:8]), masked(record))
        yield record
        data = data[16 + length :]


def masked(data: bytes) -> int:
    crc = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) % 2**32 + 0xA282EAD8) % 2**32


def fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of a message's fields: varints as numbers, all others as their bytes."""
    while message:
        tag, message = varint(message)
        value: bytes | int
        if tag & 7 == 0:
            value, message = varint(message)
        else:
            length, message = varint(message) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], message)
            value, message = message[:length], message[length:]
        yield tag >> 3, value


def varint(message: bytes) -> tuple[int, bytes]:
    number = at = 0
    while True:
        number |= (message[at] & 0x7F) << 7 * at
        at += 1
        if message[at - 1] < 0x80:
            return number, message[at:]


def test_scalars_come_back(tmp_path: Path) -> None:
    with EventFile(tmp_path, wall_seconds=1000.0) as events:
        events.add(300, {"valid/auc": 0.75, "valid/logloss": 0.5}, wall_seconds=1001.5)
        events.add(2**40, {"train/loss": float("nan")}, wall_seconds=1002.0)
    (path,) = tmp_path.iterdir()
    assert path.name == "events.out.tfevents.0000001000.0000"
    first, *others = [dict(fields(record)) for record in records(path.read_bytes())]
    assert first == {1: struct.pack("<d", 1000.0), 3: b"brain.Event:2"}
    assert [(struct.unpack("<d", event[1])[0], event[2]) for event in others] == [(1001.5, 300), (1002.0, 2**40)]
    values = [[dict(fields(value)) for _, value in fields(event[5])] for event in others]
    assert values[0] == [
        {1: b"valid/auc", 2: struct.pack("<f", 0.75)},
        {1: b"valid/logloss", 2: struct.pack("<f", 0.5)},
    ]
    assert values[1][0][1] == b"train/loss"


def test_a_run_that_goes_on_has_a_file_beside_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        EventFile(tmp_path, wall_seconds=7).close()
    assert len(list(tmp_path.iterdir())) == 2


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    """Where it is installed."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with EventFile(tmp_path) as events:
        events.add(3, {"valid/auc": 0.75})
    accumulator = accumulators.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert [(event.step, event.value) for event in accumulator.Scalars("valid/auc")] == [(3, 0.75)]
