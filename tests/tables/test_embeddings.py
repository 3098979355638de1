"""Weighted bags, groups shared by tables, and names."""

import numpy as np
import pytest
import torch

from recsys.batches.batch import Bag
from recsys.errors import ConfigError, DataError
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.policies import FrequencyAdmission
from recsys.rows.store import Snapshot, fresh_rows
from recsys.tables.collisionless import CollisionlessConfig
from recsys.tables.embeddings import Embeddings
from recsys.tables.full import FullConfig
from recsys.tables.table import Pooling


def tables(pooling: Pooling) -> tuple[Embeddings, LocalRows]:
    """Row k of table t is (k, 10 k)."""
    embeddings = Embeddings(
        [
            CollisionlessConfig(
                name="t",
                embedding_dim=2,
                feature_names=("f",),
                pooling=pooling,
                optimizer=SGD(learning_rate=1.0),
            )
        ]
    )
    store = LocalRows(list(embeddings.groups.values()))
    keys = np.arange(5)
    rows = np.stack([keys, 10 * keys], axis=1).astype(np.float32)
    store.restore(Snapshot((0,), {"t": fresh_rows(embeddings.groups["t"], keys, rows)}))
    return embeddings, store


@pytest.mark.parametrize(
    ("lists", "weights", "expected"),
    [
        ([[1, 2], [], [3]], [1, 0.5, 2], [[2, 20], [0, 0], [6, 60]]),
        ([[1], [2]], [3, -1], [[3, 30], [-2, -20]]),  # one id each
        ([[], []], [], [[0, 0], [0, 0]]),
    ],
)
def test_weights_multiply_vectors_before_the_sum(
    lists: list[list[int]], weights: list[float], expected: list[list[float]]
) -> None:
    embeddings, store = tables("sum")
    bag = Bag.of_lists(lists)._replace(weights=np.array(weights, np.float32))
    looked = embeddings.lookup({"f": bag}, store)
    pooled = embeddings.pool(looked)["t", "f"]
    assert pooled.tolist() == expected
    pooled.sum().backward()
    keys_U, gradients_UW = looked.gradients()["t"]
    assert len(keys_U) == len(gradients_UW)
    ids = [id_ for one in lists for id_ in one]
    assert dict(zip(keys_U.tolist(), gradients_UW[:, 0].tolist(), strict=True)) == dict(zip(ids, weights, strict=True))


def test_a_mean_can_not_be_weighted() -> None:
    embeddings, store = tables("mean")
    bag = Bag.of_lists([[1], [2]])._replace(weights=np.ones(2, np.float32))
    with pytest.raises(DataError, match="table 't': ids have weights, but pooling is 'mean'; set pooling: sum"):
        embeddings.pool(embeddings.lookup({"f": bag}, store))


def test_two_tables_of_one_name_are_refused() -> None:
    config = tables("sum")[0].tables["t"].config
    with pytest.raises(ConfigError, match="are not distinct; rename one"):
        Embeddings([config, config])


def test_each_row_is_pulled_once() -> None:
    embeddings, store = tables("sum")
    addressed = embeddings.address({"f": Bag.of_lists([[3, 1, 3], [1]])})
    assert addressed.keys["t"].tolist() == [1, 3]
    looked = embeddings.look(addressed, store.pull(addressed.keys))
    vectors_ND = embeddings.vectors("f", "t", looked)
    assert torch.equal(vectors_ND[:, 0], torch.tensor([3.0, 1.0, 3.0, 1.0]))


def sized(name: str, num_embeddings: int, *features: str) -> FullConfig:
    return FullConfig(
        name=name,
        embedding_dim=2,
        num_embeddings=num_embeddings,
        feature_names=features,
        optimizer=SGD(learning_rate=1.0),
    )


def test_ids_that_a_table_does_not_know_leave_their_bags_with_their_weights() -> None:
    embeddings = Embeddings([sized("t", 5, "f", "g"), sized("smaller", 3, "f")])
    bag = Bag.of_lists([[7, 1, 4], [], [-1], [2]])._replace(weights=np.arange(5, dtype=np.float32))
    whole = Bag.of_lists([[4], [0], [], []])
    kept, num_unknown = embeddings.known_bags({"f": bag, "g": whole, "other": bag})
    assert num_unknown == 3  # 7 once, though neither table knows it; 4, unknown to one; -1
    assert kept["f"].ids_N.tolist() == [1, 2] and kept["f"].offsets.tolist() == [0, 1, 1, 1, 2]
    assert kept["f"].weights is not None and kept["f"].weights.tolist() == [1, 4]
    assert kept["f"].ids_N.dtype == kept["f"].offsets.dtype == np.int64
    assert kept["g"] is whole and kept["other"] is bag
    assert bag.ids_N.tolist() == [7, 1, 4, -1, 2]


def test_a_single_id_that_the_table_does_not_know_is_refused() -> None:
    embeddings = Embeddings([sized("t", 5, "f")])
    store = LocalRows(list(embeddings.groups.values()))
    assert embeddings.embed("t", "f", np.array([4, 0]), store).shape == (2, 2)
    with pytest.raises(DataError, match=r"^feature 'f': id 5 is outside \[0, 5\); raise the feature's"):
        embeddings.embed("t", "f", np.array([4, 5, -1]), store)


def test_an_id_that_occurs_twice_in_a_batch_counts_twice() -> None:
    """Rows are pulled and pushed once a batch, admission counts occurrences."""
    config = CollisionlessConfig(
        name="t",
        embedding_dim=2,
        feature_names=("f", "g"),
        optimizer=SGD(learning_rate=1.0),
        admission=FrequencyAdmission(occurrences=3),
    )
    embeddings = Embeddings([config])
    store = LocalRows(list(embeddings.groups.values()))
    bags = {"f": Bag.of_lists([[7, 8], [7]]), "g": Bag.of_lists([[7], [9]])}
    looked = embeddings.lookup(bags, store)
    torch.stack(list(embeddings.pool(looked).values())).sum().backward()
    store.push(looked.gradients(), 0)
    assert store.snapshot().groups["t"].keys_U.tolist() == [7]
