"""CCE by value: which rows are summed, what clustering changes, and what is counted."""

from typing import Any

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import Snapshot, fresh_rows
from recsys.tables import build_table, plan_tables
from recsys.tables.cce import CCE
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.embeddings import Embeddings

NUM_IDS, K = 500, 8


def cce(clusters: np.ndarray | None = None, **fields: Any) -> CCE:
    described = {"kind": "cce", "embedding_dim": 6, "num_clusters": K, "num_chunks": 3, "initial_scale": 1.0, **fields}
    if clusters is not None:
        made = CodeMap(method="cce", data="d", tables={"item": IdCodes.of(clusters, K)})
        described |= {"map": made.to_json(), "round": 1}
    item = Feature(name="item", kind="id", source="item.id", num_embeddings=NUM_IDS)
    table = build_table(plan_tables(described, [item], optimizer=SGD(learning_rate=1.0), seed=3)[0])
    assert isinstance(table, CCE)
    return table


def keys_of(table: CCE, *ids: int) -> np.ndarray:
    return table.address("item", torch.tensor(ids))["item"].numpy()


def drawn_clusters() -> np.ndarray:
    return np.random.default_rng(0).integers(0, K, (NUM_IDS, 3))


def test_a_vector_is_sums_of_two_rows_side_by_side() -> None:
    table = cce()
    rows = torch.randn(3 * 2 * K, 2, generator=torch.Generator().manual_seed(0))
    keys = keys_of(table, 7, 499, 7)
    found = table.compose("item", torch.tensor([7, 499, 7]), {"item": rows[torch.from_numpy(keys)]})
    for at, mine in enumerate(keys):
        expected = torch.cat([rows[mine[2 * chunk]] + rows[mine[2 * chunk + 1]] for chunk in range(3)])
        torch.testing.assert_close(found[at], expected)


def test_each_table_of_each_chunk_has_rows_and_a_hash_of_its_own() -> None:
    keys = keys_of(cce(), *range(NUM_IDS))
    for column in range(6):
        assert keys[:, column].min() == column * K and keys[:, column].max() == column * K + K - 1
        counts = np.bincount(keys[:, column] - column * K, minlength=K)
        assert (abs(counts - NUM_IDS / K) < 5 * np.sqrt(NUM_IDS / K)).all()
        for other in range(column):
            same = (keys[:, column] - column * K == keys[:, other] - other * K).mean()
            assert abs(same - 1 / K) < 5 * np.sqrt(1 / K / NUM_IDS)


def test_clusters_are_the_first_tables_and_the_second_ones_hash_is_new() -> None:
    clusters = drawn_clusters()
    before, after = keys_of(cce(), *range(NUM_IDS)), keys_of(cce(clusters), *range(NUM_IDS))
    np.testing.assert_array_equal(after[:, ::2] % K, clusters)
    for column in (1, 3, 5):
        assert abs((before[:, column] == after[:, column]).mean() - 1 / K) < 0.08
    # ids that were not there, or are no ids of the table's
    unknown = [NUM_IDS, 10**12, -1]
    np.testing.assert_array_equal(keys_of(cce(clusters), *unknown)[:, ::2], keys_of(cce(), *unknown)[:, ::2])


def test_after_clustering_a_vector_is_the_mean_of_its_clusters_chunk_by_chunk() -> None:
    clusters = drawn_clusters()
    clusters[:, 1] %= 3  # five clusters of this chunk are empty
    table = cce(clusters)
    vectors = torch.randn(NUM_IDS, 6, generator=torch.Generator().manual_seed(1))
    rows = table.rows_of(vectors, clusters).numpy()
    assert np.isfinite(rows).all() and rows.shape == (3 * 2 * K, 2)
    embeddings = Embeddings([table.config])
    store = LocalRows(list(embeddings.groups.values()))
    store.restore(Snapshot((1,), {"item": fresh_rows(table.groups[0], np.arange(len(rows)), rows)}))
    found = embeddings.embed("item", "item", np.arange(NUM_IDS), store)
    for chunk in range(3):
        part = slice(2 * chunk, 2 * chunk + 2)
        for cluster in range(K):
            mine = torch.from_numpy(clusters[:, chunk] == cluster)
            if mine.any():
                expected = vectors[mine, part].mean(0).expand(int(mine.sum()), 2)
                torch.testing.assert_close(found[mine, part], expected, atol=1e-5, rtol=1e-4)


def test_the_clusters_are_counted_before_they_are_there() -> None:
    before, after = cce(), cce(drawn_clusters())
    assert before.nbytes("serving") == after.nbytes("serving")
    served = after.nbytes("serving")
    assert (served.rows, served.maps) == (4 * 2 * 3 * 2 * K, (NUM_IDS * 3 * 3 + 7) // 8 + 8)
    assert before.map_bytes("training") == 0 and after.map_bytes("training") == served.maps
    companion = build_table(after.config.narrowed(SGD(learning_rate=1.0)))
    assert companion.nbytes("serving").total == 4 * 2 * K
    (keys,) = companion.address("item", torch.tensor([7])).values()
    assert int(keys[0, 0]) == drawn_clusters()[7, 0]


@pytest.mark.parametrize("budget", [2000, 3000, 6000])
def test_a_budget_says_how_many_clusters(budget: int) -> None:
    table = cce(num_clusters=None, budget=budget)
    more = cce(num_clusters=table.num_clusters + 1)
    assert table.nbytes("serving").total <= budget < more.nbytes("serving").total


def test_what_can_not_be_is_said() -> None:
    with pytest.raises(ConfigError, match="embedding_dim 6 must be a multiple of num_chunks 4"):
        cce(num_chunks=4)
    with pytest.raises(ConfigError, match=r"table\.num_chunks=2, and table\.map has clusters of 3 for 'item'"):
        cce(drawn_clusters(), num_chunks=2)
