"""What was learned over one bucket map, carried over to another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.batches.batch import Bag, LabelledBatch
from recsys.features.declarations import Feature
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.tables.bucket_map import BucketMap, Buckets
from recsys.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recsys.training.reclustering import carried_over, differs_in_map_alone
from recsys.training.trainer import Trainer

FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=30),
    Feature(name="item", kind="id", source="item.id", num_embeddings=40),
)


def map_of(users_N: Any, num_buckets: int) -> dict[str, Any]:
    """Users' buckets; items are those of their remainder by five."""
    tables = {"user": Buckets.of(users_N, num_buckets), "item": Buckets.of(np.arange(40) % 5, 5)}
    made = BucketMap(method="graphhash", data="d", fingerprint="", seed=0, tables=tables)
    return made.to_json()


def blueprint(users_N: Any, num_buckets: int, kind: str = "graphhash") -> Blueprint:
    return Blueprint(
        features=FEATURES,
        table={"kind": kind, "embedding_dim": 4, "map": map_of(users_N, num_buckets)},
        model={"kind": "deepfm", "hidden_sizes": [4]},
        optimizer={"kind": "adagrad", "learning_rate": 0.1},
        dense_optimizer={"kind": "adam", "learning_rate": 0.02},
        seed=1,
    )


OLD = np.arange(30) % 6
MERGED = np.where(np.arange(30) == 29, -1, OLD % 3)  # buckets 0 and 3, 1 and 4, 2 and 5; the last is alone


@pytest.fixture(scope="module")
def learned() -> Checkpoint:
    recommender = Recommender(blueprint(OLD, 6))
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    for seed in range(20):
        trainer.step(batch(seed))
    return Checkpoint(blueprint=recommender.blueprint, joiners=[], about={}, rows=trainer.store.snapshot())


def batch(seed: int) -> LabelledBatch:
    draw = np.random.default_rng(seed)
    users, items = draw.integers(0, 30, 16), draw.integers(0, 40, 16)
    return LabelledBatch(
        bags={"user": Bag(users, np.arange(17)), "item": Bag(items, np.arange(17))},
        numbers_BM=np.zeros((16, 0), np.float32),
        labels_B=(users % 2 == 0).astype(np.float32),
        weights_B=np.ones(16, np.float32),
        request_ids=[""] * 16,
        user_ids=[0] * 16,
        item_ids=[0] * 16,
        times_ms_B=np.full(16, seed),
        read_at_ms_B=np.full(16, seed),
    )


def store_of(checkpoint: Checkpoint) -> tuple[Recommender, LocalRows]:
    recommender = Recommender(checkpoint.blueprint)
    store = LocalRows(recommender.groups)
    store.restore(checkpoint.rows)
    return recommender, store


def test_a_row_starts_as_the_mean_of_what_its_members_read(learned: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, carried_over(learned, blueprint(MERGED, 3)))
    old, before = store_of(learned)
    new, after = store_of(load_checkpoint(tmp_path))
    for name in ("user", "user.first_order"):
        read = old.embeddings.embed(name, "user", np.arange(30), before).detach().numpy()
        found = new.embeddings.embed(name, "user", np.arange(30), after).detach().numpy()
        table = new.embeddings.tables[name]
        keys = table.address("user", torch.arange(30))[name][:, 0].numpy()
        for bucket in range(3):
            expected = read[keys == bucket].mean(axis=0)
            np.testing.assert_allclose(found[keys == bucket], np.tile(expected, ((keys == bucket).sum(), 1)), atol=1e-6)
    for group in ("item", "item.first_order", "dense"):  # whose map is the same, or who have none
        was, now = before.snapshot().groups[group], after.snapshot().groups[group]
        np.testing.assert_array_equal(now.rows_UW, was.rows_UW)
        assert all((now.state[name] == values).all() for name, values in was.state.items())


def test_renumbered_buckets_change_no_prediction(learned: Checkpoint) -> None:
    renumbered = np.array([3, 5, 0, 1, 4, 2])[OLD]
    old, before = store_of(learned)
    new, after = store_of(carried_over(learned, blueprint(renumbered, 6)))
    np.testing.assert_allclose(new.predict(batch(99), after), old.predict(batch(99), before), atol=1e-6)
    trainer = Trainer(new, after)
    assert np.isfinite(trainer.step(batch(100)).loss)


def test_only_the_map_may_be_another() -> None:
    one, other = blueprint(OLD, 6), blueprint(MERGED, 3)
    assert differs_in_map_alone(one, other)
    assert not differs_in_map_alone(one, one)
    assert not differs_in_map_alone(one, replace(other, seed=2))
    assert not differs_in_map_alone(blueprint(OLD, 6, "double_graphhash"), blueprint(MERGED, 3, "double_graphhash"))
