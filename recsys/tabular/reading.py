"""CSV and Parquet files as record batches, a piece at a time: files may be larger than memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from recsys.errors import DataError

_BLOCK_BYTES = 16 << 20
_ROWS_A_READ = 1 << 17


def read_examples(
    path: Path,
    columns: Sequence[str],
    *,
    types: dict[str, pa.DataType] | None = None,
    delimiter: str = ",",
    header: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The ``columns`` of a file, by its ending Parquet or delimited text (compressed where it ends with gz too).

    ``types`` and what follows are of text: types of columns where they are not to be guessed, and the names of all
    columns of a file without a line of them. DataError, naming the file, where it is missing, empty, lacks a column, or
    can not be read.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; name a CSV or Parquet file of examples")
    is_parquet = path.suffix == ".parquet"
    num_rows = 0
    try:
        batches = _parquet(path, columns) if is_parquet else _text(path, columns, types or {}, delimiter, header)
        for batch in batches:
            num_rows += batch.num_rows
            yield batch
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise DataError(f"{path}: {reason}; columns {', '.join(columns)} are read") from error
    if num_rows == 0:
        raise DataError(f"{path} holds no examples; give a file with at least one row")


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        _check_columns(path, columns, file.schema_arrow.names)
        yield from file.iter_batches(_ROWS_A_READ, columns=list(columns))


def _text(
    path: Path, columns: Sequence[str], types: dict[str, pa.DataType], delimiter: str, header: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    if path.stat().st_size == 0:
        return
    reader = pyarrow.csv.open_csv(
        path,
        pyarrow.csv.ReadOptions(column_names=header, block_size=_BLOCK_BYTES),
        pyarrow.csv.ParseOptions(delimiter=delimiter),
        pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=["", "NULL", "null"]),
    )
    _check_columns(path, columns, reader.schema.names)
    for batch in reader:
        yield batch.select(list(columns))


def _check_columns(path: Path, columns: Sequence[str], found: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in found]:
        raise DataError(
            f"{path}: columns {', '.join(missing)} missing, found {', '.join(found)}; name a column that is there "
            "(source: column.NAME, examples.label)"
        )
