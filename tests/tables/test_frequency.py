"""Hot ids have a row of their own, from their N-th occurrence on; mixed dimensions go by how many ids there are."""

import numpy as np
import pytest
import torch

from recsys.batches.batch import Bag
from recsys.features.declarations import Feature
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adam, Optimizer
from recsys.tables import build_table, plan_tables
from recsys.tables.embeddings import Embeddings
from recsys.tables.frequency import FrequencyConfig
from recsys.tables.mde import MDEConfig


def tables(optimizer: Optimizer, **fields: int) -> tuple[Embeddings, LocalRows]:
    config = FrequencyConfig(
        name="t",
        embedding_dim=4,
        feature_names=("f",),
        optimizer=optimizer,
        **{"hot_rows": 10, "num_buckets": 1, "occurrences": 3, **fields},
    )
    embeddings = Embeddings([config])
    return embeddings, LocalRows(list(embeddings.groups.values()))


def learn(embeddings: Embeddings, store: LocalRows, ids: list[int]) -> None:
    """A step whose gradient is one for every number of every vector."""
    looked = embeddings.lookup({"f": Bag.of_lists([ids])}, store)
    embeddings.pool(looked)["t", "f"].sum().backward()
    store.push(looked.gradients(), 0)


def rows(store: LocalRows, id_: int) -> tuple[np.ndarray, np.ndarray]:
    """The id's own row (NaN where it has none), and the shared one."""
    pulled = store.pull({"t.hot": np.array([id_]), "t": np.array([0])})
    return pulled["t.hot"][0], pulled["t"][0]


def test_the_third_occurrence_makes_an_id_hot_and_it_learns_alone_from_then_on() -> None:
    embeddings, store = tables(SGD(learning_rate=1.0))
    shared = rows(store, 0)[1]
    learn(embeddings, store, [7, 7])
    assert np.isnan(rows(store, 7)[0]).all()
    np.testing.assert_array_equal(rows(store, 7)[1], shared - 2)
    learn(embeddings, store, [7])  # read as shared, counted, and hot after
    np.testing.assert_array_equal(rows(store, 7)[1], shared - 3)
    hot, group = rows(store, 7)[0], embeddings.groups["t.hot"]
    np.testing.assert_array_equal(hot, group.initial.rows(np.array([7]), 4, group.seed)[0])
    np.testing.assert_array_equal(embeddings.embed("t", "f", np.array([7]), store)[0].numpy(), hot)
    learn(embeddings, store, [7, 8])
    np.testing.assert_array_equal(rows(store, 7)[0], hot - 1)
    np.testing.assert_allclose(rows(store, 7)[1], shared - 4, rtol=1e-6)  # 8's


def test_a_hot_ids_gradient_touches_its_own_row_alone_whatever_the_optimizer_remembers() -> None:
    embeddings, store = tables(Adam(learning_rate=0.1))
    learn(embeddings, store, [7, 7, 7])
    own, shared = rows(store, 7)
    touched = store.snapshot().groups["t"].sequences_U
    learn(embeddings, store, [7])
    assert (rows(store, 7)[0] != own).all()
    np.testing.assert_array_equal(rows(store, 7)[1], shared)  # Adam's momentum would have moved it
    np.testing.assert_array_equal(store.snapshot().groups["t"].sequences_U, touched)


def test_the_least_used_leave_for_new_hot_ids_and_read_the_shared_row_again() -> None:
    embeddings, store = tables(SGD(learning_rate=1.0), hot_rows=2, occurrences=1)
    for ids in ([1, 1, 1], [2, 2], [1, 2], [1], [3]):
        learn(embeddings, store, ids)
    assert store.num_rows() == {"t.hot": 2, "t": 1}
    assert np.isnan(rows(store, 2)[0]).all() and not np.isnan(rows(store, 1)[0]).any()
    np.testing.assert_array_equal(embeddings.embed("t", "f", np.array([2]), store)[0].numpy(), rows(store, 2)[1])


# --- mixed dimensions

FEATURES = [
    Feature(name=name, kind="id", source=f"profile.{name}", num_embeddings=num)
    for name, num in (("a", 10), ("b", 1000), ("c", 100_000))
]


def widths(**fields: object) -> list[int]:
    planned = plan_tables(
        {"kind": "mde", "embedding_dim": 16, **fields}, FEATURES, optimizer=SGD(learning_rate=1.0), seed=0
    )
    return [build_table(config).groups[0].width for config in planned]


def test_widths_fall_with_the_number_of_ids() -> None:
    assert widths(alpha=0) == [16, 16, 16]
    assert [int(16 * num**-0.3) or 1 for num in (10, 1000, 100_000)] == [8, 2, 1]
    assert widths(alpha=0.3) == [16, 2, 1]  # of ten ids, 8 of 16 numbers and a projection would be more
    assert widths(alpha=1) == [1, 1, 1]


def test_a_budget_widens_all_by_one_factor() -> None:
    assert widths(alpha=0.3, compression=3.8) == [16, 16, 4]  # 1000 ids would have 4 times as many as 100,000
    assert widths(alpha=0, compression=4) == [3, 3, 3]  # four would be all of it, and the projections are counted
    assert widths(alpha=0, compression=1) == [16, 16, 16]


def test_a_narrow_row_is_projected_and_a_wide_one_is_as_it_is() -> None:
    for width in (3, 8):
        table = build_table(
            MDEConfig(
                name="t", embedding_dim=8, feature_names=("f",), optimizer=SGD(learning_rate=1.0),
                num_embeddings=50, row_width=width,
            )
        )  # fmt: skip
        rows_N1W = torch.randn(5, 1, width, generator=torch.Generator().manual_seed(0))
        found = table.compose("f", torch.arange(5), {"t": rows_N1W})
        projections = dict(table.named_parameters())
        expected = rows_N1W[:, 0] @ projections["projection"] if width < 8 else rows_N1W[:, 0]
        torch.testing.assert_close(found, expected)
        assert (width < 8) == bool(projections)


def test_projected_rows_are_as_large_as_full_ones() -> None:
    table = build_table(
        MDEConfig(
            name="t", embedding_dim=64, feature_names=("f",), optimizer=SGD(learning_rate=1.0),
            num_embeddings=5000, row_width=16,
        )
    )  # fmt: skip
    store = LocalRows(list(table.groups))
    rows_NW = torch.from_numpy(store.pull({"t": np.arange(5000)})["t"])
    vectors_ND = table.compose("f", torch.arange(5000), {"t": rows_NW[:, None]})
    assert float(vectors_ND.detach().std()) == pytest.approx(0.05 / np.sqrt(3), rel=0.1)
