"""Any sequence of pushes, pulls, deletes, expiry, growth, snapshots and restores, against a plain dict.

Short sequences that hypothesis chooses and shrinks, on keys chosen to collide; and one long one: a million
operations here, ten million by ``make fuzz-rows``.
"""

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from store_model import Model, guarded_group
from test_collisionless_index import OTHERS, colliding

from recsys.hashing import Keys
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows.local import LocalRows
from recsys.rows.store import RowStore, Snapshot

LONG = int(os.environ.get("RECSYS_FUZZ_OPERATIONS", "1000000"))  # keys pushed, pulled or deleted
COLLIDING = colliding(1023, 2**32 - 1, 20) + colliding(1023, 0, 20) + [0, -1, 2**63 - 1, -(2**63)]


def sharded(num_shards: int, candidate_bytes: int) -> RowStore:
    group = guarded_group(candidate_bytes)
    shards = [
        LocalRows([group], buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        for shard in range(num_shards)
    ]
    return ShardedRows([group], [LocalShard(shard) for shard in shards])


STORES: dict[str, Callable[[int], RowStore]] = {
    "local": lambda candidate_bytes: LocalRows([guarded_group(candidate_bytes)], threads=1),
    "2 threads": lambda candidate_bytes: LocalRows([guarded_group(candidate_bytes)], threads=2),
    "3 shards": lambda candidate_bytes: sharded(3, candidate_bytes),
}
FEW_WAIT, MANY_WAIT = 2**18, 2**25  # bytes with which nobody has to leave: the model counts everybody


def check(store: RowStore, model: Model) -> None:
    part = store.snapshot().groups["t"]
    rows = zip(part.rows_UW[:, 0].tolist(), part.event_times_U.tolist(), strict=True)
    assert dict(zip(part.keys_U.tolist(), rows, strict=True)) == model.rows
    waiting = dict(zip(part.candidate_keys_C.tolist(), part.candidate_counts_C.tolist(), strict=True))
    assert waiting == {key: count for key, count in model.waiting.items() if count}
    assert store.num_rows() == {"t": len(model.rows)}


KEYS = st.lists(st.sampled_from(COLLIDING), max_size=40)


class StoreAgainstModel(RuleBasedStateMachine):
    """Two consumers mirror the store on the way, one of which may crash before it acknowledges."""

    start = "local"

    @initialize(grown=st.booleans())
    def begin(self, grown: bool) -> None:
        self.store, self.model = STORES[self.start](FEW_WAIT), Model()
        self.snapshots: list[tuple[Snapshot, Model]] = []
        self.mirror: dict[int, float] = {}
        if grown:
            self.push_keys(np.concatenate([OTHERS, OTHERS]), 0, 0)

    def push_keys(self, keys: Keys, seed: int, time_ms: int) -> None:
        gradients = np.random.default_rng(seed).integers(-4, 5, len(keys)).astype(np.float32)
        self.store.push({"t": (keys, gradients[:, None])}, time_ms)
        self.model.push(keys, gradients, time_ms)

    @rule(keys=KEYS, seed=st.integers(0, 9), seconds=st.integers(0, 12))
    def push(self, keys: list[int], seed: int, seconds: int) -> None:
        self.push_keys(np.array(keys, np.int64), seed, 1000 * seconds)

    @rule(keys=KEYS, seconds=st.integers(0, 6))
    def push_much_later(self, keys: list[int], seconds: int) -> None:
        self.push_keys(np.array(keys, np.int64), 1, max(0, self.model.clock_ms) + 1000 * seconds)

    @rule(first=st.integers(0, 3))
    def grow(self, first: int) -> None:
        """More new keys than there are: segments move, while others are read and written."""
        keys = np.arange(3000, dtype=np.int64) * 2**40 + first
        self.push_keys(np.repeat(keys, 2), 2, max(0, self.model.clock_ms))

    @rule(keys=KEYS)
    def delete(self, keys: list[int]) -> None:
        self.store.delete({"t": np.array(keys, np.int64)})
        self.model.delete(np.array(keys, np.int64))

    @rule(crash=st.booleans())
    def consume(self, crash: bool) -> None:
        changes = self.store.changes("mirror")
        if "t" in changes.complete:
            self.mirror = {}
        upserts = changes.upserts["t"]
        self.mirror.update(zip(upserts.keys_U.tolist(), upserts.rows_UW[:, 0].tolist(), strict=True))
        for key in changes.deletes["t"].keys_U.tolist():
            self.mirror.pop(key, None)
        assert self.mirror == {key: value for key, (value, _) in self.model.rows.items()}
        if not crash:
            self.store.acknowledge("mirror", changes.cursor)

    @rule()
    def snapshot(self) -> None:
        self.snapshots.append((self.store.snapshot(), self.model.copy()))

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 9))
    def restore(self, which: int) -> None:
        snapshot, model = self.snapshots[which % len(self.snapshots)]
        self.store.restore(snapshot)
        self.model = model.copy()

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 9), name=st.sampled_from(list(STORES)))
    def restore_elsewhere(self, which: int, name: str) -> None:
        snapshot, model = self.snapshots[which % len(self.snapshots)]
        self.store, self.model, self.mirror = STORES[name](FEW_WAIT), model.copy(), {}
        self.store.restore(snapshot)

    @rule(keys=KEYS)
    def pull(self, keys: list[int]) -> None:
        asked = np.array(keys, np.int64)
        assert self.store.pull({"t": asked})["t"][:, 0].tolist() == self.model.pull(asked)

    @invariant()
    def everything_is_the_models(self) -> None:
        check(self.store, self.model)


@pytest.mark.parametrize("name", list(STORES))
def test_any_sequence_of_calls_against_a_dict(name: str) -> None:
    run_state_machine_as_test(
        type("Started", (StoreAgainstModel,), {"start": name}),
        settings=settings(max_examples=40, stateful_step_count=20),
    )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["2 threads", "3 shards"])
def test_a_long_run_against_a_dict(name: str) -> None:
    """Few keys and many, sorted and repeated; the store grows to its largest, expires, and is restored on the way."""
    generator = np.random.default_rng(7)
    store, model = STORES[name](MANY_WAIT), Model()
    done, time_ms, looked = 0, 0, 0
    while done < LONG // 2:
        spread = int(generator.choice([50, 2_000, 60_000]))
        keys = generator.integers(0, spread, int(generator.integers(1, 4_000))) * 2**44 - 2**62
        time_ms += int(generator.choice([0, 10, 500, 3_000], p=[0.5, 0.3, 0.19, 0.01]))
        action = generator.random()
        if action < 0.6:
            gradients = generator.integers(-4, 5, len(keys)).astype(np.float32)
            if generator.random() < 0.3:
                keys, gradients = np.unique(keys), gradients[: len(np.unique(keys))]
            store.push({"t": (keys, gradients[:, None])}, time_ms)
            model.push(keys, gradients, time_ms)
        elif action < 0.9:
            assert store.pull({"t": keys})["t"][:, 0].tolist() == model.pull(keys)
        else:
            store.delete({"t": keys})
            model.delete(keys)
        done += len(keys)
        if done - looked > LONG // 40:
            looked = done
            check(store, model)
            snapshot = store.snapshot()
            if generator.random() < 0.3:
                store = STORES[name](MANY_WAIT)
                store.restore(snapshot)
    check(store, model)
    assert len(model.rows) > 1_000
