"""Rows off the wire: a whole request is packed, and its whole answer parsed, by numpy.

All keys of a group are equally long, and so are all its rows: a request is an array of bytes with one line a key (see
recsys.embedded.redis_wire), and where every row is there the answer is one too. Where some are missing a regular
expression takes it apart.

Shape suffixes: N keys, L bytes a line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import redis
from redis.crc import key_slot

from recsys.embedded.redis_url import Client, write_all
from recsys.embedded.redis_wire import bulk, connection_of, head, packed
from recsys.hashing import Keys
from recsys.rows.codecs import VERSION_BYTES
from recsys.rows.layout import Bytes, Layout, field_bytes, wrong_length
from recsys.rows.store import WHOLE

_KEYS_PER_REQUEST = 20_000
_KEYS_PER_MGET = (
    100  # more than 126 make Redis allocate over 1 KiB at once: with libc's malloc that took twice the time
)
_ROOM, _ROOM_A_VALUE = 4096, 256  # bytes to begin with
_END = b"\r\n"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """Rows of one group: their keys, and how many bytes a row has with its version."""

    group: str
    keys_N: Keys
    num_bytes: int


@dataclass(frozen=True)
class Found:
    """The bytes of the rows that are there, one a line, and which of those asked for they are."""

    values_NL: Bytes
    present_N: Mask


class RowWire:
    """Reads rows of one published run; safe to use from several threads."""

    def __init__(self, client: Client, layout: Layout) -> None:
        self._client, self._layout = client, layout
        self._nodes: list[Any] | None = None  # by bucket, of a cluster

    def fetch(self, asked: Sequence[Asked], keys: Sequence[str] = ()) -> tuple[list[Found], list[bytes | None]]:
        """What is there now, in the order asked, and the values of ``keys``, which are read first.

        One round trip, but in a cluster, and for very many rows. redis.RedisError where Redis does not answer.
        """
        if not isinstance(self._client, redis.Redis):
            return [self._from_cluster(one) for one in asked], self._values_from_cluster(keys)
        if sum(len(one.keys_N) for one in asked) <= _KEYS_PER_REQUEST:
            return self._exchanged(self._client, asked, keys)
        values = self._exchanged(self._client, [], keys)[1] if keys else []
        return [self._in_parts(self._client, one) for one in asked], values

    def _values_from_cluster(self, keys: Sequence[str]) -> list[bytes | None]:
        return write_all(self._client, [("GET", key) for key in keys])

    def _in_parts(self, client: redis.Redis, asked: Asked) -> Found:
        """In requests that keep Redis from others for no more than some milliseconds each."""
        starts = range(0, max(len(asked.keys_N), 1), _KEYS_PER_REQUEST)
        parts = [replace(asked, keys_N=asked.keys_N[start : start + _KEYS_PER_REQUEST]) for start in starts]
        found = [self._exchanged(client, [part])[0][0] for part in parts]
        return Found(np.concatenate([f.values_NL for f in found]), np.concatenate([f.present_N for f in found]))

    def _from_cluster(self, asked: Asked) -> Found:
        """Ask each node for the rows of its buckets; who moved while we asked is looked for once more."""
        try:
            return self._from_nodes(asked)
        except redis.ResponseError as error:
            if not str(error).startswith(("MOVED", "ASK", "CLUSTERDOWN")):
                raise
            self._client.disconnect_connection_pools()  # else those of nodes that are gone stay open
            self._client.nodes_manager.initialize()
            self._nodes = None
            return self._from_nodes(asked)

    def _from_nodes(self, asked: Asked) -> Found:
        owners_N = np.array([self._node_names(asked.group)[b] for b in self._layout.buckets(asked.keys_N)], object)
        values_NL = np.zeros((len(asked.keys_N), asked.num_bytes), np.uint8)
        present_N = np.zeros(len(asked.keys_N), np.bool_)
        for name in dict.fromkeys(owners_N.tolist()):
            mine = np.flatnonzero(owners_N == name)
            client = self._client.get_redis_connection(self._client.get_node(node_name=name))
            found = self._in_parts(client, replace(asked, keys_N=asked.keys_N[mine]))
            present_N[mine] = found.present_N
            values_NL[mine[found.present_N]] = found.values_NL
        return Found(values_NL[present_N], present_N)

    def _node_names(self, group: str) -> list[str]:
        """The node that holds each bucket."""
        manager = self._client.nodes_manager
        if group in WHOLE:
            return [manager.get_node_from_slot(key_slot(b"dense")).name] * self._layout.num_buckets
        if self._nodes is None:
            slots = [key_slot(b"%04x" % bucket) for bucket in range(self._layout.num_buckets)]
            self._nodes = [manager.get_node_from_slot(slot).name for slot in slots]
        return self._nodes

    def _exchanged(
        self, client: redis.Redis, asked: Sequence[Asked], keys: Sequence[str] = ()
    ) -> tuple[list[Found], list[bytes | None]]:
        """One request and its answers; once more where the connection turns out to be dead."""
        request = _mget(keys) + b"".join(self._request(one) for one in asked)
        try:
            return self._answered(client, request, asked, len(keys))
        except redis.TimeoutError:
            raise
        except redis.ConnectionError:
            return self._answered(client, request, asked, len(keys))

    def _answered(
        self, client: redis.Redis, request: bytes, asked: Sequence[Asked], num_values: int
    ) -> tuple[list[Found], list[bytes | None]]:
        num_bytes = _ROOM + num_values * _ROOM_A_VALUE + sum(len(a.keys_N) * _stride(a.num_bytes) for a in asked)
        with connection_of(client) as connection:
            connection.send_packed_command([request])
            answers = _Answers(connection, num_bytes)
            values = answers.values(num_values)
            take = [answers.take_lists if self._is_listed(one) else answers.take for one in asked]
            return [of(len(one.keys_N), one.num_bytes) for of, one in zip(take, asked, strict=True)], values

    def _is_listed(self, asked: Asked) -> bool:
        """Whether one command asks for many rows: MGETs, else a command a row."""
        return not self._layout.cluster and not self._layout.is_compact(asked.group)

    def _request(self, asked: Asked) -> bytes:
        if not len(asked.keys_N):
            return b""
        keys_NL = self._layout.key_bytes(asked.group, asked.keys_N)
        if self._is_listed(asked):
            return _mgets(packed(bulk(keys_NL)), len(keys_NL))
        if self._layout.is_compact(asked.group):
            return packed([head(3, b"HGET"), *bulk(keys_NL), *bulk(field_bytes(asked.keys_N))])
        return packed([head(2, b"GET"), *bulk(keys_NL)])


class _Answers:
    """Answers as they come in on a connection, taken in the order of the commands."""

    def __init__(self, connection: Any, num_bytes: int) -> None:
        self._socket = connection._sock  # redis-py reads an object at a time, and offers nothing else
        self._data = bytearray(num_bytes)
        self._start = self._end = 0

    def take_lists(self, num: int, num_bytes: int) -> Found:
        """``take``, of the answers to MGETs."""
        parts: list[Found] = []
        num_parts = num // _KEYS_PER_MGET
        while num_parts:
            here = min(num_parts, (self._end - self._start) // _list_bytes(num_bytes))
            whole = self._whole_lists(here, num_bytes) if here else None
            parts += [whole] if whole else [self._list(_KEYS_PER_MGET, num_bytes) for _ in range(max(here, 1))]
            num_parts -= max(here, 1)
        if num % _KEYS_PER_MGET or not num:
            parts.append(self._list(num % _KEYS_PER_MGET, num_bytes))
        if len(parts) == 1:
            return parts[0]
        return Found(np.concatenate([f.values_NL for f in parts]), np.concatenate([f.present_N for f in parts]))

    def _whole_lists(self, num_lists: int, num_bytes: int) -> Found | None:
        """Lists that are here, where every value of them is there."""
        begins, size = b"*%d\r\n" % _KEYS_PER_MGET, _list_bytes(num_bytes)
        lists = np.frombuffer(self._data, np.uint8, num_lists * size, self._start).reshape(num_lists, size)
        if not (lists[:, : len(begins)] == np.frombuffer(begins, np.uint8)).all():
            return None
        block = lists[:, len(begins) :].reshape(-1, _stride(num_bytes))
        head = b"$%d\r\n" % num_bytes
        if not (block[:, : len(head)] == np.frombuffer(head, np.uint8)).all():
            return None
        self._start += num_lists * size
        return Found(block[:, len(head) : len(head) + num_bytes], np.ones(len(block), np.bool_))

    def _list(self, num: int, num_bytes: int) -> Found:
        if num:
            self._skip_header(num)
        return self.take(num, num_bytes)

    def take(self, num: int, num_bytes: int) -> Found:
        """``num`` values of ``num_bytes`` or absent; DataError for one of another length."""
        if not num:
            return Found(np.zeros((0, num_bytes), np.uint8), np.zeros(0, np.bool_))
        head, stride = b"$%d\r\n" % num_bytes, _stride(num_bytes)
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


def _mget(keys: Sequence[str]) -> bytes:
    if not keys:
        return b""
    encoded = [key.encode() for key in keys]
    return head(len(keys) + 1, b"MGET") + b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in encoded])


@lru_cache(64)
def _patterns(num_bytes: int) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Any number of values in a row; and one, with its bytes where it is there."""
    size = str(num_bytes).encode()
    value = rb"(?:\$(?:" + size + rb"\r\n(.{" + size + rb"})|-1|8\r\n.{8})|_)\r\n"  # absent: $-1, or _ of protocol 3
    return re.compile(b"(?:" + value.replace(b"(.{", b"(?:.{") + b")*+", re.DOTALL), re.compile(value, re.DOTALL)


def _mgets(lines: bytes, num: int) -> bytes:
    """MGETs of so many keys, given as lines of arguments."""
    size = len(lines) // num
    parts: list[bytes] = []
    for start in range(0, num, _KEYS_PER_MGET):
        end = min(start + _KEYS_PER_MGET, num)
        parts += [head(end - start + 1, b"MGET"), lines[start * size : end * size]]
    return b"".join(parts)


def _list_bytes(num_bytes: int) -> int:
    """Of the answer to one MGET whose every value is there."""
    return len(b"*%d\r\n" % _KEYS_PER_MGET) + _KEYS_PER_MGET * _stride(num_bytes)


def _stride(num_bytes: int) -> int:
    return len(str(num_bytes)) + num_bytes + 5
