"""Conditional writes: a value goes in only where an older version lies, or none; Redis itself compares (Lua).

Scripts of many rows are packed by numpy, and the next is sent while Redis runs one.

Shape suffixes: N rows, L bytes a line.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import redis
from redis.crc import key_slot

from recsys.embedded.redis_url import Client, write_all
from recsys.embedded.redis_wire import Bytes, bulk, connection_of, head, packed
from recsys.hashing import Keys
from recsys.rows.layout import Layout, field_bytes, versioned

Write = tuple[bytes | str, bytes]  # key, versioned value

_ROWS_PER_SCRIPT = 500  # a few hundred microseconds, in which no reader is served
_SCRIPTS_UNDER_WAY = 4
_GLOB_CHARACTERS = b"*?[]\\^-"

# KEYS[i] is set to ARGV[i] unless it holds the same version or a newer one. Returns how many were set. Each key comes
# once. All are read and written by one command each, a thousand at a time (Lua takes no more than some thousand
# arguments): a command a key took four times as long.
SET_NEWER = b"""
local set = 0
for first = 1, #KEYS, 1000 do
  local last = math.min(first + 999, #KEYS)
  local held = redis.call('MGET', unpack(KEYS, first, last))
  local newer = {}
  for i = first, last do
    local value = held[i - first + 1]
    if not value or #value < 8 or struct.unpack('>d', value) < struct.unpack('>d', ARGV[i]) then
      newer[#newer + 1] = KEYS[i]
      newer[#newer + 1] = ARGV[i]
    end
  end
  if #newer > 0 then
    redis.call('MSET', unpack(newer))
  end
  set = set + #newer / 2
end
return set
"""

# The same for fields of hashes: the fields come first in ARGV, then the values.
HSET_NEWER = b"""
local set, num = 0, #KEYS
for i = 1, num do
  local held = redis.call('HGET', KEYS[i], ARGV[i])
  if not held or #held < 8 or struct.unpack('>d', held) < struct.unpack('>d', ARGV[num + i]) then
    redis.call('HSET', KEYS[i], ARGV[i], ARGV[num + i])
    set = set + 1
  end
end
return set
"""

# Rows become tombstones, a little newer than the rows were and older than whatever is written after them.
BURY = b"""
local buried = 0
for i = 1, #KEYS do
  if redis.call('STRLEN', KEYS[i]) > 8 then
    local version = struct.unpack('>d', redis.call('GETRANGE', KEYS[i], 0, 7))
    redis.call('SET', KEYS[i], struct.pack('>d', version + 0.5))
    buried = buried + 1
  end
end
return buried
"""

HBURY = b"""
local buried = 0
for i = 1, #KEYS do
  local held = redis.call('HGET', KEYS[i], ARGV[i])
  if held and #held > 8 then
    redis.call('HSET', KEYS[i], ARGV[i], struct.pack('>d', struct.unpack('>d', held) + 0.5))
    buried = buried + 1
  end
end
return buried
"""


class NewestWins:
    """Writes of one run; each returns how many values went in, and raises redis.RedisError where Redis does not take
    them: some may be in then, and sending all again is harmless."""

    def __init__(self, client: Client, layout: Layout) -> None:
        self._client, self._layout = client, layout

    def put(self, writes: Sequence[Write]) -> int:
        """Values of any length."""
        keys = [key if isinstance(key, bytes) else key.encode() for key, _ in writes]
        values = [value for _, value in writes]
        return sum(
            self._run(SET_NEWER, [keys[at] for at in part], [values[at] for at in part]) for part in self._parts(keys)
        )

    def put_rows(self, group: str, keys_N: Keys, values_NL: Bytes, *, at_once: bool = False) -> int:
        """Rows of a group, or their tombstones; ``at_once``: no reader sees some of them without the others."""
        if not len(keys_N):
            return 0
        keys_NL = self._layout.key_bytes(group, keys_N)
        compact = self._layout.is_compact(group)
        arguments = [field_bytes(keys_N), values_NL] if compact else [values_NL]
        return self._run_rows(HSET_NEWER if compact else SET_NEWER, keys_NL, arguments, at_once)

    def bury_others(self, group: str, keys_N: Keys) -> int:
        """Of a group whose rows came all: what else Redis holds of it is gone."""
        held_N = self._held_keys(group)
        others_N = held_N[~np.isin(held_N, keys_N)]
        if not len(others_N):
            return 0
        keys_NL = self._layout.key_bytes(group, others_N)
        if self._layout.is_compact(group):
            return self._run_rows(HBURY, keys_NL, [field_bytes(others_N)], False)
        return self._run_rows(BURY, keys_NL, [], False)

    def _held_keys(self, group: str) -> Keys:
        """The keys of all rows of a group that Redis has, tombstones too."""
        if self._layout.is_compact(group):
            buckets = self._layout.bucket_keys(group)
            starts = range(0, len(buckets), _ROWS_PER_SCRIPT)
            answers = (
                fields
                for start in starts
                for fields in write_all(
                    self._client, [("HKEYS", key) for key in buckets[start : start + _ROWS_PER_SCRIPT]]
                )
            )
            return np.frombuffer(b"".join(field for fields in answers for field in fields), "<i8").astype(np.int64)
        prefix = self._layout.group_prefix(group)
        escaped = b"".join(b"\\" + bytes([c]) if c in _GLOB_CHARACTERS else bytes([c]) for c in prefix)
        found = self._client.scan_iter(match=escaped + b"*", count=_ROWS_PER_SCRIPT)
        return np.frombuffer(b"".join(key[-8:] for key in found), "<i8").astype(np.int64)

    def _run_rows(self, script: bytes, keys_NL: Bytes, arguments: Sequence[Bytes], at_once: bool) -> int:
        if not isinstance(self._client, redis.Redis):
            keys = [line.tobytes() for line in keys_NL]
            listed = [[line.tobytes() for line in lines_NL] for lines_NL in arguments]
            return sum(
                self._run(script, [keys[at] for at in part], [lines[at] for lines in listed for at in part])
                for part in self._parts(keys, len(keys) if at_once else _ROWS_PER_SCRIPT)
            )
        size = len(keys_NL) if at_once else _ROWS_PER_SCRIPT
        parts = [slice(start, start + size) for start in range(0, len(keys_NL), size)]
        try:
            return self._piped(self._client, script, keys_NL, arguments, parts)
        except redis.exceptions.NoScriptError:
            self._client.script_load(script)
            return self._piped(self._client, script, keys_NL, arguments, parts)

    def _piped(
        self, client: redis.Redis, script: bytes, keys_NL: Bytes, arguments: Sequence[Bytes], parts: Sequence[slice]
    ) -> int:
        """Some scripts are always on their way, so that Redis need not wait for us."""
        total, under_way = 0, deque[slice]()
        with connection_of(client) as connection:
            for part in parts:
                connection.send_packed_command([_script(script, keys_NL[part], [lines[part] for lines in arguments])])
                under_way.append(part)
                if len(under_way) == _SCRIPTS_UNDER_WAY:
                    total += int(connection.read_response())
                    under_way.popleft()
            for _ in under_way:
                total += int(connection.read_response())
        return total

    def _run(self, script: bytes, keys: Sequence[bytes], arguments: Sequence[bytes]) -> int:
        sha = hashlib.sha1(script, usedforsecurity=False).hexdigest()
        try:
            return int(self._client.evalsha(sha, len(keys), *keys, *arguments))
        except redis.exceptions.NoScriptError:
            return int(self._client.eval(script, len(keys), *keys, *arguments))

    def _parts(self, keys: Sequence[bytes], size: int = _ROWS_PER_SCRIPT) -> Iterator[Sequence[int]]:
        """Which keys may go into one script: so many, in a cluster of one slot."""
        if isinstance(self._client, redis.Redis):
            slots: dict[int, Sequence[int]] = {0: range(len(keys))}
        else:
            by_slot: dict[int, list[int]] = {}
            for at, key in enumerate(keys):
                by_slot.setdefault(key_slot(key), []).append(at)
            slots = dict(by_slot)
        for places in slots.values():
            for start in range(0, len(places), size):
                yield places[start : start + size]


def _script(script: bytes, keys_NL: Bytes, arguments: Sequence[Bytes]) -> bytes:
    """EVALSHA of one part."""
    sha = hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()
    num = len(keys_NL)
    lines = b"".join(packed(bulk(lines_NL)) for lines_NL in (keys_NL, *arguments))
    return head(3 + num * (1 + len(arguments)), b"EVALSHA", sha, b"%d" % num) + lines


def versioned_json(value: Any, version: int) -> bytes:
    """A value of plain objects, under its version."""
    return versioned(json.dumps(value, separators=(",", ":")).encode(), version)
