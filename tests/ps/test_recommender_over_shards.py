"""A recommender's steps: the same over shards as in one process, and the same as torch alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from table_kinds import SMALL
from torch import Tensor, nn
from torch.nn import functional

from recsys.batches.batch import Bag, LabelledBatch
from recsys.features.declarations import Feature
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.client import ShardedRows
from recsys.ps.dense import DENSE
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows.local import LocalRows
from recsys.rows.store import RowStore

BLUEPRINT = Blueprint(
    features=(
        Feature(name="user", kind="id", source="user.id", num_embeddings=3000),
        Feature(name="item", kind="id", source="item.id", num_embeddings=2000),
        Feature(name="liked", kind="bag", source="user.likes", table="item"),
        Feature(name="age", kind="number", source="profile.age"),
    ),
    table={"kind": "full", "embedding_dim": 4},
    model={"kind": "deepfm", "hidden_sizes": [16, 8]},
    optimizer={"kind": "adagrad", "learning_rate": 0.1},
    dense_optimizer={"kind": "adam", "learning_rate": 0.01},
)
NUM_EXAMPLES = 16
OTHERS = [kind for kind in SMALL if kind not in ("full", "unified", "collisionless")]
# what waits and what leaves is for each shard to say: here is room for all
ROOMY: dict[str, dict[str, Any]] = {
    "frequency": {"hot_rows": 10_000, "sketch_bytes": 2**20},
    "cafe": {"hot_rows": 10_000, "sketch_bytes": 2**20},
    "adaembed": {"max_rows": 10_000, "sketch_bytes": 2**20},
}


def batch_of(step: int, num_users: int = 3000, num_items: int = 2000) -> LabelledBatch:
    generator = np.random.default_rng(step)
    liked = [generator.integers(0, num_items, generator.integers(0, 5)).tolist() for _ in range(NUM_EXAMPLES)]
    return LabelledBatch(
        bags={
            "user": Bag.of_lists(generator.integers(0, num_users, (NUM_EXAMPLES, 1)).tolist()),
            "item": Bag.of_lists(generator.integers(0, num_items, (NUM_EXAMPLES, 1)).tolist()),
            "liked": Bag.of_lists(liked),
        },
        numbers_BM=generator.standard_normal((NUM_EXAMPLES, 1)).astype(np.float32),
        labels_B=generator.integers(0, 2, NUM_EXAMPLES).astype(np.float32),
        weights_B=np.ones(NUM_EXAMPLES, np.float32),
        request_ids=[f"{step}-{i}" for i in range(NUM_EXAMPLES)],
        user_ids=[0] * NUM_EXAMPLES,
        item_ids=[0] * NUM_EXAMPLES,
        times_ms_B=np.full(NUM_EXAMPLES, 1000 + step),
        read_at_ms_B=np.full(NUM_EXAMPLES, 1000 + step),
    )


def sharded(recommender: Recommender, num_shards: int) -> ShardedRows:
    groups = recommender.groups
    stores = [
        LocalRows(groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        for shard in range(num_shards)
    ]
    return ShardedRows(groups, [LocalShard(store) for store in stores])


def learn(recommender: Recommender, store: RowStore, batch: LabelledBatch) -> Tensor:
    """One step; returns the logits of before it."""
    planned = recommender.plan(batch)
    logits_B, looked = recommender(planned, store.pull(planned.keys))
    functional.binary_cross_entropy_with_logits(logits_B, torch.from_numpy(batch.labels_B)).backward()
    store.push({**looked.gradients(), DENSE: recommender.dense.gradients()}, int(batch.times_ms_B.max()))
    return logits_B.detach()


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "full", "embedding_dim": 4},
        {"kind": "unified", "embedding_dim": 4, "num_rows": 500},
        {"kind": "collisionless", "embedding_dim": 4, "absent": "zeros"},
        *({"kind": kind, "embedding_dim": 4, **SMALL[kind], **ROOMY.get(kind, {})} for kind in OTHERS),
    ],
    ids=lambda table: table["kind"],
)
def test_two_shards_learn_bit_for_bit_what_one_process_does(table: dict[str, Any]) -> None:
    blueprint = replace(BLUEPRINT, table=table)
    one, two = Recommender(blueprint), Recommender(blueprint)
    local, shards = LocalRows(one.groups), sharded(two, 2)
    for recommender, store in ((one, local), (two, shards)):
        store.restore(recommender.start_state())
    for step in range(8):
        assert torch.equal(learn(one, local, batch_of(step)), learn(two, shards, batch_of(step)))
    mine, theirs = local.snapshot(), shards.snapshot()
    for name, a in mine.groups.items():
        b = theirs.groups[name]
        order, other = np.argsort(a.keys_U), np.argsort(b.keys_U)
        np.testing.assert_array_equal(a.keys_U[order], b.keys_U[other])
        np.testing.assert_array_equal(a.rows_UW[order], b.rows_UW[other])
        np.testing.assert_array_equal(a.sequences_U[order], b.sequences_U[other])
        np.testing.assert_array_equal(a.event_times_U[order], b.event_times_U[other])
        for column in a.state:
            np.testing.assert_array_equal(a.state[column][order], b.state[column][other])
    assert shards.num_rows() == local.num_rows()
    held = one.predict(batch_of(99), local)
    np.testing.assert_array_equal(held, two.predict(batch_of(99), shards))
    assert held.std() > 0


class InTorchAlone(nn.Module):
    """The same recommender over nn.EmbeddingBag, begun with the store's rows and the model's weights."""

    def __init__(self, recommender: Recommender, store: RowStore, sizes: dict[str, int]) -> None:
        super().__init__()
        tables = {name: np.arange(size) for name, size in sizes.items()}
        rows = store.pull({**tables, **{f"{name}.first_order": keys for name, keys in tables.items()}})
        self.bags = nn.ModuleDict(
            {
                name.replace(".", ":"): nn.EmbeddingBag.from_pretrained(
                    torch.from_numpy(part), freeze=False, mode="mean"
                )
                for name, part in rows.items()
            }
        )
        self.model = recommender.model

    def forward(self, batch: LabelledBatch) -> Tensor:
        def pooled(suffix: str) -> list[Tensor]:
            return [
                self.bags[table + suffix](
                    torch.from_numpy(batch.bags[feature].ids_N),
                    torch.from_numpy(batch.bags[feature].offsets[:-1]),
                )
                for feature, table in (("user", "user"), ("item", "item"), ("liked", "item"))
            ]

        embeddings_BFD = torch.stack(pooled(""), dim=1)
        first_BF = torch.cat(pooled(":first_order"), dim=1)
        logits_B: Tensor = self.model(embeddings_BFD, first_BF, torch.from_numpy(batch.numbers_BM))
        return logits_B


def test_twenty_steps_are_those_of_torch_alone() -> None:
    """Rows by Adagrad, dense parameters by Adam, both in the store, against torch.optim on plain modules."""
    sizes = {"user": 12, "item": 9}
    features = tuple(replace(feature, num_embeddings=sizes.get(feature.table_name)) for feature in BLUEPRINT.features)
    blueprint = replace(BLUEPRINT, features=features)
    ours = Recommender(blueprint)
    store = LocalRows(ours.groups)
    store.restore(ours.start_state())
    reference = InTorchAlone(Recommender(blueprint), store, sizes)
    rows_optimizer = torch.optim.Adagrad(reference.bags.parameters(), lr=0.1)
    dense_optimizer = torch.optim.Adam(reference.model.parameters(), lr=0.01)
    for step in range(20):
        batch = batch_of(step, sizes["user"], sizes["item"])
        logits_B = learn(ours, store, batch)
        expected_B = reference(batch)
        torch.testing.assert_close(logits_B, expected_B, rtol=1e-6, atol=1e-6)
        functional.binary_cross_entropy_with_logits(expected_B, torch.from_numpy(batch.labels_B)).backward()
        for optimizer in (rows_optimizer, dense_optimizer):
            optimizer.step()
            optimizer.zero_grad()
    ours.dense.load(store.pull({DENSE: ours.dense.keys})[DENSE])
    for mine, theirs in zip(ours.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    for name, weight in reference.bags.named_parameters():
        group = name.removesuffix(".weight").replace(":", ".")
        mine_UW = store.pull({group: np.arange(len(weight))})[group]
        np.testing.assert_allclose(mine_UW, weight.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_a_blueprint_survives_its_plain_form() -> None:
    assert Blueprint.from_json(BLUEPRINT.to_json()) == BLUEPRINT
