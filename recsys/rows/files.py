"""Snapshots of rows in files: Parquet, one file a row group.

A snapshot is written in parts, each by who holds it, into one folder; an increment holds what changed since an earlier
snapshot, and is applied to that one::

    described = write_part(folder, "shard-0", store.snapshot())
    whole = read_part(folder, described)
    later = apply(whole, read_part(folder, write_part(folder, "later-0", store.snapshot(since=whole.cursor))))

Reading checks every sum and executes nothing.

Shape suffixes: U rows, W row width, S state width.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import RecsysError
from recsys.hashing import Floats
from recsys.rows.folders import Folder
from recsys.rows.store import GroupSnapshot, Snapshot

_STATE = "state."
_NO_ERRORS = np.empty(0, np.float32)
_ROWS_PER_READ = 2**18  # of a Parquet row group: what is compressed, checked and decoded at a time


def write_part(folder: Folder, prefix: str, snapshot: Snapshot) -> dict[str, Any]:
    """Write a snapshot to files of an existing folder whose names begin with ``prefix``.

    Returns what ``read_part`` has to be told, as JSON: ``cursor``, ``since``, ``groups``, and ``files``, by name their
    ``bytes`` and ``sha256``. Several may write to one folder at once. Where it fails (ServiceError), what was written
    is removed again, so that a full disk has room.
    """
    files: dict[str, dict[str, Any]] = {}
    groups = {}
    for at, (name, group) in enumerate(snapshot.groups.items()):
        tables = {kind: (f"{prefix}-{kind}-{at}.parquet", table) for kind, table in _tables(group).items()}
        for file, table in tables.values():
            try:
                files[file] = _write(folder, file, table)
            except RecsysError:
                _remove(folder, [*files, file])
                raise
        named = {kind: file for kind, (file, _) in tables.items()}
        groups[name] = {**named, "time_ms": int(group.time_ms), "num_steps": int(group.num_steps)}
    since = None if snapshot.since is None else _plain(snapshot.since)
    return {"cursor": _plain(snapshot.cursor), "since": since, "groups": groups, "files": files}


def read_part(folder: Folder, described: Mapping[str, Any]) -> Snapshot:
    """The snapshot that ``write_part`` wrote; DataError names a file that is missing or altered."""
    since = described["since"]
    return Snapshot(
        tuple(described["cursor"]),
        {name: _read_group(folder, group, described["files"]) for name, group in described["groups"].items()},
        None if since is None else tuple(since),
    )


def apply(base: Snapshot, increment: Snapshot) -> Snapshot:
    """``base`` with what changed since."""
    groups = {name: _applied(base.groups[name], part) for name, part in increment.groups.items()}
    return replace(increment, since=None, groups={**base.groups, **groups})


def _applied(base: GroupSnapshot, increment: GroupSnapshot) -> GroupSnapshot:
    gone = np.concatenate([increment.keys_U, increment.deleted_keys_D])
    nobody = np.empty(0, np.int64), np.empty(0, np.uint8)
    bare = replace(base, candidate_keys_C=nobody[0], candidate_counts_C=nobody[1], candidate_errors_C=_NO_ERRORS)
    kept = bare.select(lambda keys_U: ~np.isin(keys_U, gone))
    own_steps = None
    if kept.own_steps_U is not None and increment.own_steps_U is not None:
        own_steps = np.concatenate([kept.own_steps_U, increment.own_steps_U])
    return replace(
        increment,
        keys_U=np.concatenate([kept.keys_U, increment.keys_U]),
        rows_UW=np.concatenate([kept.rows_UW, increment.rows_UW]),
        state={name: np.concatenate([kept.state[name], values]) for name, values in increment.state.items()},
        event_times_U=np.concatenate([kept.event_times_U, increment.event_times_U]),
        sequences_U=np.concatenate([kept.sequences_U, increment.sequences_U]),
        own_steps_U=own_steps,
        deleted_keys_D=nobody[0],
    )


def _tables(group: GroupSnapshot) -> dict[str, pa.Table]:
    """A group as tables: ``rows``, and where there are some, ``candidates`` and what was ``deleted``."""
    tables = {"rows": _to_table(group)}
    if len(group.candidate_keys_C):
        errors = {"error": group.candidate_errors_C} if len(group.candidate_errors_C) else {}
        tables["candidates"] = pa.table({"key": group.candidate_keys_C, "count": group.candidate_counts_C, **errors})
    if len(group.deleted_keys_D):
        tables["deleted"] = pa.table({"key": group.deleted_keys_D})
    return tables


def _write(folder: Folder, file: str, table: pa.Table) -> dict[str, Any]:
    with folder.writing(file) as stream:
        # hardly a key or a number comes twice: a dictionary of them costs time, and nothing is smaller for it
        pq.write_table(table, stream, row_group_size=_ROWS_PER_READ, use_dictionary=False)
    return stream.sums


def _read(folder: Folder, file: str, files: Mapping[str, Any]) -> pa.Table:
    return pq.read_table(pa.BufferReader(folder.read(file, files[file])))


def _remove(folder: Folder, files: list[str]) -> None:
    for file in files:
        with suppress(RecsysError):
            folder.remove_file(file)


def _plain(cursor: tuple[int, ...]) -> list[int]:
    return [int(sequence) for sequence in cursor]


def _to_table(group: GroupSnapshot) -> pa.Table:
    columns = {
        "key": pa.array(group.keys_U),
        "row": _lists(group.rows_UW),
        "event_time_ms": pa.array(group.event_times_U),
        "sequence": pa.array(group.sequences_U),
    }
    if group.own_steps_U is not None:
        columns["own_step"] = pa.array(group.own_steps_U)
    columns.update({_STATE + name: _lists(values_US) for name, values_US in group.state.items()})
    return pa.table(columns)


def _read_group(folder: Folder, described: Mapping[str, Any], files: Mapping[str, Any]) -> GroupSnapshot:
    table = _read(folder, described["rows"], files)
    state = {
        name.removeprefix(_STATE): _floats(table.column(name)) for name in table.column_names if name.startswith(_STATE)
    }
    group = GroupSnapshot(
        table.column("key").to_numpy(),
        _floats(table.column("row")),
        state,
        table.column("event_time_ms").to_numpy(),
        table.column("sequence").to_numpy(),
        time_ms=described["time_ms"],
        num_steps=described["num_steps"],
        own_steps_U=table.column("own_step").to_numpy() if "own_step" in table.column_names else None,
    )
    if "candidates" in described:
        waiting = _read(folder, described["candidates"], files)
        counts = waiting.column("count").to_numpy()
        group = replace(group, candidate_keys_C=waiting.column("key").to_numpy(), candidate_counts_C=counts)
        if "error" in waiting.column_names:
            group = replace(group, candidate_errors_C=waiting.column("error").to_numpy())
    if "deleted" in described:
        gone = _read(folder, described["deleted"], files)
        group = replace(group, deleted_keys_D=gone.column("key").to_numpy())
    return group


def _lists(values_US: Floats) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_US.reshape(-1)), values_US.shape[1])


def _floats(column: pa.ChunkedArray) -> Floats:
    width = column.type.list_size
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, np.float32).reshape(-1, width)
