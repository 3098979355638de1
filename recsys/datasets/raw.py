"""The ratings, users and items of a data set as their owner publishes them, in three checked tables.

Whatever the layout, the tables have these columns before anything else looks at them:

- ratings: user_id int64, item_id int64, rating float64, timestamp int64 (seconds since 1970); in file order
- users:   user_id int64, then profile columns (none, where the owner publishes none)
- items:   item_id int64, title string, genres list<string>, year int64 (null where unknown)
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from recsys.errors import DataError

RATING_TYPES = {
    "user_id": pa.int64(),
    "item_id": pa.int64(),
    "rating": pa.float64(),
    "timestamp": pa.int64(),
}
MIN_RATING, MAX_RATING = 0.5, 5.0
MAX_TIMESTAMP = 10**10  # in the year 2286; milliseconds are far above
_YEAR = re.compile(r"\((\d{4})(?:[-–]\d{0,4})?\)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Raw:
    """Three tables with the columns above, and a sentence that says where they came from."""

    ratings: pa.Table
    users: pa.Table
    items: pa.Table
    source: str


def year_of(title: str) -> int | None:
    """The year that MovieLens writes in brackets near the end of a title; of a series, its first year.

    >>> year_of("Toy Story (1995)"), year_of("Fawlty Towers (1975-1979)"), year_of("Hyena Road")
    (1995, 1975, None)
    """
    years = _YEAR.findall(title)
    return int(years[-1]) if years else None


def items_table(
    item_ids: pa.Array, titles: Sequence[str | None], genres: pa.Array, other_years: Sequence[int | None]
) -> pa.Table:
    """The items table; a title without a year takes that of ``other_years`` (release dates)."""
    stripped = [(title or "").strip() for title in titles]
    years = [
        year if (year := year_of(title)) is not None else other
        for title, other in zip(stripped, other_years, strict=True)
    ]
    return pa.table(
        {
            "item_id": item_ids,
            "title": pa.array(stripped, pa.string()),
            "genres": genres,
            "year": pa.array(years, pa.int64()),
        }
    )


def require_files(folder: Path, names: Sequence[str]) -> None:
    """DataError naming the files of ``names`` that ``folder`` lacks."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        message = f"{folder}: {', '.join(missing)} missing beside {names[0]}; unpack the whole archive there"
        raise DataError(message)


def read_delimited(
    file: Path | IO[bytes],
    label: str,
    types: dict[str, pa.DataType],
    *,
    delimiter: str,
    header: Sequence[str] | None = None,
    encoding: str = "utf8",
    quoted: bool = False,
) -> pa.Table:
    """The columns of ``types`` out of a delimited text file; other columns are passed over.

    ``header`` names all the columns of a file without a header line. DataError, with ``label`` for the file's
    name, where a column is missing or a value does not parse.
    """
    try:
        return pyarrow.csv.read_csv(
            file,
            pyarrow.csv.ReadOptions(column_names=header, encoding=encoding, use_threads=False),
            pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False),
            pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types)),
        )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _unreadable(label, types, error) from error


def read_parquet(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    """The columns of ``types`` out of a Parquet file, cast to them; DataError where that can not be."""
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in types if name not in file.schema_arrow.names]
            if missing:
                found = ", ".join(file.schema_arrow.names)
                message = f"{path}: columns {', '.join(missing)} missing, found {found}; download it again"
                raise DataError(message)
            return file.read(columns=list(types)).select(list(types)).cast(pa.schema(types))
    except pa.ArrowException as error:
        raise _unreadable(str(path), types, error) from error


def _unreadable(label: str, types: dict[str, pa.DataType], error: Exception) -> DataError:
    reason = str(error).strip("'\"").splitlines()[0]
    return DataError(f"{label}: {reason}; expected columns {', '.join(types)}: download the file again")


def check_raw(raw: Raw, name: str, editions: dict[int, str]) -> str:
    """The edition whose number of ratings this is; DataError unless every table is what its owner published.

    ``editions`` maps numbers of ratings to editions. Checked: that number; no missing ids, ratings or times;
    ratings in 0.5..5; no (user, item) pair twice; ids of users and items unique, and all that occur known.
    """
    where = f"data set {name!r} from {raw.source}"
    if raw.ratings.num_rows not in editions:
        expected = " or ".join(f"{count:,} ({edition})" for count, edition in editions.items())
        message = f"{where}: {raw.ratings.num_rows:,} ratings found, {expected} expected; download it again"
        raise DataError(message)
    _check_ratings(raw.ratings, where)
    for table, id_column in ((raw.users, "user_id"), (raw.items, "item_id")):
        _check_ids(raw, table, id_column, where)
    return editions[raw.ratings.num_rows]


def _check_ratings(ratings: pa.Table, where: str) -> None:
    for column in RATING_TYPES:
        _reject(pc.is_null(ratings[column], nan_is_null=True), where, f"has no {column}", ratings)
    rating_N = ratings["rating"].to_numpy()
    out_of_range_N = (rating_N < MIN_RATING) | (rating_N > MAX_RATING)
    _reject(out_of_range_N, where, f"is not within {MIN_RATING}..{MAX_RATING:g}", ratings)
    timestamp_N = ratings["timestamp"].to_numpy()
    out_of_time_N = (timestamp_N <= 0) | (timestamp_N > MAX_TIMESTAMP)
    _reject(out_of_time_N, where, "has a timestamp that is not in seconds since 1970", ratings)
    _reject(_repeated(ratings), where, "repeats a (user, item) pair", ratings)


def _repeated(ratings: pa.Table) -> np.ndarray:
    """True for each rating whose (user, item) pair stands earlier in the file."""
    user_N, item_N = ratings["user_id"].to_numpy(), ratings["item_id"].to_numpy()
    order_N = np.lexsort((item_N, user_N))  # stable: equal pairs stay in file order
    user_N, item_N = user_N[order_N], item_N[order_N]
    repeated_N = np.zeros(len(order_N), dtype=bool)
    repeated_N[order_N[1:]] = (user_N[1:] == user_N[:-1]) & (item_N[1:] == item_N[:-1])
    return repeated_N


def _reject(bad_N: Any, where: str, why: str, ratings: pa.Table) -> None:
    bad_rows = np.flatnonzero(np.asarray(bad_N))
    if len(bad_rows):
        first = int(bad_rows[0])
        values = ", ".join(f"{key}={value}" for key, value in ratings.slice(first, 1).to_pylist()[0].items())
        message = f"{where}: rating {first + 1} ({values}) {why} ({len(bad_rows):,} such); download it again"
        raise DataError(message)


def _check_ids(raw: Raw, table: pa.Table, id_column: str, where: str) -> None:
    ids = table[id_column].combine_chunks()
    if ids.null_count or len(ids.unique()) != len(ids):
        message = f"{where}: {id_column} missing or repeated among {len(ids):,} rows; download it again"
        raise DataError(message)
    rated = pc.unique(raw.ratings[id_column])
    strangers = rated.filter(pc.invert(pc.is_in(rated, value_set=ids)))
    if len(strangers):
        message = (
            f"{where}: {len(strangers):,} values of {id_column} occur in ratings only, "
            f"{strangers[0].as_py()} first; take all files from one edition"
        )
        raise DataError(message)
