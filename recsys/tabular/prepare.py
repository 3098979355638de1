"""Prepare plain examples: learn what the columns need from train, write all parts encoded, in two passes.

Neither pass holds more than a few record batches, and the distinct ids of each feature.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.features.declarations import DataSet
from recsys.tabular.columns import IdColumn, NumberColumn, column_of, labels_of
from recsys.tabular.prepared import (
    FORMAT,
    LABEL,
    MANIFEST,
    VOCABULARY,
    ExampleManifest,
    damages,
    declared,
    read_manifest,
)
from recsys.tabular.sets import SPLITS, Part, Parts, raw_parts

ROW_GROUP_ROWS = 1 << 16
Columns = dict[str, IdColumn | NumberColumn]
Progress = Callable[[str], None]


def prepare_examples(data: DataSet, *, data_folder: Path | None, on_progress: Progress) -> ExampleManifest:
    """Prepare a data set in ``data.folder``; one that is there, intact and declared alike, is left as it is.

    Raises ConfigError or DataError where its files are not found or not what they should be; the folder appears under
    its name only when it is complete.
    """
    there = _already_there(data)
    if there is not None:
        on_progress(f"{data.name} is already prepared in {data.folder}; nothing to do")
        return there
    parts = raw_parts(data, data_folder)
    on_progress(f"reading {data.name} from {parts.source}")
    columns = _learned(data, parts.of["train"])
    into = data.folder
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as beside:
        staged = Path(beside) / "staged"
        manifest = _write(data, parts, columns, staged)
        if into.exists():
            os.replace(into, Path(beside) / "replaced")
        os.replace(staged, into)
    return manifest


def _already_there(data: DataSet) -> ExampleManifest | None:
    """The manifest of what is prepared; None where it has to be written (again)."""
    if not data.folder.exists():
        return None
    manifest = read_manifest(data.folder) if data.folder.is_dir() else None
    if manifest is None and (not data.folder.is_dir() or any(data.folder.iterdir())):
        raise DataError(f"{data.folder} holds something else than prepared examples; name a new folder")
    if manifest is None or manifest.declared != declared(data) or damages(data.folder, manifest) is not None:
        return None
    return manifest


def _learned(data: DataSet, train: Part) -> Columns:
    """The columns, having learned from the training part."""
    columns: Columns = {feature.name: column_of(feature) for feature in data.features}
    for batch in train():
        for name, column in columns.items():
            column.learn(_raw(batch, data, name))
    for column in columns.values():
        if isinstance(column, IdColumn):
            column.finish()
    return columns


def _raw(batch: pa.RecordBatch, data: DataSet, name: str) -> pa.Array:
    source = next(feature.source for feature in data.features if feature.name == name)
    return batch.column(source.removeprefix("column."))


def _write(data: DataSet, parts: Parts, columns: Columns, folder: Path) -> ExampleManifest:
    (folder / VOCABULARY).mkdir(parents=True)
    counts = {split: _write_part(data, parts.of[split], columns, folder / f"{split}.parquet") for split in SPLITS}
    _write_vocabulary(columns, folder / VOCABULARY)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = ExampleManifest(
        format=FORMAT,
        name=data.name,
        source=parts.source,
        declared=declared(data),
        num_examples={split: num for split, (num, _) in counts.items()},
        num_positives={split: num for split, (_, num) in counts.items()},
        learned={name: column.learned() for name, column in columns.items()},
        about=parts.about,
        bytes={str(path.relative_to(folder)): path.stat().st_size for path in files},
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _write_part(data: DataSet, part: Part, columns: Columns, path: Path) -> tuple[int, int]:
    """One part as Parquet: (examples, positives); DataError where it has none."""
    num_examples = num_positives = 0
    with pq.ParquetWriter(path, _schema(data), compression="zstd") as writer:
        for table in _in_row_groups(_encoded(data, part, columns, path.stem)):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            num_examples += table.num_rows
            num_positives += int(pc.sum(table[LABEL]).as_py())
    if num_examples == 0:
        raise DataError(
            f"data set {data.name!r}: its {path.stem} part is empty; give more examples, or files of their own"
        )
    return num_examples, num_positives


def _in_row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows, ROW_GROUP_ROWS at a time: what is shuffled is row groups, so none may be small."""
    waiting: list[pa.RecordBatch] = []
    num_waiting = 0
    for batch in batches:
        waiting.append(batch)
        num_waiting += batch.num_rows
        while num_waiting >= ROW_GROUP_ROWS:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, ROW_GROUP_ROWS)
            waiting = table.slice(ROW_GROUP_ROWS).to_batches()
            num_waiting -= ROW_GROUP_ROWS
    if num_waiting:
        yield pa.Table.from_batches(waiting)


def _encoded(data: DataSet, part: Part, columns: Columns, split: str) -> Iterator[pa.RecordBatch]:
    assert data.examples is not None
    label = data.examples.label
    for batch in part():
        arrays = [column.encode(_raw(batch, data, name)) for name, column in columns.items()]
        arrays.append(labels_of(batch.column(label), label, f"data set {data.name!r}, {split}"))
        yield pa.record_batch(arrays, schema=_schema(data))


def _schema(data: DataSet) -> pa.Schema:
    kinds = {"number": pa.float32(), "id": pa.int64()}
    columns = [(feature.name, kinds.get(feature.kind, pa.list_(pa.int64()))) for feature in data.features]
    return pa.schema([*columns, (LABEL, pa.float32())])


def _write_vocabulary(columns: Columns, folder: Path) -> None:
    """The raw values of the ids that were numbered, in the order of their ids (those begin with 1)."""
    for name, column in columns.items():
        if isinstance(column, IdColumn) and column.feature.min_count is not None:
            pq.write_table(pa.table({"value": column.values}), folder / f"{name}.parquet")
