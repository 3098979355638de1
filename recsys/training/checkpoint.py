"""A trained run on disk: rows, optimizer state, features and stream positions of one instant.

Rows lie in Parquet, one file a row group; the rest is JSON. Files are written beside their place and published by
renaming the folder, with a manifest of sizes and SHA-256 sums; loading checks them and executes nothing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.hashing import Floats
from recsys.models.recommender import Blueprint
from recsys.rows.store import GroupSnapshot, Snapshot

_FORMAT = 1
_STATE = "state."


@dataclass(frozen=True)
class Checkpoint:
    """One cut: what to build, its rows, the joiners' states (features and positions), and what the run said of it."""

    blueprint: Blueprint
    rows: Snapshot
    joiners: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; ``load_checkpoint`` finds the old one or the new one at any time, never a part."""
    staged = folder.with_name(folder.name + ".writing")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    groups = {name: f"rows-{at}.parquet" for at, name in enumerate(checkpoint.rows.groups)}
    for name, file in groups.items():
        pq.write_table(_to_table(checkpoint.rows.groups[name]), staged / file)
    state = {"blueprint": checkpoint.blueprint.to_json(), "joiners": checkpoint.joiners}
    (staged / "state.json").write_text(json.dumps(state))
    manifest = {
        "format": _FORMAT,
        "cursor": checkpoint.rows.cursor,
        "groups": groups,
        "about": checkpoint.about,
        "files": {path.name: _fingerprint(path) for path in sorted(staged.iterdir())},
    }
    (staged / "manifest.json").write_text(json.dumps(manifest, indent=1))
    if folder.exists():
        shutil.rmtree(_replaced(folder), ignore_errors=True)
        os.replace(folder, _replaced(folder))
    os.replace(staged, folder)
    shutil.rmtree(_replaced(folder), ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; DataError names a file that is missing, cut short or altered."""
    if not folder.exists() and _replaced(folder).exists():
        folder = _replaced(folder)  # a save was cut off between its two renames
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or _fingerprint(path) != expected:
            raise DataError(f"checkpoint file {path} is missing or altered; restore it, or train again")
    state = json.loads((folder / "state.json").read_text())
    groups = {name: _from_table(pq.read_table(folder / file)) for name, file in manifest["groups"].items()}
    return Checkpoint(
        blueprint=Blueprint.from_json(state["blueprint"]),
        rows=Snapshot(tuple(manifest["cursor"]), groups),
        joiners=state["joiners"],
        about=manifest["about"],
    )


def _replaced(folder: Path) -> Path:
    """Where the old checkpoint waits until the new one is in its place."""
    return folder.with_name(folder.name + ".replaced")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(f"no checkpoint in {folder}: manifest.json is not there; give the folder of a trained run")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"checkpoint file {path} is altered ({error}); restore it, or train again") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise DataError(f"checkpoint file {path} is altered (it names no format); restore it, or train again")
    if manifest["format"] != _FORMAT:
        raise DataError(f"checkpoint {folder} has format {manifest['format']!r}, this version reads {_FORMAT}")
    missing = {"cursor", "groups", "about", "files"} - set(manifest)
    if missing:
        raise DataError(f"checkpoint file {path} is altered (it lacks {sorted(missing)}); restore it, or train again")
    return manifest


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _to_table(group: GroupSnapshot) -> pa.Table:
    columns = {
        "key": pa.array(group.keys_U),
        "row": _lists(group.rows_UW),
        "event_time_ms": pa.array(group.event_times_U),
        "sequence": pa.array(group.sequences_U),
    }
    columns.update({_STATE + name: _lists(values_US) for name, values_US in group.state.items()})
    return pa.table(columns)


def _from_table(table: pa.Table) -> GroupSnapshot:
    state = {
        name.removeprefix(_STATE): _floats(table.column(name)) for name in table.column_names if name.startswith(_STATE)
    }
    return GroupSnapshot(
        table.column("key").to_numpy(),
        _floats(table.column("row")),
        state,
        table.column("event_time_ms").to_numpy(),
        table.column("sequence").to_numpy(),
    )


def _lists(values_US: Floats) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_US.reshape(-1)), values_US.shape[1])


def _floats(column: pa.ChunkedArray) -> Floats:
    width = column.type.list_size
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat, np.float32).reshape(-1, width)
