"""Hashed addresses: salts that come from names, and how full the rows get."""

import numpy as np
import pytest
import torch

from recsys.features.declarations import Feature
from recsys.rows.optimizers import SGD
from recsys.tables import build_table, plan_tables
from recsys.tables.hash import HashConfig
from recsys.tables.table import Table

IDS = torch.tensor([0, 1, 7, 2**62, -5])
NAMES = {name: Feature(name=name, kind="id", source=f"profile.{name}") for name in ("a", "b", "c", "d")}
SHARED = Feature(name="a_too", kind="bag", source="profile.a", table="a")


def unified(features: list[Feature], num_chunks: int = 2, num_rows: int = 10**6, seed: int = 0) -> Table:
    fields = {"kind": "unified", "embedding_dim": 8, "num_rows": num_rows, "num_chunks": num_chunks}
    (config,) = plan_tables(fields, features, optimizer=SGD(learning_rate=1.0), seed=seed)
    return build_table(config)


def keys_of(table: Table, feature: str, ids_N: torch.Tensor = IDS) -> list[list[int]]:
    keys: list[list[int]] = table.address(feature, ids_N)["unified"].tolist()
    return keys


def test_adding_removing_and_reordering_features_moves_no_others() -> None:
    a, b, c, d = NAMES.values()
    before = unified([a, b, c])
    for others in ([c, a, b], [a, d, b, c], [a], [d, SHARED, a]):
        after = unified(others)
        for feature in {"a", "b", "c"} & set(after.config.feature_names):
            assert keys_of(after, feature) == keys_of(before, feature)


def test_one_raw_value_under_two_features_has_two_rows() -> None:
    table = unified([NAMES["a"], NAMES["b"]])
    for ours, theirs in zip(keys_of(table, "a"), keys_of(table, "b"), strict=True):
        assert not set(ours) & set(theirs)


def test_a_shared_vocabulary_has_the_same_rows() -> None:
    table = unified([NAMES["a"], SHARED])
    assert keys_of(table, "a") == keys_of(table, "a_too")


def test_chunks_are_hashed_apart() -> None:
    keys_NK = np.array(keys_of(unified([NAMES["a"]], num_chunks=4), "a", torch.arange(1000)))
    assert keys_NK.shape == (1000, 4)
    for one in range(4):
        for other in range(one):
            assert (keys_NK[:, one] == keys_NK[:, other]).sum() <= 2  # by chance 1000 / 10⁶ of the time


def test_more_chunks_keep_the_first() -> None:
    two, four = (np.array(keys_of(unified([NAMES["a"]], num_chunks=chunks), "a")) for chunks in (2, 4))
    assert (four[:, :2] == two).all()


def test_the_seed_moves_everything() -> None:
    assert keys_of(unified([NAMES["a"]]), "a") != keys_of(unified([NAMES["a"]], seed=1), "a")


def test_compose_puts_chunks_side_by_side() -> None:
    table = unified([NAMES["a"]])
    rows_NKW = torch.arange(16.0).reshape(2, 2, 4)
    assert table.compose("a", IDS[:2], {"unified": rows_NKW}).tolist() == [
        list(map(float, range(8))),
        list(map(float, range(8, 16))),
    ]


@pytest.mark.parametrize("kind", ["hash", "unified"])
@pytest.mark.parametrize("ids", ["in a row", "even", "random"])
def test_n_ids_in_m_rows_fill_as_many_as_chance_would(kind: str, ids: str) -> None:
    """M (1 - (1 - 1/M)^N) = 632.3 rows for N = M = 1000; one draw has a standard deviation of 9.9."""
    num_ids = num_rows = 1000
    expected = num_rows * (1 - (1 - 1 / num_rows) ** num_ids)
    assert expected == pytest.approx(632.3, abs=0.05)
    choices = {
        "in a row": torch.arange(num_ids),
        "even": torch.arange(num_ids) * 4096,
        "random": torch.randint(-(2**62), 2**62, (num_ids,), generator=torch.Generator().manual_seed(0)),
    }
    filled = []
    for seed in range(30):
        if kind == "unified":
            table = unified([NAMES["a"]], num_chunks=1, num_rows=num_rows, seed=seed)
        else:
            table = build_table(
                HashConfig(
                    name="hash",
                    embedding_dim=1,
                    feature_names=("a",),
                    optimizer=SGD(learning_rate=1.0),
                    num_buckets=num_rows,
                    seed=seed,
                )
            )
        filled.append(len(torch.unique(table.address("a", choices[ids])[kind])))
    assert np.mean(filled) == pytest.approx(expected, abs=4 * 9.9 / np.sqrt(30))
    assert 4 < np.std(filled) < 16
