"""The joined examples of a prepared data set; joined once for all runs that declare and join alike."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys.batches.join import JoinConfig
from recsys.datasets.prepared import Prepared, open_prepared
from recsys.datasets.replay import event_files
from recsys.features.declarations import DataSet, features_to_json
from recsys.streams.parquet import ParquetSource
from recsys.training.fit import Joined, join_recorded


def join_prepared(data: DataSet, join: JoinConfig, partitions: int, limit: int | None, folder: Path) -> Joined:
    """Join the events of a prepared data set, its first ``limit`` impressions; dead letters go to ``folder``."""
    return _join(open_prepared(data.folder, data.name), data, join, partitions, limit, folder)


def kept_examples(
    data: DataSet, join: JoinConfig, partitions: int, limit: int | None, folder: Path, kept: Path
) -> Path:
    """The file of the joined examples in the folder ``kept``: joined now, unless an earlier run has left it there."""
    prepared = open_prepared(data.folder, data.name)
    files = {name: record.sha256 for name, record in prepared.manifest.files.items()}
    path = kept / f"{data.name}-{key_of(_said(data, join, partitions, limit, files))}.arrow"
    if not path.exists():
        _write(path, _join(prepared, data, join, partitions, limit, folder).examples)
    return path


def read_kept(path: Path) -> pa.Table:
    """Joined examples in emission order."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        return reader.read_all()


def key_of(said: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits for plain values.

    >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _said(
    data: DataSet, join: JoinConfig, partitions: int, limit: int | None, files: Mapping[str, str]
) -> dict[str, Any]:
    """All that the joined examples follow from."""
    features = features_to_json(data.features)
    return {"features": features, "join": asdict(join), "partitions": partitions, "limit": limit, "files": files}


def _join(
    prepared: Prepared, data: DataSet, join: JoinConfig, partitions: int, limit: int | None, folder: Path
) -> Joined:
    files = event_files(prepared, limit, folder / "events")
    return join_recorded(ParquetSource(files, partitions), partitions, join, data.features, folder / "dead-letters")


def _write(path: Path, examples: pa.Table) -> None:
    """Written beside, then renamed: a run that ends meanwhile leaves nothing half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    with pa.OSFile(str(beside), "wb") as file, pa.ipc.new_file(file, examples.schema) as writer:
        writer.write_table(examples)
    os.replace(beside, path)
