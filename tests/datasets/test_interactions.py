"""Interactions out of each format, counts checked, and the published files where RECSYS_DATA has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from composing import composed

from recsys.datasets.interaction_files import InteractionFiles
from recsys.datasets.interactions import Interactions, read_interactions
from recsys.errors import ConfigError, DataError
from recsys.fields import build


def files(**fields: Any) -> InteractionFiles:
    return build(InteractionFiles, {"name": "small", "folder": "small", **fields}, "interactions")


def pairs_of(pairs: Any) -> list[tuple[int, int]]:
    return sorted(zip(pairs.users_E.tolist(), pairs.items_E.tolist(), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small = tmp_path / "small"
    small.mkdir()
    for name, lists in {"train": [[0, 1, 2], [3]], "valid": [[1], []], "test": [[4], [0]]}.items():
        table = pa.table({"user": pa.array([0, 1], pa.int32()), "items": pa.array(lists, pa.list_(pa.int32()))})
        pq.write_table(table, small / f"{name}.parquet")
    (small / "train.txt").write_text("".join(f"{1 + user}\t{item}\t7\n" for user in range(3) for item in range(20)))
    (small / "test.txt").write_text("1\t21\t9\n")
    return tmp_path


LISTS = {"format": "lists", "train": "train.parquet", "valid": "valid.parquet", "test": "test.parquet"}
TRIPLES = {"format": "triples", "train": "train.txt", "test": "test.txt"}


def test_lists_with_a_validation_file(folder: Path) -> None:
    found = read_interactions(files(**LISTS, num_train=4), folder, seed=0)
    assert (found.num_users, found.num_items) == (2, 5)
    assert pairs_of(found.train) == [(0, 0), (0, 2), (1, 3)]  # without the pair that validates
    assert (pairs_of(found.valid), pairs_of(found.test)) == ([(0, 1)], [(0, 4), (1, 0)])


def test_triples_give_a_tenth_of_each_user_s_pairs_by_chance(folder: Path) -> None:
    found = read_interactions(files(**TRIPLES), folder, seed=0)
    assert (found.num_users, found.num_items) == (4, 22)
    assert np.bincount(found.valid.users_E).tolist() == [0, 2, 2, 2]
    assert len(found.train.users_E) == 54 and not set(pairs_of(found.train)) & set(pairs_of(found.valid))
    again, other = (read_interactions(files(**TRIPLES), folder, seed=seed) for seed in (0, 1))
    assert pairs_of(again.valid) == pairs_of(found.valid) != pairs_of(other.valid)


def test_mistakes_are_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="lists and triples have both files"):
        files(format="lists")
    with pytest.raises(DataError, match=r"4 train pairs found, 5 are published; download it again"):
        read_interactions(files(**LISTS, num_train=5), folder, seed=0)
    with pytest.raises(DataError, match=r"test has item 4 of 4; raise num_items"):
        read_interactions(files(**LISTS, num_items=4), folder, seed=0)
    with pytest.raises(DataError, match="RECSYS_DATA is not set"):
        read_interactions(files(**LISTS), None, seed=0)
    with pytest.raises(DataError, match=r"other\.parquet is missing; put the published file there"):
        read_interactions(files(**{**LISTS, "train": "other.parquet"}), folder, seed=0)
    with pytest.raises(DataError, match=r"train\.txt can not be read"):
        read_interactions(files(**{**LISTS, "train": "train.txt"}), folder, seed=0)
    with pytest.raises(DataError, match="no archive of an online run"):
        read_interactions(files(format="archive", folder=str(folder)), None, seed=0)


def test_likes_of_a_prepared_set_are_cut_by_time(films: Path) -> None:
    prepared = files(name="ml100k", format="prepared", folder=str(films), first=0.8)
    found = read_interactions(prepared, None, seed=0)
    shown = {row["request_id"]: row for row in pq.read_table(films / "impressions.parquet").to_pylist()}
    liked = [shown[row["request_id"]] for row in pq.read_table(films / "actions.parquet").to_pylist()]  # in time order
    pairs = list(dict.fromkeys((row["user_id"], row["item_id"]) for row in liked))
    likes = len(pairs)
    whole = read_interactions(files(name="ml100k", format="prepared", folder=str(films)), None, seed=0)
    assert len(whole.train.users_E) + len(whole.valid.users_E) == likes and not len(whole.test.users_E)
    assert sorted(pairs_of(found.train) + pairs_of(found.valid)) == sorted(pairs[: int(0.8 * likes)])
    assert pairs_of(found.test) == sorted(pairs[int(0.8 * likes) :])


def test_an_archive_s_positive_examples_are_interactions(tmp_path: Path) -> None:
    hour = tmp_path / "hour=2026-01-31T12"
    hour.mkdir()
    rows = {"user_id": ["1", "2", "1"], "item_id": ["5", "5", "6"], "label": [1.0, 0.0, 1.0], "emitted_ms": [9, 8, 7]}
    pq.write_table(pa.table(rows), hour / "worker-0000-000000.parquet")
    archive = files(format="archive", folder=str(tmp_path), valid_fraction=0)
    assert pairs_of(read_interactions(archive, None, seed=0).train) == [(1, 5), (1, 6)]
    pq.write_table(pa.table({**rows, "user_id": ['"a', "2", "1"]}), hour / "worker-0000-000000.parquet")
    with pytest.raises(DataError, match="has ids that are texts; a bucket map needs numbers"):
        read_interactions(archive, None, seed=0)


def test_positive_plain_examples_of_the_train_part_are_interactions(tmp_path: Path) -> None:
    rows = {"user": [1, 2, 1, 1], "item": [5, 5, 6, 5], "label": [1.0, 0.0, 1.0, 1.0]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    examples = files(format="examples", folder=str(tmp_path), valid_fraction=0)
    found = read_interactions(examples, None, seed=0)
    assert pairs_of(found.train) == [(1, 5), (1, 6)] and not len(found.valid.users_E) + len(found.test.users_E)
    assert (found.num_users, found.num_items) == (2, 7)
    pq.write_table(pa.table({"user": [[1], [2]], "item": [5, 5], "label": [1.0, 1.0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="has bags of users or of items"):
        read_interactions(examples, None, seed=0)
    pq.write_table(pa.table({"C1": [1], "item": [5]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="has no column user and label"):
        read_interactions(examples, None, seed=0)


def published(name: str, data: Path) -> Interactions:
    declared = composed("retrieve", f"interactions={name}")["interactions"]
    if not (data / declared["folder"]).is_dir():
        pytest.skip(f"RECSYS_DATA has no {declared['folder']}")
    return read_interactions(build(InteractionFiles, declared, "interactions"), data, seed=0)


@pytest.mark.parametrize(
    ("name", "learned", "users", "items"),
    [
        ("gowalla", 810_128, 29_858, 40_981),
        pytest.param("yelp2018", 1_237_259, 31_668, 38_048, marks=pytest.mark.long),
        ("lastfm_lightgcn", 42_135, 1_893, 4_490),
    ],
)
def test_published_splits_are_whole(name: str, learned: int, users: int, items: int, real_data_folder: Path) -> None:
    found = published(name, real_data_folder)
    assert len(found.train.users_E) + len(found.valid.users_E) == learned
    assert (found.num_users, found.num_items) == (users, items)
    for one, two in ((found.train, found.valid), (found.train, found.test), (found.valid, found.test)):
        codes = [pairs.users_E * items + pairs.items_E for pairs in (one, two)]
        assert not np.isin(*codes).any()
