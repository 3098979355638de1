"""Snapshots of rows in files: Parquet, one file a row group, whole or as increments over an earlier one.

::

    save_rows(runs / "rows-1", store.snapshot())                        # everything
    save_rows(runs / "rows-2", store.snapshot(since=cursor), base=runs / "rows-1")   # what changed since
    store.restore(load_rows(runs / "rows-2"))                           # follows the chain

Loading checks every sum and executes nothing; it restores onto any number of shards.

Shape suffixes: U rows, W row width, S state width.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.hashing import Floats
from recsys.rows import folders
from recsys.rows.store import GroupSnapshot, Snapshot

_FORMAT = 1
_STATE = "state."
_ROWS_PER_READ = 2**18  # of a Parquet row group: what is compressed, checked and decoded at a time


def save_rows(folder: Path, snapshot: Snapshot, base: Path | None = None) -> None:
    """Write a snapshot to a folder; an increment (``snapshot.since``) names the folder beside it that it adds to.

    Raises DataError for an increment without a base, or over one of another instant.
    """
    link = None
    if snapshot.since is not None:
        if base is None or base.parent != folder.parent:
            raise DataError(f"rows since {snapshot.since} need the folder of that instant, beside {folder}, as base")
        _, manifest = _opened(base)
        if tuple(manifest["cursor"]) != snapshot.since:
            raise DataError(f"{base} is of {tuple(manifest['cursor'])}, the increment of after {snapshot.since}")
        link = {"name": base.name, "sha256": folders.manifest_sum(base)}
    described = write_groups(folders.staged(folder), snapshot)
    folders.publish(folder, {"format": _FORMAT, "base": link, **described})


def load_rows(folder: Path) -> Snapshot:
    """The whole snapshot of a folder, its bases included; DataError names a link that is missing or altered."""
    folder, manifest = _opened(folder)
    snapshot = read_groups(folder, manifest)
    if manifest["base"] is None:
        return snapshot
    base = folder.parent / manifest["base"]["name"]
    if not base.is_dir() or folders.manifest_sum(base) != manifest["base"]["sha256"]:
        raise DataError(f"{folder} adds to {base}, which is missing or another one; restore it, or a later whole one")
    return apply(load_rows(base), snapshot)


def apply(base: Snapshot, increment: Snapshot) -> Snapshot:
    """``base`` with what changed since."""
    groups = {name: _applied(base.groups[name], part) for name, part in increment.groups.items()}
    return replace(increment, since=None, groups={**base.groups, **groups})


def write_groups(folder: Path, snapshot: Snapshot) -> dict[str, Any]:
    """Write the groups to files of an existing folder; what ``read_groups`` has to be told of them."""
    groups = {}
    for at, (name, group) in enumerate(snapshot.groups.items()):
        files = {"rows": f"rows-{at}.parquet"}
        _write(folder / files["rows"], _to_table(group))
        if len(group.candidate_keys_C):
            files["candidates"] = f"candidates-{at}.parquet"
            columns = {"key": group.candidate_keys_C, "count": group.candidate_counts_C}
            _write(folder / files["candidates"], pa.table(columns))
        if len(group.deleted_keys_D):
            files["deleted"] = f"deleted-{at}.parquet"
            _write(folder / files["deleted"], pa.table({"key": group.deleted_keys_D}))
        groups[name] = {**files, "time_ms": group.time_ms, "num_steps": group.num_steps}
    return {"cursor": snapshot.cursor, "since": snapshot.since, "groups": groups}


def read_groups(folder: Path, described: Mapping[str, Any]) -> Snapshot:
    """The groups that ``write_groups`` wrote."""
    since = described["since"]
    return Snapshot(
        tuple(described["cursor"]),
        {name: _read_group(folder, files) for name, files in described["groups"].items()},
        None if since is None else tuple(since),
    )


def _opened(folder: Path) -> tuple[Path, dict[str, Any]]:
    return folders.opened(folder, what="snapshot", version=_FORMAT, fields={"base", "cursor", "since", "groups"})


def _applied(base: GroupSnapshot, increment: GroupSnapshot) -> GroupSnapshot:
    gone = np.concatenate([increment.keys_U, increment.deleted_keys_D])
    nobody = np.empty(0, np.int64), np.empty(0, np.uint8)
    bare = replace(base, candidate_keys_C=nobody[0], candidate_counts_C=nobody[1])
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


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=_ROWS_PER_READ)


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


def _read_group(folder: Path, files: Mapping[str, Any]) -> GroupSnapshot:
    table = pq.read_table(folder / files["rows"])
    state = {
        name.removeprefix(_STATE): _floats(table.column(name)) for name in table.column_names if name.startswith(_STATE)
    }
    group = GroupSnapshot(
        table.column("key").to_numpy(),
        _floats(table.column("row")),
        state,
        table.column("event_time_ms").to_numpy(),
        table.column("sequence").to_numpy(),
        time_ms=files["time_ms"],
        num_steps=files["num_steps"],
        own_steps_U=table.column("own_step").to_numpy() if "own_step" in table.column_names else None,
    )
    if "candidates" in files:
        waiting = pq.read_table(folder / files["candidates"])
        counts = waiting.column("count").to_numpy()
        group = replace(group, candidate_keys_C=waiting.column("key").to_numpy(), candidate_counts_C=counts)
    if "deleted" in files:
        group = replace(group, deleted_keys_D=pq.read_table(folder / files["deleted"]).column("key").to_numpy())
    return group


def _lists(values_US: Floats) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_US.reshape(-1)), values_US.shape[1])


def _floats(column: pa.ChunkedArray) -> Floats:
    width = column.type.list_size
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, np.float32).reshape(-1, width)
