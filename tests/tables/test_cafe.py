"""Rows for ids whose gradients are largest: of their own beside shared ones (CAFE), or none beside (AdaEmbed)."""

from typing import Any

import numpy as np
import pytest
import torch

from recsys.batches.batch import Bag
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adam, Optimizer
from recsys.rows.policies import ImportanceAdmission
from recsys.rows.store import RowStore
from recsys.tables import build_table, plan_tables
from recsys.tables.embeddings import Embeddings

ITEM = Feature(name="item", kind="id", source="item.id", num_embeddings=1000)


def tables(kind: str, optimizer: Optimizer, **fields: Any) -> tuple[Embeddings, LocalRows]:
    described = {"kind": kind, "embedding_dim": 4, "sketch_bytes": 6400, **fields}
    embeddings = Embeddings(plan_tables(described, [ITEM], optimizer=optimizer, seed=3))
    return embeddings, LocalRows(list(embeddings.groups.values()))


def cafe(optimizer: Optimizer, **fields: Any) -> tuple[Embeddings, LocalRows]:
    return tables("cafe", optimizer, **{"hot_rows": 2, "num_buckets": 1, "threshold": 5.0, **fields})


def learn(embeddings: Embeddings, store: RowStore, **slopes: float) -> None:
    """A step whose loss has this slope by every number of the vectors of items i1, i2, …"""
    ids = [int(name[1:]) for name in slopes]
    looked = embeddings.lookup({"item": Bag.of_lists([[id_] for id_ in ids])}, store)
    vectors_BD = embeddings.pool(looked)["item", "item"]
    (vectors_BD * torch.tensor(list(slopes.values()))[:, None]).sum().backward()
    store.push(looked.gradients(), 0)


def vector(embeddings: Embeddings, store: RowStore, id_: int) -> np.ndarray:
    return embeddings.embed("item", "item", np.array([id_]), store)[0].detach().numpy()


def hot_ids(store: LocalRows) -> list[int]:
    return sorted(store.snapshot().groups["item.hot"].keys_U.tolist())


def test_an_id_becomes_hot_by_its_gradients_and_goes_on_from_the_shared_row() -> None:
    embeddings, store = cafe(SGD(learning_rate=0.1))
    start = vector(embeddings, store, 7)
    np.testing.assert_array_equal(vector(embeddings, store, 8), start)  # one shared row
    learn(embeddings, store, i7=2)  # of norm 4
    assert hot_ids(store) == []
    np.testing.assert_allclose(vector(embeddings, store, 8), start - 0.2, rtol=1e-5)
    before = vector(embeddings, store, 7)
    learn(embeddings, store, i7=1)  # 6 by now: the shared row's last gradient, and the hot one's first
    assert hot_ids(store) == [7]
    np.testing.assert_allclose(vector(embeddings, store, 8), before - 0.1, rtol=1e-5)
    np.testing.assert_allclose(vector(embeddings, store, 7), before - 0.2, rtol=1e-5)


def test_a_hot_ids_gradient_touches_its_own_row_alone_whatever_the_optimizer_remembers() -> None:
    embeddings, store = cafe(Adam(learning_rate=0.1))
    learn(embeddings, store, i7=9)
    own, others = vector(embeddings, store, 7), vector(embeddings, store, 8)
    learn(embeddings, store, i7=1)
    assert (vector(embeddings, store, 7) != own).all()
    np.testing.assert_array_equal(vector(embeddings, store, 8), others)


def test_large_gradients_count_more_than_many() -> None:
    embeddings, store = cafe(SGD(learning_rate=0.01), hot_rows=1, threshold=0.0)
    learn(embeddings, store, i1=0.1)  # there is room
    for _ in range(20):
        learn(embeddings, store, i2=0.01)
    assert hot_ids(store) == [2]  # 0.4 against 0.2
    learn(embeddings, store, i3=1)
    assert hot_ids(store) == [3]
    for _ in range(20):
        learn(embeddings, store, i2=0.01)
    assert hot_ids(store) == [3]
    np.testing.assert_array_equal(vector(embeddings, store, 2), vector(embeddings, store, 1))  # shared again


