"""Rows off the wire: a whole request is packed, and its whole answer parsed, by numpy.

All keys of a group are equally long: a request is an array of bytes with one line a key (see
recsys.embedded.redis_wire); how its answer is read says recsys.serving.row_answers.

Shape suffixes: N keys, L bytes a line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import redis
from redis.crc import key_slot

from recsys.embedded.redis_url import Client, write_all
from recsys.embedded.redis_wire import bulk, connection_of, head, packed
from recsys.hashing import Keys
from recsys.rows.layout import Layout, field_bytes
from recsys.rows.store import WHOLE
from recsys.serving.row_answers import Answers, Found, value_bytes

_KEYS_PER_REQUEST = 20_000
_KEYS_PER_MGET = (
    100  # more than 126 make Redis allocate over 1 KiB at once: with libc's malloc that took twice the time
)
_ROOM, _ROOM_A_VALUE = 4096, 256  # bytes to begin with


@dataclass(frozen=True)
class Asked:
    """Rows of one group: their keys, and how many bytes a row has with its version."""

    group: str
    keys_N: Keys
    num_bytes: int


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
        num_bytes = _ROOM + num_values * _ROOM_A_VALUE + sum(len(a.keys_N) * value_bytes(a.num_bytes) for a in asked)
        with connection_of(client) as connection:
            connection.send_packed_command([request])
            answers = Answers(connection, num_bytes)
            values = answers.values(num_values)
            return [answers.found(len(one.keys_N), one.num_bytes, self._keys_a_list(one)) for one in asked], values

    def _keys_a_list(self, asked: Asked) -> int:
        """How many rows one MGET asks for; 0 where it is a command a row. Dense parameters are read at one moment."""
        if self._layout.cluster or self._layout.is_compact(asked.group):
            return 0
        return max(len(asked.keys_N), 1) if asked.group in WHOLE else _KEYS_PER_MGET

    def _request(self, asked: Asked) -> bytes:
        if not len(asked.keys_N):
            return b""
        keys_NL = self._layout.key_bytes(asked.group, asked.keys_N)
        if keys_a_list := self._keys_a_list(asked):
            return _mgets(packed(bulk(keys_NL)), len(keys_NL), keys_a_list)
        if self._layout.is_compact(asked.group):
            return packed([head(3, b"HGET"), *bulk(keys_NL), *bulk(field_bytes(asked.keys_N))])
        return packed([head(2, b"GET"), *bulk(keys_NL)])


def _mget(keys: Sequence[str]) -> bytes:
    if not keys:
        return b""
    encoded = [key.encode() for key in keys]
    return head(len(keys) + 1, b"MGET") + b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in encoded])


def _mgets(lines: bytes, num: int, num_listed: int) -> bytes:
    """MGETs of ``num_listed`` keys each, the last of fewer; given as lines of arguments."""
    size = len(lines) // num
    parts: list[bytes] = []
    for start in range(0, num, num_listed):
        end = min(start + num_listed, num)
        parts += [head(end - start + 1, b"MGET"), lines[start * size : end * size]]
    return b"".join(parts)
