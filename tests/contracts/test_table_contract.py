"""What every table kind promises. A new kind in TABLES fails here until it has an entry in FIELDS."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.batches.batch import Bag
from recsys.errors import DataError
from recsys.features.declarations import Feature
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.tables import TABLES, build_table, plan_tables
from recsys.tables.bucket_map import BucketMap, Buckets
from recsys.tables.embeddings import Embeddings
from recsys.tables.table import Table, TableConfig

# items 0 and 1 have rows of their own; users from 90 on and items from 70 on have no bucket
MAP = BucketMap(
    method="graphhash",
    data="contract",
    fingerprint="none",
    seed=0,
    tables={
        "user": Buckets.of(np.where(np.arange(100) < 90, np.arange(100) % 23, -1), 23),
        "item": Buckets.of(np.append(np.array([0, 1]), 2 + np.arange(68) % 19), 21, num_own=2),
    },
).to_json()
# the YAML fields of a small table of each kind, beside kind and embedding_dim
FIELDS: dict[str, dict[str, Any]] = {
    "full": {},
    "hash": {"compression": 4},
    "unified": {"num_rows": 60, "num_chunks": 2},
    "collisionless": {},
    "graphhash": {"map": MAP},
    "double_graphhash": {"map": MAP},
}
DIM = 8
FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=100),
    Feature(name="item", kind="id", source="item.id", num_embeddings=80),
    Feature(name="liked", kind="bag", source="user.likes", table="item"),
    Feature(name="age", kind="number", source="profile.age"),
)
IDS = {"user": [5, 99, 0], "item": [7, 7, 3], "liked": [3, 79, 3, 7]}


def test_every_kind_has_an_entry() -> None:
    assert set(FIELDS) == set(TABLES), "give the new table kind its small fixture in FIELDS"


@pytest.fixture(params=list(TABLES))
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def plan(kind: str, **fields: Any) -> list[TableConfig]:
    described = {"kind": kind, "embedding_dim": DIM, **FIELDS[kind], **fields}
    return plan_tables(described, FEATURES, optimizer=SGD(learning_rate=1.0), seed=3)


def tables_of(configs: list[TableConfig]) -> dict[str, Table]:
    """Table by feature."""
    return {feature: build_table(config) for config in configs for feature in config.feature_names}


def keys_by_feature(kind: str) -> dict[str, dict[str, Any]]:
    """Plain values: what each feature's ids are addressed to."""
    return {
        feature: {
            group: keys_NK.tolist() for group, keys_NK in table.address(feature, torch.tensor(IDS[feature])).items()
        }
        for feature, table in tables_of(plan(kind)).items()
    }


def setup(kind: str, pooling: str = "mean") -> tuple[Embeddings, LocalRows, dict[str, str]]:
    """Tables, a store for them, and the table each feature reads."""
    configs = plan(kind, pooling=pooling)
    embeddings = Embeddings(configs)
    store = LocalRows(list(embeddings.groups.values()))
    return embeddings, store, {name: config.name for config in configs for name in config.feature_names}


def bags(**lists: list[list[int]]) -> dict[str, Bag]:
    return {name: Bag.of_lists(ids) for name, ids in lists.items()}


THREE = {"user": [[5], [99], []], "item": [[7], [7], [3]], "liked": [[3, 79, 3], [], [7, 0]]}


