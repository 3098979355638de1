"""graphhash and double_graphhash by value, and that a blueprint carries its map."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.graphs.online import carried_rows
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adagrad
from recsys.rows.store import Snapshot, fresh_rows
from recsys.tables import build_table, plan_tables, with_map
from recsys.tables.bucket_files import write_map
from recsys.tables.bucket_map import BucketMap, Buckets
from recsys.tables.embeddings import Embeddings
from recsys.tables.graphhash import GraphHash
from recsys.tables.table import Table, TableConfig

FEATURES = (
    Feature(name="item", kind="id", source="item.id", num_embeddings=6),
    Feature(name="hour", kind="id", source="time.hour_of_day", num_embeddings=24),
)
ADAGRAD = Adagrad(learning_rate=0.1)
ROWS = torch.arange(8.0).reshape(4, 2)


def item_map(num_own: int = 0) -> BucketMap:
    buckets = Buckets.of(np.array([0, 1, 2, 3, 3, -1]), 4, num_own=num_own)
    return BucketMap(method="graphhash", data="d", fingerprint="f", seed=0, tables={"item": buckets})


def table_of(kind: str, num_own: int = 0, feature: str = "item") -> Table:
    fields = {"kind": kind, "embedding_dim": 2, "map": item_map(num_own).to_json()}
    configs = plan_tables(fields, FEATURES, optimizer=SGD(learning_rate=1.0), seed=0)
    return build_table(next(config for config in configs if config.name == feature))


def vectors(table: Table, ids: list[int]) -> list[list[float]]:
    ids_N = torch.tensor(ids)
    keys_NK = table.address("item", ids_N)["item"]
    found: list[list[float]] = table.compose("item", ids_N, {"item": ROWS[keys_NK]}).tolist()
    return found


def test_ids_of_a_bucket_read_its_row() -> None:
    assert vectors(table_of("graphhash"), [3, 0, 4]) == [[6.0, 7.0], [0.0, 1.0], [6.0, 7.0]]


def test_double_adds_a_row_by_hash_but_to_ids_with_their_own() -> None:
    table = table_of("double_graphhash", num_own=2)
    keys = table.address("item", torch.arange(8))["item"]
    assert keys[:2].tolist() == [[0, 0], [1, 1]]
    assert (keys[2:, 1] >= 2).all() and keys[2:5, 0].tolist() == [2, 3, 3]
    expected = [ROWS[0], ROWS[1], *(ROWS[one] + ROWS[two] for one, two in keys[2:4].tolist())]
    assert vectors(table, [0, 1, 2, 3]) == torch.stack(expected).tolist()
    assert not table.linear and table_of("double_graphhash").linear


def test_a_sum_of_two_rows_starts_as_large_as_one() -> None:
    one, two = (table_of(kind).groups[0].initial.scale for kind in ("graphhash", "double_graphhash"))
    assert two**2 * 2 == pytest.approx(one**2)


def test_a_table_that_the_map_does_not_speak_of_is_full() -> None:
    table = table_of("graphhash", feature="hour")
    assert table.config.kind == "full" and table.groups[0].num_rows == 24


def test_the_map_counts_in_bytes() -> None:
    table = table_of("graphhash")
    assert isinstance(table, GraphHash)
    assert table.map_bytes("serving") == 3 + 8  # six ids of three bits


def store_of(buckets: np.ndarray, num_buckets: int) -> tuple[Embeddings, LocalRows]:
    """A table of six items over some buckets, and its rows."""
    tables = {"item": Buckets.of(buckets, num_buckets)}
    made = BucketMap(method="graphhash", data="d", fingerprint="f", seed=0, tables=tables).to_json()
    configs = plan_tables(
        {"kind": "graphhash", "embedding_dim": 2, "map": made}, FEATURES[:1], optimizer=ADAGRAD, seed=0
    )
    embeddings = Embeddings(configs)
    return embeddings, LocalRows(list(embeddings.groups.values()))


def test_a_new_clustering_starts_from_the_rows_of_the_old() -> None:
    ids = np.arange(6)
    old_buckets, new_buckets = np.array([0, 0, 1, 1, 2, 2]), np.array([3, 3, 1, 1, 1, 0])
    embeddings, store = store_of(old_buckets, 3)
    store.push({"item": (np.arange(3), np.array([[1, 2], [3, -4], [-5, 6]], np.float32))}, 0)
    before = embeddings.embed("item", "item", ids, store).detach().numpy()
    again, new_store = store_of(new_buckets, 4)
    keys, rows = carried_rows(store.pull({"item": np.arange(3)})["item"], old_buckets, new_buckets, 4)
    group = again.groups["item"]
    new_store.restore(Snapshot((1,), {"item": fresh_rows(group, keys, rows)}))
    after = again.embed("item", "item", ids, new_store).detach().numpy()
    np.testing.assert_array_equal(after[[0, 1, 5]], before[[0, 1, 5]])  # these moved with all of their bucket, or alone
    np.testing.assert_allclose(after[2:5], np.tile(before[2:5].mean(0), (3, 1)), rtol=1e-6)
    restored = new_store.snapshot().groups["item"]
    assert restored.keys_U.tolist() == [0, 1, 3] and (restored.state["sum"] == 0).all()  # the optimizer begins anew


def test_mistakes_in_the_plan_are_told() -> None:
    with pytest.raises(ConfigError, match=r"table\.map is not given \(kind=graphhash\); make one with python -m jobs"):
        plan_tables({"kind": "graphhash"}, FEATURES, optimizer=SGD(learning_rate=1.0), seed=0)
    other = {"kind": "graphhash", "map": item_map().to_json()}
    with pytest.raises(ConfigError, match="speaks of item, the features' tables are hour"):
        plan_tables(other, FEATURES[1:], optimizer=SGD(learning_rate=1.0), seed=0)


def test_a_blueprint_carries_its_map_where_the_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "map.safetensors"
    write_map(path, item_map())
    fields: dict[str, Any] = {"kind": "graphhash", "embedding_dim": 2, "map": str(path)}
    sgd = {"kind": "sgd", "learning_rate": 1.0}
    blueprint = Blueprint(
        features=FEATURES,
        table=with_map(fields, "d"),
        model={"kind": "deepfm", "hidden_sizes": [2]},
        optimizer=sgd,
        dense_optimizer=sgd,
    )
    path.unlink()
    again = Blueprint.from_json(json.loads(json.dumps(blueprint.to_json())))
    table = Recommender(again).embeddings.tables["item"]
    assert table.address("item", torch.tensor([4, 0]))["item"].tolist() == [[3], [0]]
    assert with_map({"kind": "full"}) == {"kind": "full"}
    with pytest.raises(ConfigError, match="there is no such file"):
        with_map(fields, "d")


def test_a_budget_refuses_a_map_that_is_larger() -> None:
    fields = {"kind": "graphhash", "embedding_dim": 2, "map": item_map().to_json()}
    rows, hours, map_bytes = 4 * 2 * 4, 24 * 2 * 4, 3 + 8
    enough = rows + hours + map_bytes
    assert len(planned({**fields, "budget": enough})) == 2
    message = rf"table.budget={enough - 1} allows {enough - 1} bytes, and these tables take {enough} at least; .* a map"
    with pytest.raises(ConfigError, match=message):
        planned({**fields, "budget": enough - 1})
    with pytest.raises(ConfigError, match=r"table\.compression=10 allows 24 bytes"):
        planned({**fields, "compression": 10})


def planned(fields: dict[str, Any]) -> list[TableConfig]:
    return plan_tables(fields, FEATURES, optimizer=SGD(learning_rate=1.0), seed=0)
