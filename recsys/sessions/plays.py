"""Play logs as columns: who played which track when, from Parquet, delimited text, or a stream of events.

Shape suffixes: N plays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recsys.errors import ConfigError, DataError, EventError
from recsys.events import Id, Text, TimeMs
from recsys.fields import Above, NotEmpty
from recsys.hashing import Keys
from recsys.streams.source import Source, is_end

Seconds = Annotated[float, Above(0)]
_BETWEEN_KEYS = "|"  # of a track that is named by several columns: artist|title


@dataclass(frozen=True)
class Plays:
    """Plays in no order: places in ``user_ids`` and ``track_ids``, and seconds since 1970.

    ``sessions_N``, where the log says which session a play is of, is its number: it is of one user.
    """

    users_N: Keys
    tracks_N: Keys
    times_N: npt.NDArray[np.int64]
    user_ids: Sequence[int | str]
    track_ids: Sequence[int | str]
    sessions_N: Keys | None = None

    def __len__(self) -> int:
        return len(self.users_N)

    def select(self, chosen_N: npt.NDArray[Any]) -> "Plays":
        """The plays that a mask or an index chooses."""
        sessions_N = None if self.sessions_N is None else self.sessions_N[chosen_N]
        users_N, tracks_N, times_N = (values[chosen_N] for values in (self.users_N, self.tracks_N, self.times_N))
        return Plays(users_N, tracks_N, times_N, self.user_ids, self.track_ids, sessions_N)


@dataclass(frozen=True, kw_only=True)
class PlayFiles:
    """Where a log of plays is, and which of its columns say what.

    ``track`` may be several columns, joined by "|": Last.fm-1K has no id for many titles, so that artist and title are
    the key. ``time`` maps columns to the seconds that one of their units is: {ts: 1}, {ts_ms: 0.001},
    {day: 86400, hour: 3600}; a column of text or of timestamps is a time in ISO 8601. ``session``, where the log has
    them, numbers the sessions of a user. ``columns`` names those of a delimited file without a header.
    """

    kind: Literal["parquet", "delimited"]
    files: Annotated[tuple[str, ...], NotEmpty()]
    user: Annotated[str, NotEmpty()]
    track: Annotated[tuple[str, ...], NotEmpty()]
    time: Annotated[Mapping[str, Seconds], NotEmpty()]
    session: Annotated[str, NotEmpty()] | None = None
    columns: tuple[str, ...] | None = None
    delimiter: Annotated[str, NotEmpty()] = "\t"

    def __post_init__(self) -> None:
        if self.kind == "parquet" and self.columns is not None:
            raise ConfigError(f"columns={list(self.columns)} are those of a delimited file; Parquet names its own")

    @property
    def wanted(self) -> list[str]:
        """The columns that are read."""
        return [*dict.fromkeys([self.user, *self.track, *self.time, *([self.session] if self.session else [])])]


def read_plays(said: PlayFiles, folder: Path) -> Plays:
    """All plays of the files, which stand under ``folder``; rows without a user, track or time are left out.

    Raises DataError for a file or column that is missing, and for a time that is none.
    """
    table = pa.concat_tables([_read(said, folder / name) for name in said.files]).combine_chunks()
    table = table.drop_null()
    users_N, user_ids = _places(table.column(said.user))
    tracks_N, track_ids = _places(_joined([table.column(name) for name in said.track]))
    sessions_N = None if said.session is None else _numbered(users_N, _places(table.column(said.session))[0])
    return Plays(users_N, tracks_N, _seconds(table, said.time), user_ids, track_ids, sessions_N)


class Play(msgspec.Struct, frozen=True):
    """One message of the topic ``plays``."""

    user: Id
    track: Id
    time_ms: TimeMs
    artist: Text | None = None


_decoder = msgspec.json.Decoder(Play)


def decode_play(payload: bytes) -> Play:
    """One play from JSON bytes; EventError with the reason for what is none.

    >>> decode_play(b'{"user": 7, "track": "t", "time_ms": 2000}')
    Play(user=7, track='t', time_ms=2000, artist=None)
    """
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"plays: {error}"
        raise EventError(reason) from error


def drain_plays(source: Source, timeout_seconds: float = 1.0) -> tuple[Plays, int]:
    """Everything that a source of plays holds now, and how many messages were none: those are left out."""
    played: list[Play] = []
    num_refused = 0
    while not all(source.caught_up(partition) for partition in source.partitions):
        for record in source.next_batch(timeout_seconds=timeout_seconds):
            if is_end(record.payload) or not isinstance(record.payload, bytes):
                continue
            try:
                played.append(decode_play(record.payload))
            except EventError:
                num_refused += 1
    return plays_of(played), num_refused


def plays_of(played: Sequence[Play]) -> Plays:
    """Plays as columns; ids stand in the order in which they are first seen."""
    user_ids = list(dict.fromkeys(play.user for play in played))
    track_ids = list(dict.fromkeys(play.track for play in played))
    user_of, track_of = ({id_: at for at, id_ in enumerate(ids)} for ids in (user_ids, track_ids))
    return Plays(
        np.array([user_of[play.user] for play in played], np.int64),
        np.array([track_of[play.track] for play in played], np.int64),
        np.array([play.time_ms // 1000 for play in played], np.int64),
        user_ids,
        track_ids,
    )


def _read(said: PlayFiles, path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path} is not there; name the folder of the log's files by plays.folder=")
    try:
        return _read_parquet(said, path) if said.kind == "parquet" else _read_delimited(said, path)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}; see the fields of plays.log") from error


def _read_parquet(said: PlayFiles, path: Path) -> pa.Table:
    known = pq.read_schema(path).names
    if absent := [name for name in said.wanted if name not in known]:
        raise DataError(f"{path} has no column {absent[0]!r}; it has {', '.join(known)}")
    return pq.read_table(path, columns=said.wanted)


def _read_delimited(said: PlayFiles, path: Path) -> pa.Table:
    return pacsv.read_csv(
        path,
        read_options=pacsv.ReadOptions(column_names=said.columns),
        parse_options=pacsv.ParseOptions(delimiter=said.delimiter, quote_char=False),  # titles have quotes in them
        convert_options=pacsv.ConvertOptions(
            include_columns=said.wanted,
            column_types=dict.fromkeys(said.track, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )


def _places(column: pa.ChunkedArray) -> tuple[Keys, list[Any]]:
    """Each value as its place among the distinct ones, and those."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _joined(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    if len(columns) == 1:
        return columns[0]
    return pc.binary_join_element_wise(*[pc.cast(column, pa.string()) for column in columns], _BETWEEN_KEYS)


def _numbered(users_N: Keys, sessions_N: Keys) -> Keys:
    """A number for each pair of user and session."""
    return np.unique(users_N * (sessions_N.max(initial=0) + 1) + sessions_N, return_inverse=True)[1].astype(np.int64)


def _seconds(table: pa.Table, time: Mapping[str, float]) -> npt.NDArray[np.int64]:
    parts = [_seconds_of(table.column(name), name) * unit for name, unit in time.items()]
    return np.floor(np.sum(parts, axis=0)).astype(np.int64)


def _seconds_of(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.float64]:
    try:
        if pa.types.is_string(column.type):
            column = pc.cast(column, pa.timestamp("ms", tz="UTC"))
        if pa.types.is_timestamp(column.type):
            return pc.cast(pc.cast(column, pa.timestamp("ms")), pa.int64()).to_numpy() / 1000
        return pc.cast(column, pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(f"column {name!r} is no time: {error}; see plays.log.time") from error
