"""Ids that come later join the clusters of a bucket map by their edges."""

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.graphs.bipartite import Bipartite
from recsys.tables import with_map
from recsys.tables.assign import assigned_map, clustered_map, grown_map
from recsys.tables.bucket_files import read_map, write_map
from recsys.tables.bucket_map import BucketMap

# two blocks of three users and four items, whole
PAIRS = np.array([(3 * block + user, 4 * block + item) for block in (0, 1) for user in range(3) for item in range(4)])


def graph_of(pairs_E2: np.ndarray, num_users: int, num_items: int) -> Bipartite:
    return Bipartite.of(pairs_E2[:, 0], pairs_E2[:, 1], num_users, num_items)


def bucket_of(made: BucketMap, side: str, id_: int) -> int:
    return int(made.tables[side].buckets(np.array([id_]))[0])


def test_later_ids_join_the_clusters_of_their_neighbours_and_nobody_else_moves(tmp_path: Path) -> None:
    before = clustered_map(graph_of(PAIRS, 6, 8), "d", gamma=1.0)
    assert before.num_buckets == 4 and before.labels is not None
    later = np.array([(6, 0), (6, 1), (0, 8), (1, 8), (7, 9)])  # a user, an item; and two who know nobody
    write_map(tmp_path / "map", before)
    grown, num_joined = grown_map(graph_of(np.concatenate([PAIRS, later]), 8, 10), read_map(tmp_path / "map", "d"))
    assert num_joined == 2 and grown.num_buckets == 4 and grown.labels == before.labels
    for side, num in (("user", 6), ("item", 8)):
        kept = grown.tables[side].buckets(np.arange(num))
        np.testing.assert_array_equal(kept, before.tables[side].buckets(np.arange(num)))
    assert [bucket_of(grown, "user", id_) for id_ in (6, 7)] == [bucket_of(before, "user", 0), -1]
    assert [bucket_of(grown, "item", id_) for id_ in (8, 9)] == [bucket_of(before, "item", 0), -1]
    again, num_joined = grown_map(graph_of(np.concatenate([PAIRS, later]), 8, 10), grown)
    assert num_joined == 0 and again.to_json() == grown.to_json()


def test_an_id_with_a_bucket_of_its_own_stays_there() -> None:
    many = np.concatenate([PAIRS, [(0, 4), (0, 5), (0, 6)]])  # user 0 has the most items
    before = clustered_map(graph_of(many, 6, 8), "d", num_buckets=8, own_fraction=0.25)
    assert before.labels is not None
    own = [before.tables[side].num_own for side in ("user", "item")]
    assert sum(own) > 0 and all(
        set(before.labels[side][:num]) <= {-1} for side, num in zip(("user", "item"), own, strict=True)
    )
    grown, _ = grown_map(graph_of(np.concatenate([many, [(6, 0), (6, 1), (6, 2)]]), 7, 8), before)
    for side, num in (("user", 6), ("item", 8)):
        kept = grown.tables[side].buckets(np.arange(num))
        np.testing.assert_array_equal(kept, before.tables[side].buckets(np.arange(num)))
    assert grown.tables["user"].num_own == own[0]


def test_a_blueprint_has_no_labels(tmp_path: Path) -> None:
    made = clustered_map(graph_of(PAIRS, 6, 8), "d", gamma=1.0)
    write_map(tmp_path / "map", made)
    fields = with_map({"kind": "graphhash", "map": str(tmp_path / "map")}, "d")
    assert "labels" not in fields["map"] and "labels" in made.to_json()
    assert BucketMap.from_json(fields["map"]).tables["user"].num_buckets == made.tables["user"].num_buckets


def test_a_map_without_clusters_can_not_grow() -> None:
    graph = graph_of(PAIRS, 6, 8)
    with pytest.raises(ConfigError, match="a map by method=hash has no clusters of users and items together"):
        grown_map(graph, assigned_map(graph, "d", "hash", (2, 2), seed=0))
