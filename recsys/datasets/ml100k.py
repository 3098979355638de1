"""MovieLens 100K in three layouts: its owner's, a Parquet copy, and the copy inside the `recbole` wheel.

Legend: N items, G genres.
"""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.datasets.raw import RATING_TYPES, Raw, items_table, read_delimited, read_parquet, require_files
from recsys.errors import DataError

# The flags of u.item in their order there (u.genre).
GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
USER_TYPES = {
    "user_id": pa.int64(),
    "age": pa.int64(),
    "gender": pa.string(),
    "occupation": pa.string(),
    "zip_code": pa.string(),
}
_ITEM_HEADER = ["movie_id", "movie_title", "release_date", "video_release_date", "IMDb_URL", *GENRES]
_ITEM_TYPES = {
    "movie_id": pa.int64(),
    "movie_title": pa.string(),
    "release_date": pa.string(),
    **dict.fromkeys(GENRES, pa.int64()),
}

WHEEL = "recbole==1.2.1"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
_WHEEL_UNKNOWN = "unkonwn"  # so spelled in the wheel, for the one item that u.item calls "unknown"


def find(folder: Path) -> Raw | None:
    """MovieLens 100K out of one folder, or None where neither ``u.data`` nor ``ratings.parquet`` is in it."""
    if (folder / "u.data").is_file():
        return read_owner_layout(folder)
    return read_parquet_layout(folder) if (folder / "ratings.parquet").is_file() else None


def read_owner_layout(folder: Path) -> Raw:
    """The published ``ml-100k`` folder: u.data, u.item and u.user, in Latin-1."""
    require_files(folder, ["u.data", "u.item", "u.user"])
    ratings = _read_headless(folder / "u.data", RATING_TYPES, delimiter="\t", header=list(RATING_TYPES))
    users = _read_headless(folder / "u.user", USER_TYPES, delimiter="|", header=list(USER_TYPES))
    items = _read_headless(folder / "u.item", _ITEM_TYPES, delimiter="|", header=_ITEM_HEADER)
    return Raw(ratings=ratings, users=users, items=_items(items), source=f"{folder} (u.data, u.item, u.user)")


def _read_headless(path: Path, types: dict[str, pa.DataType], delimiter: str, header: list[str]) -> pa.Table:
    return read_delimited(path, str(path), types, delimiter=delimiter, header=header, encoding="latin-1")


def read_parquet_layout(folder: Path) -> Raw:
    """The same three tables as ratings.parquet, items.parquet and users.parquet."""
    require_files(folder, ["ratings.parquet", "items.parquet", "users.parquet"])
    types = {"movie_id" if name == "item_id" else name: kind for name, kind in RATING_TYPES.items()}
    ratings = read_parquet(folder / "ratings.parquet", types).rename_columns(list(RATING_TYPES))
    users = read_parquet(folder / "users.parquet", USER_TYPES)
    items = read_parquet(folder / "items.parquet", _ITEM_TYPES)
    return Raw(ratings=ratings, users=users, items=_items(items), source=f"{folder} (Parquet)")


def _items(table: pa.Table) -> pa.Table:
    flags_NG = np.stack([table[genre].fill_null(0).to_numpy() for genre in GENRES], axis=1)
    dates = table["release_date"].to_pylist()
    return items_table(
        table["movie_id"].combine_chunks(),
        table["movie_title"].to_pylist(),
        _genres_of_flags(flags_NG),
        [int(date[-4:]) if date and date[-4:].isdecimal() else None for date in dates],  # 01-Jan-1995
    )


def _genres_of_flags(flags_NG: np.ndarray) -> pa.Array:
    item_of_flag, genre_of_flag = np.nonzero(flags_NG)
    offsets = np.searchsorted(item_of_flag, np.arange(len(flags_NG) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(GENRES).take(pa.array(genre_of_flag)))


def read_wheel(wheel: Path) -> Raw:
    """The example data inside the `recbole` wheel: tab-separated files with a type beside each column's name.

    Ratings and users are those of the owner, row for row. Titles have lost their year, which stands in a
    column of its own; they are put together again, so that the tables equal those of the other layouts.
    """
    ratings_types = {f"{name}:{_wheel_type(name)}": kind for name, kind in RATING_TYPES.items()}
    users_types = {f"{name}:token": kind for name, kind in USER_TYPES.items()}
    items_types = {
        "item_id:token": pa.int64(),
        "movie_title:token_seq": pa.string(),
        "release_year:token": pa.string(),
        "class:token_seq": pa.string(),
    }
    try:
        with zipfile.ZipFile(wheel) as archive:
            ratings = _read_member(archive, f"{_WHEEL_FOLDER}.inter", ratings_types)
            users = _read_member(archive, f"{_WHEEL_FOLDER}.user", users_types)
            items = _read_member(archive, f"{_WHEEL_FOLDER}.item", items_types)
    except (zipfile.BadZipFile, KeyError) as error:
        message = f"{wheel.name}: not the {WHEEL} wheel with MovieLens 100K inside ({error.args[0]})"
        raise DataError(message) from error
    return Raw(
        ratings=ratings.rename_columns(list(RATING_TYPES)),
        users=users.rename_columns(list(USER_TYPES)),
        items=_wheel_items(items),
        source=f"the published wheel {wheel.name}",
    )


def _wheel_type(column: str) -> str:
    return "token" if column.endswith("_id") else "float"


def _read_member(archive: zipfile.ZipFile, member: str, types: dict[str, pa.DataType]) -> pa.Table:
    return read_delimited(io.BytesIO(archive.read(member)), member, types, delimiter="\t")


def _wheel_items(table: pa.Table) -> pa.Table:
    ids, titles, years, genres = (table[name] for name in table.column_names)
    whole_titles = list(map(_whole_title, titles.to_pylist(), years.to_pylist()))
    genre_lists = pa.array([names.split() for names in genres.to_pylist()], pa.list_(pa.string()))
    return items_table(ids.combine_chunks(), whole_titles, genre_lists, [None] * len(whole_titles))


def _whole_title(title: str, year: str) -> str:
    return "unknown" if year == _WHEEL_UNKNOWN else f"{title} ({year})"


def download_wheel(folder: Path, timeout_seconds: float = 300) -> Path:
    """Let pip fetch the wheel into ``folder`` (2 MB, nothing is installed or built) and return its path.

    DataError with pip's last line where pip is absent, fails, or takes longer than ``timeout_seconds``.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), WHEEL]
    try:
        pip = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        message = f"pip download {WHEEL} took longer than {timeout_seconds:g} s"
        raise DataError(message) from error
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        last_line = (pip.stderr.strip().splitlines() or ["no output"])[-1]
        message = f"pip download {WHEEL} failed: {last_line}"
        raise DataError(message)
    return wheels[0]
