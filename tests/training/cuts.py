"""Runs to be saved: a small recommender, trained on its own or over shards, and saved as a run saves itself."""

from typing import Any

import numpy as np

from recsys.batches.batch import Bag, LabelledBatch
from recsys.features.declarations import Feature
from recsys.features.state import FeatureState
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.client import ShardedRows
from recsys.ps.dense import DENSE
from recsys.ps.routing import NUM_BUCKETS, merge_snapshots, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows.files import write_part
from recsys.rows.local import LocalRows
from recsys.rows.store import Cursor, GroupSnapshot, RowStore, Snapshot
from recsys.training.checkpoint import Checkpoint, Checkpoints, State
from recsys.training.trainer import Trainer

FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=40),
    Feature(name="item", kind="id", source="item.id", num_embeddings=30),
    Feature(name="liked", kind="bag", source="user.likes", table="item"),
    Feature(name="genres", kind="bag", source="item.genres", vocabulary=("Drama", "Comédie")),
    Feature(name="age", kind="number", source="profile.age"),
)
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "hash": {"num_buckets": 9},
    "unified": {"num_rows": 50},
    "collisionless": {},
}


def blueprint(kind: str = "collisionless", **table: Any) -> Blueprint:
    return Blueprint(
        features=FEATURES,
        table={"kind": kind, "embedding_dim": 4, **KINDS[kind], **table},
        model={"kind": "deepfm", "hidden_sizes": [40]},
        optimizer={"kind": "adagrad", "learning_rate": 0.1},
        first_order_optimizer={"kind": "sgd", "learning_rate": 0.1},
        dense_optimizer={"kind": "adam", "learning_rate": 0.01},
        seed=4,
    )


def batch_of(seed: int, size: int = 16) -> LabelledBatch:
    draw = np.random.default_rng(seed)

    def lists(below: int, most: int) -> list[list[int]]:
        return [draw.integers(below, size=draw.integers(most + 1)).tolist() for _ in range(size)]

    return LabelledBatch(
        bags={
            "user": Bag.of_lists(draw.integers(40, size=(size, 1)).tolist()),
            "item": Bag.of_lists(draw.integers(30, size=(size, 1)).tolist()),
            "liked": Bag.of_lists(lists(30, 3)),
            "genres": Bag.of_lists(lists(2, 2)),
        },
        numbers_BM=draw.standard_normal((size, 1)).astype(np.float32),
        labels_B=draw.integers(2, size=size).astype(np.float32),
        weights_B=np.ones(size, np.float32),
        request_ids=[f"{seed}-{at}" for at in range(size)],
        user_ids=[0] * size,
        item_ids=[0] * size,
        times_ms_B=np.full(size, 1000 + seed),
        read_at_ms_B=np.zeros(size, np.int64),
    )