def test_the_hottest_of_a_zipf_stream_are_hot() -> None:
    embeddings, store = tables("cafe", SGD(learning_rate=0.01), hot_rows=20, num_buckets=5, half_life_steps=100)
    draw = np.random.default_rng(0)
    for half in (0, 1):  # in the second half others are hot
        for _ in range(150):
            ids = (draw.zipf(1.5, 60) + 500 * half) % 1000
            learn(embeddings, store, **{f"i{id_}": float((ids == id_).sum()) for id_ in np.unique(ids)})
        hot = hot_ids(store)
        assert len(hot) == 20
        assert set(range(500 * half + 1, 500 * half + 8)) <= set(hot)


def test_bytes_of_hot_rows_keys_and_sketch_are_counted() -> None:
    embeddings, _ = cafe(SGD(learning_rate=0.1), hot_rows=10, num_buckets=30)
    table = embeddings.tables["item"]
    served, training = table.nbytes("serving"), table.nbytes("training")
    assert (served.rows, served.maps) == (40 * 4 * 4, 10 * 8)
    assert training.maps == 6400 + 10 * (4 + 4 + 19) + 30 * 5  # steps, importances, index; steps, flags


@pytest.mark.parametrize("kind", ["cafe", "adaembed"])
def test_a_sketch_is_for_twice_as_many_ids_as_there_are_rows(kind: str) -> None:
    sizes = {"hot_rows": 100, "num_buckets": 7} if kind == "cafe" else {"max_rows": 100}
    embeddings, _ = tables(kind, SGD(learning_rate=0.1), **sizes, sketch_bytes=None)
    (admission,) = [group.admission for group in embeddings.groups.values() if group.admission]
    assert isinstance(admission, ImportanceAdmission) and admission.max_bytes == 64 * 2 * 100 / 4


# --- AdaEmbed


def test_rows_are_kept_for_the_most_important_and_others_read_their_initial_value() -> None:
    embeddings, store = tables("adaembed", SGD(learning_rate=0.1), max_rows=2)
    first = {id_: vector(embeddings, store, id_) for id_ in (1, 2, 3)}
    learn(embeddings, store, i1=1, i2=3)
    learn(embeddings, store, i3=0.4)
    np.testing.assert_array_equal(vector(embeddings, store, 3), first[3])  # no row, hence nothing learned
    assert store.num_rows() == {"item": 2}
    learn(embeddings, store, i3=0.7)  # 2.2 against 2: in the place of 1, with this gradient
    np.testing.assert_allclose(vector(embeddings, store, 3), first[3] - 0.07, rtol=1e-5)
    np.testing.assert_array_equal(vector(embeddings, store, 1), first[1])
    np.testing.assert_allclose(vector(embeddings, store, 2), first[2] - 0.3, rtol=1e-5)
    assert store.num_rows() == {"item": 2}


def test_a_budget_says_how_many_rows() -> None:
    described = {"kind": "adaembed", "embedding_dim": 16, "compression": 4}
    (config,) = plan_tables(described, [ITEM], optimizer=SGD(learning_rate=1.0), seed=3)
    served = build_table(config).nbytes("serving")
    assert served.rows == 64 * (16_000 // (64 + 8)) and served.maps == 8 * (16_000 // (64 + 8))


def test_kinds_that_need_a_size_say_so() -> None:
    nobody = Feature(name="item", kind="id", source="item.id")
    for kind, missing in (("cafe", "hot_rows"), ("adaembed", "max_rows")):
        (config,) = plan_tables({"kind": kind}, [nobody], optimizer=SGD(learning_rate=1.0), seed=3)
        with pytest.raises(ConfigError, match=rf"\(kind={kind}\): {missing} is None; set {missing}"):
            build_table(config)
