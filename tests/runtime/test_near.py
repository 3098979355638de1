"""Through shared memory a worker's steps are what they are through Ray, and nothing of it is left behind."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from recsys.errors import DataError
from recsys.ps.absence import sparing
from recsys.ps.routing import shards_of
from recsys.ps.worker import WorkerRows
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import Adagrad, Adam
from recsys.rows.policies import FrequencyAdmission
from recsys.rows.store import RowGroup, Snapshot
from recsys.runtime import near as near_module
from recsys.runtime.actors import wait_for
from recsys.runtime.bells import Answer, Bell, Door
from recsys.runtime.lanes import PUSH, READ, Lane, LaneLost
from recsys.runtime.near import NearShard, near
from recsys.runtime.shards import Begin, start_shards

GROUPS = [
    RowGroup(name="user", width=4, optimizer=Adagrad(learning_rate=0.1), initial=Initial(scale=0.5), seed=3),
    RowGroup(name="item", width=3, optimizer=Adam(learning_rate=0.1), num_rows=5000),
    RowGroup(name="rare", width=2, optimizer=Adagrad(learning_rate=0.1), admission=FrequencyAdmission(occurrences=4)),
]
pytestmark = pytest.mark.usefixtures("ray_is_up")


def left_behind() -> list[str]:
    return [path.name for path in Path("/dev/shm").glob("recsys-*")]


def test_steps_through_shared_memory_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """With lanes that have to grow, reads ahead, counts, and now and then a shard that has forgotten its lane."""
    monkeypatch.setattr(near_module, "_FIRST_BYTES", 1)
    before = left_behind()
    shards = start_shards(GROUPS, 2, Begin(start=Snapshot((0,), {}), members={0: 1}))
    theirs, mine = WorkerRows(GROUPS, near(shards, GROUPS)), LocalRows(GROUPS)
    draw = np.random.default_rng(0)

    def keys_of(size: int) -> dict[str, np.ndarray]:
        return {
            "user": np.unique(draw.integers(-(10**6), 10**6, size)),
            "item": np.unique(draw.integers(0, 5000, size)),
            "rare": np.unique(draw.integers(0, 50, min(size, 30))),
        }

    batches = [keys_of(int(size)) for size in draw.integers(1, 3000, 40)]
    for at, keys in enumerate(batches):
        expected, found = mine.pull(keys), theirs.pull(keys)
        for name in keys:
            np.testing.assert_array_equal(expected[name], found[name])
            assert found[name].flags.writeable
        if at % 3 and at + 1 < len(batches):
            theirs.prefetch(batches[at + 1])
        gradients = {
            name: (k, draw.normal(size=(len(k), GROUPS[i].width)).astype(np.float32), np.ones(len(k), np.int64))
            for i, (name, k) in enumerate(keys.items())
        }
        mine.push(gradients, at)
        theirs.push(gradients, at)
        if at % 10 == 9:
            theirs.flush()
            for shard in shards:
                wait_for(shard.actor.close_lanes.remote())
    theirs.flush()
    assert theirs.num_rows() == mine.num_rows()
    everything = {"user": np.unique(np.concatenate([keys["user"] for keys in batches]))}
    np.testing.assert_array_equal(mine.pull(everything)["user"], theirs.pull(everything)["user"])
    assert left_behind() == before


def test_a_read_ahead_that_is_not_wanted_harms_nothing() -> None:
    shards = start_shards(GROUPS[:1], 1, Begin(start=Snapshot((0,), {}), members={0: 1}))
    rows = WorkerRows(GROUPS[:1], near(shards, GROUPS))
    first, second = {"user": np.arange(1000)}, {"user": np.arange(5, 10)}
    rows.pull(second)
    rows.prefetch(first)
    np.testing.assert_array_equal(rows.pull(second)["user"], GROUPS[0].absent_rows(second["user"]))
    rows.prefetch(first)
    rows.push({"user": (second["user"], np.ones((5, 4), np.float32))}, 0)
    expected = GROUPS[0].absent_rows(first["user"])
    expected[5:10] = rows.pull(second)["user"]
    np.testing.assert_array_equal(rows.pull(first)["user"], expected)


@pytest.fixture
def no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between machines: everything goes by Ray."""

    def none(capacity: int) -> Lane:
        raise LaneLost("no shared memory")

    monkeypatch.setattr(Lane, "create", none)