def shards_of_groups(recommender: Recommender, num_shards: int) -> list[LocalRows]:
    return [
        LocalRows(recommender.groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        for shard in range(num_shards)
    ]


def store_of(recommender: Recommender, num_shards: int | None) -> RowStore:
    if num_shards is None:
        return LocalRows(recommender.groups)
    shards = shards_of_groups(recommender, num_shards)
    return ShardedRows(recommender.groups, [LocalShard(shard) for shard in shards])


def trained(kind: str = "collisionless", num_shards: int | None = None, steps: int = 4) -> Trainer:
    recommender = Recommender(blueprint(kind))
    trainer = Trainer(recommender, store_of(recommender, num_shards))
    trainer.start()
    for step in range(steps):
        trainer.step(batch_of(step))
    return trainer


def restored(checkpoint: Checkpoint, num_shards: int | None = None) -> Trainer:
    recommender = Recommender(checkpoint.blueprint)
    store = store_of(recommender, num_shards)
    store.restore(checkpoint.rows)
    return Trainer(recommender, store)


def feature_state() -> FeatureState:
    state = FeatureState(keep_items=3)
    for user in (7, "7", -(2**63), 2**63 - 1):
        for time_ms in range(5):
            state.count_impression(user, f"tt{time_ms}", time_ms)
        state.count_like(user, 2**53 + 1, 3)
    state.put_facts("user", 7, 0, {"age": 0.1, "work": "ärztin"})
    state.put_facts("user", 7, 9, {"age": 0.2})
    state.put_facts("item", "tt1", 0, {"genres": ["Drama"], "year": 1995, "title": '"Quoted", Title'})
    return state


def checkpoint_of(trainer: Trainer, about: str = "first") -> Checkpoint:
    return Checkpoint(
        blueprint=trainer.recommender.blueprint,
        joiners=[{"features": feature_state().to_json(), "position": [["actions", 0, 12], ["facts", 1, 2**40]]}],
        about={"data": about, "time_ms": 5},
        step=2**40,
        position={"0": [7, 2**53 + 1]},
        rows=trainer.store.snapshot(),
    )


class Run:
    """A run over ``num_shards`` shards. It adds to its own last checkpoint, where it may."""

    def __init__(self, checkpoints: Checkpoints, num_shards: int, first_step: int = 0) -> None:
        admission = {"kind": "frequency", "occurrences": 2, "max_bytes": 2**12}
        self.blueprint = blueprint(admission=admission)
        self.recommender = Recommender(self.blueprint)
        self.checkpoints, self.step = checkpoints, first_step
        self.shards = shards_of_groups(self.recommender, num_shards)
        self.store = ShardedRows(self.recommender.groups, [LocalShard(shard) for shard in self.shards])
        self._trainer = Trainer(self.recommender, self.store)
        self._trainer.start()
        self._last: tuple[str, list[Cursor]] | None = None

    def train(self, steps: int = 2) -> None:
        """Steps, and deletions after each."""
        for _ in range(steps):
            self.step += 1
            self._trainer.step(batch_of(self.step))
            self.store.delete({"item": np.array([self.step % 30]), "user": np.array([self.step % 40])})

    def snapshots(self, since: list[Cursor] | None = None) -> list[Snapshot]:
        cursors = since or [None] * len(self.shards)
        return [shard.snapshot(after, whole=(DENSE,)) for shard, after in zip(self.shards, cursors, strict=True)]

    def whole(self) -> dict[str, dict[str, Any]]:
        """Everything that it holds now, in order."""
        return in_order(merge_snapshots(self.snapshots()))

    def save(self) -> str:
        base = self.checkpoints.base(len(self.shards))
        since = self._last[1] if self._last is not None and self._last[0] == base else None
        held = self.snapshots(since)
        name, folder = self.checkpoints.begin()
        parts = [write_part(folder, f"shard-{at}", without_dense(part)) for at, part in enumerate(held)]
        dense = merge_snapshots([Snapshot((0,), {DENSE: part.groups[DENSE]}) for part in held]).groups[DENSE]
        self.checkpoints.commit(name, parts, dense, self.state(), base if since else None)
        for shard, part in zip(self.shards, held, strict=True):
            shard.acknowledge("checkpoint", part.cursor)
        self._last = name, [part.cursor for part in held]
        return name

    def state(self) -> State:
        return State(
            blueprint=self.blueprint,
            joiners=[{"features": {}, "position": []}],
            about={"time_ms": self.step},
            step=self.step,
            position={"0": [self.step, 0]},
        )


def without_dense(snapshot: Snapshot) -> Snapshot:
    groups = {name: group for name, group in snapshot.groups.items() if name != DENSE}
    return Snapshot(snapshot.cursor, groups, snapshot.since)


def in_order(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """All of a snapshot's groups, rows in the order of their keys: bytes, so that even a NaN equals itself."""
    return {name: _in_order(group) for name, group in sorted(snapshot.groups.items())}


def _in_order(group: GroupSnapshot) -> dict[str, Any]:
    order, waiting = np.argsort(group.keys_U), np.argsort(group.candidate_keys_C)
    columns = {
        "keys": group.keys_U,
        "rows": group.rows_UW,
        "times": group.event_times_U,
        "sequences": group.sequences_U,
        **{f"state.{name}": values for name, values in group.state.items()},
        **({} if group.own_steps_U is None else {"own_steps": group.own_steps_U}),
    }
    found = {name: (values.dtype, values.shape, values[order].tobytes()) for name, values in columns.items()}
    candidates = group.candidate_keys_C[waiting].tolist(), group.candidate_counts_C[waiting].tolist()
    return {**found, "candidates": candidates, "counters": (group.time_ms, group.num_steps)}
