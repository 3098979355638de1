"""A small prepared data set with a planted pattern: each user likes one genre, and nothing else."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.datasets.prepare import _write
from recsys.datasets.raw import Raw

GENRES = ("Comedy", "Drama", "Horror")


def write_films(folder: Path, *, num_users: int, num_items: int, num_impressions: int, seed: int = 0) -> None:
    """Write it to ``folder`` as ``jobs.prepare`` would: user u likes the films of genre u mod 3."""
    draw = np.random.default_rng(seed)
    users = draw.integers(1, num_users + 1, num_impressions)
    items = draw.integers(1, num_items + 1, num_impressions)
    liked = users % len(GENRES) == items % len(GENRES)
    ratings = pa.table(
        {
            "user_id": pa.array(users, pa.int64()),
            "item_id": pa.array(items, pa.int64()),
            "rating": pa.array(np.where(liked, 5.0, 2.0)),
            "timestamp": pa.array(np.sort(draw.integers(880_000_000, 880_100_000, num_impressions)), pa.int64()),
        }
    )
    item_ids = list(range(1, num_items + 1))
    about_items = pa.table(
        {
            "item_id": pa.array(item_ids, pa.int64()),
            "title": pa.array([f"Film {item_id}" for item_id in item_ids]),
            "genres": pa.array([[GENRES[item_id % len(GENRES)]] for item_id in item_ids]),
            "year": pa.array([1990 + item_id % 8 for item_id in item_ids], pa.int64()),
        }
    )
    about_users = pa.table(
        {
            "user_id": pa.array(range(1, num_users + 1), pa.int64()),
            "age": pa.array([20 + user % 40 for user in range(num_users)], pa.int64()),
            "gender": pa.array(["F" if user % 2 else "M" for user in range(num_users)]),
            "occupation": pa.array(["writer"] * num_users),
            "zip_code": pa.array(["10115"] * num_users),
        }
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    _write("ml100k", "planted", Raw(ratings=ratings, users=about_users, items=about_items, source="planted"), folder)