@pytest.mark.usefixtures("no_shared_memory")
def test_without_shared_memory_everything_goes_by_ray() -> None:
    shards = start_shards(GROUPS[:1], 1, Begin(start=Snapshot((0,), {}), members={0: 1}))
    far = NearShard(shards[0], {"user": 4})
    rows = WorkerRows(GROUPS[:1], [far])
    keys = {"user": np.array([1, 2])}
    np.testing.assert_array_equal(rows.pull(keys)["user"], GROUPS[0].absent_rows(keys["user"]))


@pytest.mark.usefixtures("no_shared_memory")
def test_a_worker_goes_on_without_a_far_shard_and_takes_it_up_again() -> None:
    """As far as the worker can tell the shard is on another machine; Ray makes it anew, without a checkpoint."""
    group, keys_N = GROUPS[0], np.arange(100)
    shards = start_shards([group], 2, Begin(start=Snapshot((0,), {}), members={0: 1}, restarts=1))
    rows = WorkerRows([group], sparing(near([replace(shard, waits=False) for shard in shards], [group]), [group]))
    is_gone_N = shards_of(group, keys_N, 2) == 1
    first_NW, taken = group.absent_rows(keys_N), 0

    def stepped() -> np.ndarray:
        """Rows before one more step, which changes them all."""
        rows_NW = rows.pull({"user": keys_N})["user"]
        rows.push({"user": (keys_N, np.ones((100, 4), np.float32))}, 0)
        rows.flush()
        return rows_NW

    while taken < 5:
        stepped()
        taken += 1
    ray.kill(shards[1].actor, no_restart=False)
    deadline, look = time.monotonic() + 60, shards[1].actor.look.remote()
    reads_as_absent: list[bool] = []
    while reads_as_absent[-2:] != [True, False] and time.monotonic() < deadline:
        reads_as_absent.append(bool((stepped() == first_NW)[is_gone_N].all()))
        taken += 1
        if look is not None and ray.wait([look], timeout=0)[0]:  # as the driver does: tell it once who takes part
            is_made_again = wait_for(look)["made_again_at"] > 0
            look = None if is_made_again else shards[1].actor.look.remote()
            if is_made_again:
                shards[1].call("expect", {0: 1})()
    looks = [shard.call("look")() for shard in shards]
    assert [look["applied"] for look in looks] == [taken, taken]
    assert looks[0]["lost"] == 0
    assert looks[1]["lost"] >= 5 + reads_as_absent.count(True) - 1  # its own, and those that were taken without it
    for look, is_there_N in zip(looks, (~is_gone_N, is_gone_N), strict=True):
        known = LocalRows([group])
        for _ in range(taken - look["lost"]):
            known.push({"user": (keys_N, np.ones((100, 4), np.float32))}, 0)
        np.testing.assert_array_equal(
            rows.pull({"user": keys_N})["user"][is_there_N], known.pull({"user": keys_N})["user"][is_there_N]
        )


def test_what_a_shard_raises_is_raised_here() -> None:
    (shard,) = near(start_shards(GROUPS, 1, Begin(start=Snapshot((0,), {}), members={0: 1})), GROUPS)
    with pytest.raises(DataError, match=r"item.*5000"):
        shard.call("pull", {"item": np.array([5000])})()
    keys = {"item": np.array([4999])}
    np.testing.assert_array_equal(shard.call("pull", keys)()["item"], GROUPS[1].absent_rows(keys["item"]))


def test_answers_are_found_by_their_numbers() -> None:
    with_name = Lane.create(1)
    door = Door(with_name.name)
    theirs, mine = Bell.opened(with_name.name), door.accept()
    with_name.unlink()
    door.close()
    for number in (1, 2, 3):
        theirs.send(Answer(number, failed=number == 2))
    assert [mine.answer_to(number) for number in (3, 1, 2)] == [Answer(3), Answer(1), Answer(2, failed=True)]
    theirs.close()
    with pytest.raises(LaneLost, match="the other end is gone"):
        mine.answer_to(4)
    with pytest.raises(LaneLost):
        Bell.opened(with_name.name)


def test_regions_do_not_overlap() -> None:
    lane = Lane.create(100)
    other = Lane.opened(lane.name)
    lane.unlink()
    full = np.arange(lane.capacity // 8)
    (read,) = lane.put(READ, {"a": full})
    (push,) = lane.put(PUSH, {"b": -full})
    np.testing.assert_array_equal(other.get(READ, read)[0]["a"], full)
    np.testing.assert_array_equal(other.get(PUSH, push)[0]["b"], -full)
    with pytest.raises(LaneLost):
        Lane.opened(lane.name)
    with pytest.raises(LaneLost):
        Lane.opened("../../etc/passwd")
