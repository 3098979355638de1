"""The parameter server on Ray: the same answers as rows in this process, and the same errors."""

import time

import numpy as np
import pytest
import ray

from recsys.errors import ConfigError, DataError, ServiceError
from recsys.ps.client import ShardedRows
from recsys.ps.wire import PackedKeys, PackedRows
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import Adagrad, Adam
from recsys.rows.store import RowGroup, RowStore, Snapshot
from recsys.runtime.actors import ActorDied, has_died, start_actor, wait_for
from recsys.runtime.shards import Begin, RowShard, start_shards

GROUPS = [
    RowGroup(name="user", width=4, optimizer=Adagrad(learning_rate=0.1), initial=Initial(scale=0.5), seed=3),
    RowGroup(name="item", width=3, optimizer=Adam(learning_rate=0.1), num_rows=50),
]


@pytest.fixture(scope="module")
def server(ray_is_up: None) -> RowStore:
    return ShardedRows(GROUPS, start_shards(GROUPS, 2))


def test_many_random_calls_answer_as_rows_in_this_process(server: RowStore) -> None:
    local, draw = LocalRows(GROUPS), np.random.default_rng(0)
    for step in range(60):
        keys = {
            "user": draw.integers(-(2**63), 2**63 - 1, 5).astype(np.int64) // 2**60,
            "item": draw.integers(0, 50, 7),
        }
        gradients = {
            name: (k, draw.normal(size=(len(k), w)).astype(np.float32))
            for (name, k), w in zip(keys.items(), (4, 3), strict=True)
        }
        if step % 10 == 9:
            server.delete({"user": keys["user"]})
            local.delete({"user": keys["user"]})
        for store in (server, local):
            store.push(gradients, event_time_ms=step)
        mine, theirs = local.pull(keys), server.pull(keys)
        for name in keys:
            np.testing.assert_array_equal(mine[name], theirs[name])
            assert theirs[name].flags.writeable
    assert server.num_rows() == local.num_rows()
    assert_same_snapshot(server, local)
    assert sum(len(u.keys_U) for u in server.changes("redis").upserts.values()) == sum(local.num_rows().values())


def test_restores_what_another_number_of_shards_saved(server: RowStore) -> None:
    three = ShardedRows(GROUPS, start_shards(GROUPS, 3))
    three.restore(server.snapshot())
    assert_same_snapshot(three, server)


def test_errors_come_out_as_they_went_in(server: RowStore) -> None:
    with pytest.raises(DataError, match="outside"):
        server.pull({"item": np.array([50])})
    with pytest.raises(ConfigError, match="unknown row group 'film'"):
        server.pull({"film": np.array([0])})
    with pytest.raises(DataError, match="NaN or infinite"):
        server.push({"user": (np.array([1]), np.full((1, 4), np.nan, np.float32))}, 0)


def test_a_dead_actor_is_a_service_error(ray_is_up: None) -> None:
    actor = start_actor(RowShard, GROUPS, 0, 1, Begin(start=Snapshot((0,), {})))
    with pytest.raises(DataError, match="row key 50 is outside"):  # raised there, caught here
        wait_for(actor.run.remote("pull", {"item": np.array([50])}))
    ray.kill(actor)
    with pytest.raises(ServiceError, match=r"a \w+ died"):
        for _ in range(600):  # it dies soon, not at once
            wait_for(actor.look.remote())
            time.sleep(0.05)


def test_in_every_life_of_a_shard_its_changes_are_newer_than_all_before(ray_is_up: None) -> None:
    """It returns to the same rows twice; what it published in between must not win over what comes after."""
    (shard,) = start_shards(GROUPS, 1, Begin(start=Snapshot((0,), {}), restarts=2))
    versions = []
    for life, pushes in enumerate((3, 2, 1)):
        if life:
            ray.kill(shard.actor, no_restart=False)
        while shard.call("look")()["made_again_at"] == (versions[-1][0] if versions else -1):
            time.sleep(0.05)
        for _ in range(pushes):
            shard.call("call", "push", {"user": (np.array([7]), np.ones((1, 4), np.float32))}, 0)()
        changed = shard.call("call", "changes", "redis")().upserts["user"]
        versions.append((shard.call("look")()["made_again_at"], int(changed.sequences_U[changed.keys_U == 7].item())))
    assert versions[0][1] < versions[1][1] < versions[2][1]


def test_what_keeps_an_actor_from_being_made_is_said_and_no_death(ray_is_up: None) -> None:
    """Another in its place would meet it too: nobody recovers from that."""
    actor = start_actor(RowShard, GROUPS, 0, 1, Begin(start=Snapshot((0,), {}), checkpoints="/nowhere", name="none"))
    answer = actor.ready.remote()
    with pytest.raises(ServiceError, match="a Ray actor could not be made: DataError: no checkpoint in /") as raised:
        wait_for(answer)
    assert not isinstance(raised.value, ActorDied)
    assert not has_died(answer)


def test_packing_round_trip() -> None:
    keys = {"a": np.array([1, 2]), "b": np.empty(0, np.int64), "c": np.array([-1])}
    rows = {name: np.random.default_rng(0).normal(size=(len(k), 3)).astype(np.float32) for name, k in keys.items()}
    for name, unpacked in PackedKeys.of(keys).unpack().items():
        np.testing.assert_array_equal(unpacked, keys[name])
    for name, numbers in PackedRows.of(rows).unpack().items():
        np.testing.assert_array_equal(numbers, rows[name])
    assert PackedKeys.of({}).unpack() == {} == PackedRows.of({}).unpack()


def assert_same_snapshot(one: RowStore, other: RowStore) -> None:
    first, second = one.snapshot().groups, other.snapshot().groups
    assert first.keys() == second.keys()
    for name in first:
        order, other_order = np.argsort(first[name].keys_U), np.argsort(second[name].keys_U)
        np.testing.assert_array_equal(first[name].keys_U[order], second[name].keys_U[other_order])
        np.testing.assert_array_equal(first[name].rows_UW[order], second[name].rows_UW[other_order])
        for state in first[name].state:
            np.testing.assert_array_equal(first[name].state[state][order], second[name].state[state][other_order])
