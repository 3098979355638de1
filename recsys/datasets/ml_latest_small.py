"""MovieLens latest-small (editions of 2016 and 2018): ratings.csv and movies.csv as published."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recsys.datasets.raw import RATING_TYPES, Raw, items_table, read_delimited, require_files

NO_GENRES = "(no genres listed)"
_RATING_TYPES = dict(zip(["userId", "movieId", "rating", "timestamp"], RATING_TYPES.values(), strict=True))
_MOVIE_TYPES = {"movieId": pa.int64(), "title": pa.string(), "genres": pa.string()}


def find(folder: Path) -> Raw | None:
    """MovieLens latest-small out of one folder, or None where no ``ratings.csv`` is in it."""
    if not (folder / "ratings.csv").is_file():
        return None
    require_files(folder, ["ratings.csv", "movies.csv"])
    ratings = _read(folder / "ratings.csv", _RATING_TYPES).rename_columns(list(RATING_TYPES))
    movies = _read(folder / "movies.csv", _MOVIE_TYPES)
    # Nothing is published about the users but their ids.
    users = pa.table({"user_id": pc.drop_null(pc.unique(ratings["user_id"]))}).sort_by("user_id")
    return Raw(ratings=ratings, users=users, items=_items(movies), source=f"{folder} (ratings.csv, movies.csv)")


def _read(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    return read_delimited(path, str(path), types, delimiter=",", quoted=True)


def _items(movies: pa.Table) -> pa.Table:
    genres = [[] if names == NO_GENRES else names.split("|") for names in movies["genres"].to_pylist()]
    return items_table(
        movies["movieId"].combine_chunks(),
        movies["title"].to_pylist(),
        pa.array(genres, pa.list_(pa.string())),
        [None] * movies.num_rows,
    )
