"""From YAML fields to tables: sizes, sharing, and what is refused."""

from typing import Any

import pytest

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.optimizers import SGD
from recsys.tables import build_table, plan_tables
from recsys.tables.table import TableConfig

USER = Feature(name="user", kind="id", source="user.id", num_embeddings=100)
ITEM = Feature(name="item", kind="id", source="item.id", num_embeddings=50)
LIKED = Feature(name="liked", kind="bag", source="user.likes", table="item", num_embeddings=60)
GENRE = Feature(name="genre", kind="bag", source="item.genres", vocabulary=("drama", "comedy", "war"))
UNSIZED = Feature(name="query", kind="id", source="profile.query")


def plan(features: list[Feature], **fields: Any) -> list[TableConfig]:
    return plan_tables(fields, features, optimizer=SGD(learning_rate=1.0), seed=0)


def num_rows(table: TableConfig) -> int | None:
    (group,) = build_table(table).groups
    return group.num_rows


def test_features_of_one_vocabulary_share_a_table_of_the_larger_size() -> None:
    tables = plan([USER, ITEM, LIKED, GENRE], kind="full", embedding_dim=4)
    assert [(t.name, t.feature_names, num_rows(t)) for t in tables] == [
        ("user", ("user",), 100),
        ("item", ("item", "liked"), 60),
        ("genre", ("genre",), 3),
    ]
    assert {(t.embedding_dim, t.pooling, t.absent, t.initial.scale) for t in tables} == {(4, "mean", "initial", 0.05)}
    assert len({t.seed for t in tables}) == 3
    assert tables[0].seed == hashing.seed_of(0, "user")


@pytest.mark.parametrize(("compression", "rows"), [(1, 100), (4, 25), (3, 34), (1000, 1)])
def test_compression_divides_a_hash_tables_rows(compression: float, rows: int) -> None:
    assert [num_rows(t) for t in plan([USER], kind="hash", compression=compression)] == [rows]


def test_a_number_of_buckets_goes_before_compression() -> None:
    assert num_rows(plan([USER], kind="hash", num_buckets=7, compression=2)[0]) == 7


def test_unified_counts_each_vocabulary_once_in_bytes_of_the_full_tables() -> None:
    features = [
        USER,
        ITEM,
        Feature(name="liked", kind="bag", source="user.likes", table="item", num_embeddings=50),
    ]
    (table,) = plan(features, kind="unified", embedding_dim=8, num_chunks=4, compression=2)
    (group,) = build_table(table).groups
    assert (group.num_rows, group.width) == (300, 2)  # 150 ids x 8 floats / 2 = 300 rows x 2 floats
    assert table.feature_names == ("user", "item", "liked")
    (larger,) = plan([USER, LIKED, ITEM], kind="unified", num_chunks=1)  # liked declares 60 of item's vocabulary
    assert num_rows(larger) == 160


def test_sizes_that_are_not_known_need_none_where_the_kind_needs_none() -> None:
    assert num_rows(plan([UNSIZED], kind="collisionless")[0]) is None
    assert num_rows(plan([UNSIZED], kind="hash", num_buckets=9)[0]) == 9
    assert num_rows(plan([UNSIZED], kind="unified", num_rows=9)[0]) == 9


@pytest.mark.parametrize(
    ("features", "fields", "message"),
    [
        ([USER], {"kind": "fulll"}, "unknown table.kind 'fulll'; known: full, hash, unified, collisionless, "),
        ([USER], {"embedding_dim": 4}, "unknown table.kind None; known: full"),
        (
            [USER],
            {"kind": "full", "compression": 4},
            "unknown field 'table.compression'; known: kind, embedding_dim, .*row_format, initial_scale$",
        ),
        (
            [USER],
            {"kind": "hash", "buckets": 4},
            "unknown field 'table.buckets'; known: .*initial_scale, num_buckets, compression$",
        ),
        ([USER], {"kind": "full", "embedding_dim": 0}, "table.embedding_dim=0: give a whole number of at least 1"),
        ([USER], {"kind": "full", "embedding_dim": "abc"}, "table.embedding_dim='abc': give a whole number"),
        ([USER], {"kind": "hash", "num_buckets": 2.5}, "table.num_buckets=2.5: give a whole number"),
        ([USER], {"kind": "unified", "num_chunks": "two"}, "table.num_chunks='two': give a whole number"),
        ([USER], {"kind": "full", "pooling": "max"}, "table.pooling='max': give sum or mean"),
        ([USER], {"kind": "full", "initial_scale": -1}, "table.initial_scale=-1: give a number of at least 0"),
        ([USER], {"kind": "full", "absent": "null"}, "table.absent='null': give initial or zeros"),
        ([UNSIZED], {"kind": "full"}, "table 'query' .kind=full.: num_embeddings is None; set the feature's"),
        (
            [UNSIZED],
            {"kind": "hash"},
            "table 'query' .kind=hash.: num_buckets is None; set num_buckets",
        ),
        ([USER], {"kind": "hash", "num_buckets": 0}, "table.num_buckets=0: give a whole number of at least 1"),
        ([USER], {"kind": "hash", "num_buckets": -5}, "table.num_buckets=-5: give a whole number of at least 1"),
        ([USER], {"kind": "hash", "compression": 0.5}, "table.compression=0.5: give a number of at least 1"),
        ([USER], {"kind": "hash", "compression": float("nan")}, "table.compression=NaN: give a number of at least 1"),
        ([USER, UNSIZED], {"kind": "unified"}, "num_embeddings of query is not known; set table.num_rows"),
        ([USER], {"kind": "unified", "num_rows": 0}, "table.num_rows=0: give a whole number of at least 1"),
        (
            [USER],
            {"kind": "unified", "embedding_dim": 8, "num_chunks": 3},
            "8 must be a multiple of num_chunks 3",
        ),
        ([USER], {"kind": "unified", "num_chunks": 0}, "table.num_chunks=0: give a whole number of at least 1"),
    ],
)
def test_mistakes_are_told(features: list[Feature], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        [build_table(table) for table in plan(features, **fields)]
    assert "\n" not in str(raised.value)
