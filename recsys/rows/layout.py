"""How rows lie in Redis: one value a row, its version first, so that a late write can not win.

::

    fast     key    recsys:<model>:<run>:<row format>:<group>:<int64, little endian>
             value  <version, float64, big endian> <row, see recsys.rows.codecs>
    compact  key    recsys:<model>:<run>:<row format>:<group>:{<bucket, 4 hexadecimal digits>}
             field  <int64, little endian>, in a hash small enough for Redis to keep as one block of bytes
             value  as above

A value that is only a version is a tombstone. Versions are sequence numbers (exact in a float64 up to 2⁵³), kept as
floats because that is what Redis's Lua compares. Everything of a run lies under one prefix; ``recsys:<model>:current``
names the run that is served, ``recsys:<model>:runs`` all that are there. Dense parameters and statistics are always
``fast`` and float32: they are few, and written as one. A group that is kept in few bits is published as it is kept.

In a Redis Cluster (``cluster``) what must be in one slot has the same text in braces: a row's bucket, the dense
parameters, and nothing else, so that rows spread evenly.

Shape suffixes: N keys, W row width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataError
from recsys.fields import Between
from recsys.hashing import Floats, Keys, id_text, mix64
from recsys.rows.codecs import CODECS, VERSION_BYTES, Codec
from recsys.rows.store import WHOLE, RowGroup

SESSIONS = "sessions"  # the kind of a published run that recommends next sessions
ROW_FORMATS = ("float32", "float16", "int8")
LAYOUTS = ("fast", "compact")
MAX_BUCKETS = 2**16
_BUCKET_SEED = 0x5E51  # apart from the hashes that place rows on shards
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Keys and values of one published run.

    ``row_format`` is how rows are published: ``own`` is each group's own format, whatever it is stored in.
    ``num_buckets`` is the number of hashes that a group's rows lie in where ``layout`` is ``compact``.

    >>> layout = Layout(model="films", run="r1")
    >>> layout.row_keys("item", np.array([258]))
    [b'recsys:films:r1:float32:item:\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00']
    >>> Layout(model="films", run="r1", layout="compact").row_keys("item", np.array([258]))
    [b'recsys:films:r1:float32:item:{27e5}']
    """

    model: str
    run: str
    row_format: Literal["float32", "float16", "int8"] = "float32"
    layout: Literal["fast", "compact"] = "fast"
    num_buckets: Annotated[int, Between(1, MAX_BUCKETS)] = 2**14
    cluster: bool = False

    def __post_init__(self) -> None:
        if self.row_format not in ROW_FORMATS:
            raise ConfigError(f"row_format {self.row_format!r} must be one of {', '.join(ROW_FORMATS)}")
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout {self.layout!r} must be one of {', '.join(LAYOUTS)}")
        if not 1 <= self.num_buckets <= MAX_BUCKETS:
            raise ConfigError(f"num_buckets {self.num_buckets} must be between 1 and {MAX_BUCKETS}")
        for name in (self.model, self.run):
            if not name or ":" in name or "{" in name:
                raise ConfigError(f"name {name!r} of a published model must not be empty or hold a ':' or '{{'")

    def to_json(self) -> dict[str, Any]:
        """What a reader must know beside the names."""
        return {name: value for name, value in asdict(self).items() if name not in ("model", "run")}

    @property
    def prefix(self) -> str:
        """What every key of this run starts with."""
        return f"recsys:{self.model}:{self.run}:"

    @property
    def meta_key(self) -> str:
        """The blueprint and the layout, as JSON."""
        return self.prefix + "meta"

    @property
    def versions_key(self) -> str:
        """What was published last, as versioned JSON."""
        return self.prefix + "versions"

    @property
    def numbers_key(self) -> str:
        """The newest version numbers that may be in use, as versioned JSON: written before what uses them."""
        return self.prefix + "numbers"

    @property
    def publisher_key(self) -> str:
        """Who published last: a name that each publisher draws for itself."""
        return self.prefix + "publisher"

    @property
    def items_key(self) -> str:
        """Ids of all items with facts: a set of texts (``id_text``) that only grows."""
        return self.prefix + "items"

    @property
    def recent_items_key(self) -> str:
        """Items by when they were last shown or liked: a sorted set of texts by event time, of the latest alone."""
        return self.prefix + "recent:items"

    @property
    def recent_users_key(self) -> str:
        """Users by when they were last shown something: a sorted set of texts by event time, of the latest alone."""
        return self.prefix + "recent:users"

    @property
    def progress_key(self) -> str:
        """How the run that learns is getting on, as plain JSON; gone soon after it has ended."""
        return self.prefix + "progress"

    def catalogue_keys(self, number: int) -> list[str]:
        """Where the parts of a catalogue of sessions lie."""
        return [f"{self.prefix}catalogue:{at}" for at in range(number)]

    def user_key(self, user_id: int | str) -> str:
        """One user's history and profile, as versioned JSON."""
        return f"{self.prefix}user:{id_text(user_id)}"

    def item_key(self, item_id: int | str) -> str:
        """One item's facts, as versioned JSON."""
        return f"{self.prefix}item:{id_text(item_id)}"

    def group_prefix(self, group: str) -> bytes:
        """What the keys of a group's rows start with."""
        return f"{self.prefix}{self.row_format}:{group}:".encode()

    def is_compact(self, group: str) -> bool:
        """Whether a group's rows are fields of hashes."""
        return self.layout == "compact" and group not in WHOLE

    def buckets(self, keys_N: Keys) -> npt.NDArray[np.int64]:
        """The bucket of each row key, (N,) in [0, num_buckets)."""
        return (mix64(keys_N, _BUCKET_SEED) % np.uint64(self.num_buckets)).astype(np.int64)

    def key_bytes(self, group: str, keys_N: Keys) -> Bytes:
        """The Redis key of each row, (N, length) uint8: all keys of a group are equally long."""
        parts = [_repeated(self.group_prefix(group), len(keys_N))]
        if group in WHOLE and self.cluster:
            parts.append(_repeated(b"{dense}", len(keys_N)))
        elif self.is_compact(group) or self.cluster:
            parts += [_repeated(b"{", len(keys_N)), _hexadecimal(self.buckets(keys_N)), _repeated(b"}", len(keys_N))]
        if not self.is_compact(group):
            parts.append(field_bytes(keys_N))
        return np.concatenate(parts, axis=1)

    def row_keys(self, group: str, keys_N: Keys) -> list[bytes]:
        """The Redis key of each row; those of one bucket share it where the group is compact."""
        return split_bytes(self.key_bytes(group, keys_N))

    def bucket_keys(self, group: str) -> list[bytes]:
        """The keys of all buckets of a compact group."""
        prefix = self.group_prefix(group)
        return [prefix + b"{%04x}" % bucket for bucket in range(self.num_buckets)]

    def format_of(self, group: RowGroup) -> str:
        """The format that a group's rows are published in."""
        if group.name in WHOLE:
            return "float32"
        return self.row_format if group.row_format == "float32" else group.row_format

    def record(self, width: int, row_format: str | None = None) -> np.dtype[np.void]:
        """The bytes of a value; by default in this run's format."""
        return self._codec(row_format).record(width)

    def encode_rows(
        self, rows_NW: Floats, versions_N: npt.NDArray[np.int64], row_format: str | None = None
    ) -> list[bytes]:
        """One value a row. A number beyond the format's range becomes the largest it holds."""
        return split_bytes(self.value_bytes(rows_NW, versions_N, row_format))

    def value_bytes(self, rows_NW: Floats, versions_N: npt.NDArray[np.int64], row_format: str | None = None) -> Bytes:
        """``encode_rows`` as an array, (N, length) uint8."""
        codec = self._codec(row_format)
        records_N = np.empty(len(rows_NW), codec.record(rows_NW.shape[1]))
        records_N["version"] = versions_N
        codec.encode(rows_NW, records_N)
        return records_N.view(np.uint8).reshape(len(rows_NW), records_N.dtype.itemsize)

    def decode_rows(
        self, values: Sequence[bytes | None], width: int, row_format: str | None = None
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Rows (N, W), and which of them are there: neither missing nor a tombstone."""
        size = self.record(width, row_format).itemsize
        present_N = np.array([value is not None and len(value) > VERSION_BYTES for value in values], np.bool_)
        found = [value for value in values if value is not None and len(value) > VERSION_BYTES]
        if wrong := next((len(value) for value in found if len(value) != size), 0):
            raise wrong_length(wrong, size)
        rows_NW = np.zeros((len(values), width), np.float32)
        rows_NW[present_N] = self.decode_records(b"".join(found), width, row_format)
        return rows_NW, present_N

    def decode_records(self, packed: bytes | bytearray, width: int, row_format: str | None = None) -> Floats:
        """Rows (N, W) of values that lie end to end."""
        codec = self._codec(row_format)
        return codec.decode(np.frombuffer(packed, codec.record(width)))

    def _codec(self, row_format: str | None) -> Codec:
        if row_format is None:
            row_format = self.row_format
        return CODECS[row_format]


def wrong_length(found: int, expected: int) -> DataError:
    """The error for a value that is no row of this layout."""
    return DataError(f"a published row is {found}, not {expected} bytes long; it was written with another layout")


def field_bytes(keys_N: Keys) -> Bytes:
    """What names a row within its bucket, (N, 8) uint8."""
    return np.ascontiguousarray(keys_N.astype("<i8")).view(np.uint8).reshape(len(keys_N), 8)


def split_bytes(bytes_NL: Bytes) -> list[bytes]:
    """The lines of an array of bytes."""
    packed, length = bytes_NL.tobytes(), bytes_NL.shape[1]
    return [packed[i : i + length] for i in range(0, len(packed), length)]


def pointer_key(model: str) -> str:
    """Names the run that is served."""
    return f"recsys:{model}:current"


def runs_key(model: str) -> str:
    """All runs of a model by when they were last switched to, in milliseconds: a sorted set; 0 is never."""
    return f"recsys:{model}:runs"


def versioned(payload: bytes, version: int) -> bytes:
    """A value that is not a row: its version, then the payload."""
    return np.array(version, ">f8").tobytes() + payload


def payload_of(value: bytes) -> bytes:
    """The value without its version."""
    return value[VERSION_BYTES:]


def version_of(value: bytes) -> float:
    """The version that a value starts with."""
    return float(np.frombuffer(value[:VERSION_BYTES], ">f8")[0])


def tombstone_bytes(versions_N: npt.NDArray[np.int64]) -> Bytes:
    """Tombstones as an array, (N, 8) uint8."""
    return versions_N.astype(">f8").view(np.uint8).reshape(len(versions_N), VERSION_BYTES)


def tombstone(version: int) -> bytes:
    """What a deleted row leaves, so that an older write can not bring it back."""
    return versioned(b"", version)


def _repeated(text: bytes, num: int) -> Bytes:
    return np.broadcast_to(np.frombuffer(text, np.uint8), (num, len(text)))


def _hexadecimal(numbers_N: npt.NDArray[np.int64]) -> Bytes:
    """Four digits each, (N, 4) uint8."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    nibbles_N4 = numbers_N[:, None] >> np.array([12, 8, 4, 0]) & 15
    return digits[nibbles_N4]