def test_keys_are_the_same_in_a_fresh_process() -> None:
    """Run as a script, this file prints its keys."""
    fresh = subprocess.run(
        [sys.executable, "-W", "error", __file__],
        env={"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(fresh.stdout) == {kind: keys_by_feature(kind) for kind in FIELDS}


def test_address_is_pure_and_row_by_row(kind: str) -> None:
    for feature, table in tables_of(plan(kind)).items():
        ids_N = torch.tensor([0, 7, 3, 7, 79])
        given = ids_N.clone()
        addressed = table.address(feature, ids_N)
        assert torch.equal(ids_N, given)
        assert list(addressed) == [group.name for group in table.groups]
        for group in table.groups:
            keys_NK = addressed[group.name]
            assert keys_NK.dtype == torch.int64 and keys_NK.ndim == 2 and len(keys_NK) == 5
            assert torch.equal(table.address(feature, ids_N)[group.name], keys_NK)
            assert torch.equal(table.address(feature, ids_N.flip(0))[group.name], keys_NK.flip(0))
            alone = [table.address(feature, id_N)[group.name] for id_N in ids_N.split(1)]
            assert torch.equal(torch.cat(alone), keys_NK)
            assert group.num_rows is None or (int(keys_NK.min()) >= 0 and int(keys_NK.max()) < group.num_rows)


def test_embeddings_are_as_wide_as_promised(kind: str) -> None:
    embeddings, store, table_of = setup(kind)
    pooled = embeddings.pool(embeddings.lookup(bags(**THREE), store))
    assert set(pooled) == {(table_of[name], name) for name in THREE}
    for vectors_BD in pooled.values():
        assert vectors_BD.shape == (3, DIM) and vectors_BD.dtype == torch.float32
    assert (pooled[table_of["user"], "user"][2] == 0).all()  # an empty bag is zeros
    assert (pooled[table_of["liked"], "liked"][1] == 0).all()
    nothing = embeddings.pool(embeddings.lookup(bags(user=[[]], item=[[]], liked=[[]]), store))
    for vectors_BD in nothing.values():
        assert vectors_BD.tolist() == [[0.0] * DIM]


def test_permuting_ids_permutes_vectors(kind: str) -> None:
    embeddings, store, table_of = setup(kind)
    ids = list(range(10))
    order = [3, 9, 0, 1, 2, 8, 7, 4, 5, 6]
    straight = embeddings.lookup(bags(user=[ids], item=[ids], liked=[ids]), store)
    shuffled = embeddings.lookup(bags(user=[order], item=[order], liked=[order]), store)
    for feature, table in table_of.items():
        vectors_ND = embeddings.vectors(feature, table, straight)
        assert torch.equal(embeddings.vectors(feature, table, shuffled), vectors_ND[order])
        assert len(torch.unique(vectors_ND, dim=0)) > 1


def test_features_of_one_vocabulary_read_the_same_rows(kind: str) -> None:
    embeddings, store, table_of = setup(kind)
    ids = [[7, 3, 79]]
    looked = embeddings.lookup(bags(user=ids, item=ids, liked=ids), store)
    item, liked, user = (embeddings.vectors(name, table_of[name], looked) for name in ("item", "liked", "user"))
    assert torch.equal(item, liked)
    assert not torch.equal(item, user)  # the same raw ids of another feature


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_pooling_is_a_loop_over_vectors(kind: str, pooling: str) -> None:
    embeddings, store, table_of = setup(kind, pooling)
    looked = embeddings.lookup(bags(**THREE), store)
    for (table, feature), vectors_BD in embeddings.pool(looked).items():
        assert table == table_of[feature]
        vectors = list(embeddings.vectors(feature, table, looked))
        for example, ids in enumerate(THREE[feature]):
            mine = [vectors.pop(0) for _ in ids]
            total = torch.stack(mine).sum(0) if mine else torch.zeros(DIM)
            expected = total / len(mine) if pooling == "mean" and mine else total
            torch.testing.assert_close(vectors_BD[example], expected)


def test_gradients_reach_the_addressed_rows_and_no_others(kind: str) -> None:
    embeddings, store, _ = setup(kind, "sum")
    asked = bags(**THREE)
    looked = embeddings.lookup(asked, store)
    for vectors_BD in embeddings.pool(looked).values():
        (vectors_BD * torch.arange(1, DIM + 1)).sum().backward(retain_graph=True)
    gradients = looked.gradients()
    groups = list(embeddings.groups)
    everything = {name: np.arange(group.num_rows or 100) for name, group in embeddings.groups.items()}
    before = store.pull(everything)
    store.push(gradients, 0)
    after = store.pull(everything)
    reached = 0
    for name in groups:
        keys_U, gradients_UW = gradients[name]
        assert len(np.unique(keys_U)) == len(keys_U) == len(gradients_UW)
        reached += int((gradients_UW != 0).any(axis=1).sum())
        touched = np.isin(everything[name], keys_U)
        assert touched.any() and not touched.all()
        np.testing.assert_array_equal(after[name][~touched], before[name][~touched])
        assert (after[name][touched] != before[name][touched]).any(axis=1).all()
    assert reached == sum(store.num_rows().values()) == sum(len(keys_U) for keys_U, _ in gradients.values())


def test_gradients_are_those_of_a_finite_difference(kind: str) -> None:
    embeddings, store, _ = setup(kind)
    addressed = embeddings.address(bags(**THREE))
    rows = store.pull(addressed.keys)

    def loss(rows: dict[str, np.ndarray]) -> tuple[Tensor, Any]:
        looked = embeddings.look(addressed, {name: part.copy() for name, part in rows.items()})
        return torch.stack([torch.sin(20 * v).sum() for v in embeddings.pool(looked).values()]).sum(), looked

    value, looked = loss(rows)
    value.backward()
    for name, (_, gradients_UW) in looked.gradients().items():
        for cell in ((0, 0), (len(rows[name]) - 1, rows[name].shape[1] - 1)):
            moved = {other: part.copy() for other, part in rows.items()}
            moved[name][cell] += 1e-2
            higher = loss(moved)[0].item()
            moved[name][cell] -= 2e-2
            slope = (higher - loss(moved)[0].item()) / 2e-2
            assert gradients_UW[cell] == pytest.approx(slope, rel=0.05, abs=0.02)


def test_unseen_ids_read_a_defined_value_and_create_nothing(kind: str) -> None:
    for absent in ("initial", "zeros"):
        embeddings = Embeddings(plan(kind, absent=absent))
        store = LocalRows(list(embeddings.groups.values()))
        looked = embeddings.lookup(bags(user=[[99]], item=[[79]], liked=[[78, 77]]), store)
        pooled = torch.stack([*embeddings.pool(looked).values()])
        assert torch.isfinite(pooled).all()
        assert set(store.num_rows().values()) == {0}
        if absent == "zeros" and not list(embeddings.parameters()):
            assert (pooled == 0).all()


STRANGE = {"user": [[5, 10**12], [-1], []], "item": [[7], [80], [3]], "liked": [[3, 2**62, 79, 3], [-5], [7, 0]]}


def test_ids_are_known_or_left_out_as_if_they_were_not_there(kind: str) -> None:
    embeddings, store, table_of = setup(kind)
    known_of: dict[str, set[int]] = {}
    for feature, table in tables_of(plan(kind)).items():
        ids = sorted({id_ for one in STRANGE[feature] for id_ in one})
        known_N = table.known(feature, torch.tensor(ids))
        assert known_N is None or (known_N.dtype == torch.bool and len(known_N) == len(ids))
        known_of[feature] = set(ids) if known_N is None else {ids[place] for place in known_N.nonzero()[:, 0]}
    by_hand = {
        feature: [[id_ for id_ in one if id_ in known_of[feature]] for one in lists]
        for feature, lists in STRANGE.items()
    }
    asked = bags(**STRANGE)
    kept, num_unknown = embeddings.known_bags(asked)
    assert num_unknown == sum(len(bag.ids_N) for bag in asked.values()) - sum(
        len(one) for lists in by_hand.values() for one in lists
    )
    expected, found = embeddings.lookup(bags(**by_hand), store), embeddings.lookup(kept, store)
    for looked in (expected, found):
        torch.stack([torch.sin(20 * v).sum() for v in embeddings.pool(looked).values()]).sum().backward()
    for key, vectors_BD in embeddings.pool(found).items():
        assert torch.equal(vectors_BD, embeddings.pool(expected)[key])
    for group, (keys_U, gradients_UW) in found.gradients().items():
        np.testing.assert_array_equal(keys_U, expected.gradients()[group][0])
        np.testing.assert_array_equal(gradients_UW, expected.gradients()[group][1])
    for feature, lists in STRANGE.items():
        for id_ in (id_ for one in lists for id_ in one):
            if id_ in known_of[feature]:
                assert embeddings.embed(table_of[feature], feature, np.array([id_]), store).shape == (1, DIM)
            else:
                with pytest.raises(DataError, match=f"feature '{feature}': id {id_} is outside"):
                    embeddings.embed(table_of[feature], feature, np.array([id_]), store)


def test_where_compose_is_linear_pooling_commutes(kind: str) -> None:
    for feature, table in tables_of(plan(kind)).items():
        if not table.linear:
            continue
        ids_N = torch.tensor(IDS[feature])
        addressed = table.address(feature, ids_N)
        generator = torch.Generator().manual_seed(0)
        rows_NKW = {
            group.name: torch.randn(*addressed[group.name].shape, group.width, generator=generator)
            for group in table.groups
        }
        composed_first = table.compose(feature, ids_N, rows_NKW).sum(0)
        pooled_1KW = {name: rows.sum(0, keepdim=True) for name, rows in rows_NKW.items()}
        torch.testing.assert_close(table.compose(feature, ids_N[:1], pooled_1KW)[0], composed_first)


def test_penalty_is_a_number(kind: str) -> None:
    penalty = setup(kind)[0].penalty()
    assert penalty.shape == () and torch.isfinite(penalty)


def test_first_order_companions_are_one_wide_and_start_from_zero(kind: str) -> None:
    configs = plan(kind)
    narrow = [config.narrowed(SGD(learning_rate=2.0)) for config in configs]
    assert [(c.name, c.kind) for c in narrow] == [(f"{c.name}.first_order", c.kind) for c in configs]
    embeddings = Embeddings([*configs, *narrow])
    store = LocalRows(list(embeddings.groups.values()))
    looked = embeddings.lookup(bags(**THREE), store)
    pooled = embeddings.pool(looked)
    for config in narrow:
        for feature in config.feature_names:
            assert pooled[config.name, feature].tolist() == [[0.0]] * 3
            pooled[config.name, feature].sum().backward(retain_graph=True)
    store.push(looked.gradients(), 0)
    again = embeddings.pool(embeddings.lookup(bags(**THREE), store))
    for config in narrow:
        for feature in config.feature_names:
            values = again[config.name, feature][:, 0].tolist()
            empty = [not ids for ids in THREE[feature]]
            assert [value == 0 for value in values] == empty  # every row that was read has moved


if __name__ == "__main__":
    print(json.dumps({kind: keys_by_feature(kind) for kind in FIELDS}))
