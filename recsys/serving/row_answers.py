"""Redis's answers to requests for rows, parsed by numpy.

All rows of a group are equally long: where every row is there, the answer is an array of bytes, a line a row. Where
some are missing, a regular expression takes it apart.

Shape suffixes: N keys, L bytes a line.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

from recsys.rows.codecs import VERSION_BYTES
from recsys.rows.layout import Bytes, wrong_length

_END = b"\r\n"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """The bytes of the rows that are there, one a line, and which of those asked for they are."""

    values_NL: Bytes
    present_N: Mask


class Answers:
    """Answers as they come in on a connection, taken in the order of the commands."""

    def __init__(self, connection: Any, num_bytes: int) -> None:
        self._socket = connection._sock  # redis-py reads an object at a time, and offers nothing else
        self._data = bytearray(num_bytes)
        self._start = self._end = 0

    def found(self, num: int, num_bytes: int, num_listed: int) -> Found:
        """``take``; where so many are listed, of the answers to MGETs of so many keys, the last of fewer."""
        if not num or not num_listed:
            return self.take(num, num_bytes)
        parts: list[Found] = []
        num_lists = num // num_listed
        while num_lists:
            here = min(num_lists, (self._end - self._start) // _list_bytes(num_listed, num_bytes))
            whole = self._whole_lists(here, num_listed, num_bytes) if here else None
            parts += [whole] if whole else [self._list(num_listed, num_bytes) for _ in range(max(here, 1))]
            num_lists -= max(here, 1)
        if num % num_listed:
            parts.append(self._list(num % num_listed, num_bytes))
        if len(parts) == 1:
            return parts[0]
        return Found(np.concatenate([f.values_NL for f in parts]), np.concatenate([f.present_N for f in parts]))

    def _whole_lists(self, num_lists: int, num_listed: int, num_bytes: int) -> Found | None:
        """Lists that are here, where every value of them is there."""
        begins, size = b"*%d\r\n" % num_listed, _list_bytes(num_listed, num_bytes)
        lists = np.frombuffer(self._data, np.uint8, num_lists * size, self._start).reshape(num_lists, size)
        if not (lists[:, : len(begins)] == np.frombuffer(begins, np.uint8)).all():
            return None
        block = lists[:, len(begins) :].reshape(-1, value_bytes(num_bytes))
        head = b"$%d\r\n" % num_bytes
        if not (block[:, : len(head)] == np.frombuffer(head, np.uint8)).all():
            return None
        self._start += num_lists * size
        return Found(block[:, len(head) : len(head) + num_bytes], np.ones(len(block), np.bool_))

    def _list(self, num: int, num_bytes: int) -> Found:
        self._skip_header(num)
        return self.take(num, num_bytes)

    def take(self, num: int, num_bytes: int) -> Found:
        """``num`` values of ``num_bytes`` or absent; DataError for one of another length."""
        if not num:
            return Found(np.zeros((0, num_bytes), np.uint8), np.zeros(0, np.bool_))
        head, stride = b"$%d\r\n" % num_bytes, value_bytes(num_bytes)
        found: list[bytes] = []
        while True:
            if not found and self._end - self._start >= num * stride:
                block = np.frombuffer(self._data, np.uint8, num * stride, self._start).reshape(num, stride)
                if (block[:, : len(head)] == np.frombuffer(head, np.uint8)).all():
                    self._start += num * stride
                    return Found(block[:, len(head) : len(head) + num_bytes], np.ones(num, np.bool_))
            found += self._mixed(num - len(found), num_bytes)
            if len(found) == num:
                present_N = np.array([len(value) > 0 for value in found], np.bool_)
                values = np.frombuffer(b"".join(found), np.uint8)
                return Found(values.reshape(-1, num_bytes), present_N)
            self._check_next(num_bytes)
            self._receive()

    def values(self, num: int) -> list[bytes | None]:
        """``num`` values of any length: the answer to one MGET."""
        if num:
            self._skip_header(num)
        return [self._value() for _ in range(num)]

    def _value(self) -> bytes | None:
        while (end := self._data.find(_END, self._start, self._end)) < 0:
            self._receive()
        line = self._data[self._start : end]
        if line[:1] not in (b"$", b"_"):
            raise redis.ResponseError(line[1:].decode(errors="replace"))
        self._start = end + 2
        if line in (b"$-1", b"_"):
            return None
        num_bytes = int(line[1:])
        while self._end < self._start + num_bytes + 2:
            self._receive()
        value = bytes(self._data[self._start : self._start + num_bytes])
        self._start += num_bytes + 2
        return value

    def _mixed(self, num: int, num_bytes: int) -> list[bytes]:
        """Up to ``num`` whole values of what is here; empty ones are absent, tombstones too."""
        if self._data[self._end - 2 : self._end] != _END:
            return []  # more is to come, and might fill the whole block
        run, one = _patterns(num_bytes)
        matched = run.match(self._data, self._start, self._end)
        assert matched is not None
        found = [*islice(one.finditer(self._data, self._start, matched.end()), num)]
        if found:
            self._start = found[-1].end()
        return [match[1] or b"" for match in found]

    def _skip_header(self, num: int) -> None:
        head = b"*%d\r\n" % num
        while self._end - self._start < len(head):
            if self._data[self._start : self._start + 1] == b"-":
                self._check_next(0)
            self._receive()
        if not self._data.startswith(head, self._start):
            self._check_next(0)
            raise redis.ResponseError(f"an answer of {num} values was expected")
        self._start += len(head)

    def _check_next(self, num_bytes: int) -> None:
        """Raise for what is no value of this length: an error of Redis's, or a row of another layout."""
        end = self._data.find(_END, self._start, self._end)
        line = bytes(self._data[self._start : end]) if end >= 0 else b""
        if line[:1] == b"-":
            raise redis.ResponseError(line[1:].decode(errors="replace"))
        if line[:1] == b"$" and int(line[1:]) not in (-1, VERSION_BYTES, num_bytes):
            raise wrong_length(int(line[1:]), num_bytes)

    def _receive(self) -> None:
        if self._end == len(self._data):  # another, for arrays may look at this one
            self._data = self._data + bytearray(len(self._data))
        try:
            num = self._socket.recv_into(memoryview(self._data)[self._end :])
        except TimeoutError as error:
            raise redis.TimeoutError("timeout reading from socket") from error
        except OSError as error:
            raise redis.ConnectionError(str(error)) from error
        if num == 0:
            raise redis.ConnectionError("connection closed by server")
        self._end += num


@lru_cache(64)
def _patterns(num_bytes: int) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Any number of values in a row; and one, with its bytes where it is there."""
    size = str(num_bytes).encode()
    value = rb"(?:\$(?:" + size + rb"\r\n(.{" + size + rb"})|-1|8\r\n.{8})|_)\r\n"  # absent: $-1, or _ of protocol 3
    return re.compile(b"(?:" + value.replace(b"(.{", b"(?:.{") + b")*+", re.DOTALL), re.compile(value, re.DOTALL)


def _list_bytes(num: int, num_bytes: int) -> int:
    """Of the answer to one MGET whose every value is there."""
    return len(b"*%d\r\n" % num) + num * value_bytes(num_bytes)


def value_bytes(num_bytes: int) -> int:
    return len(str(num_bytes)) + num_bytes + 5
