"""Through shared memory a worker's steps are what they are through Ray, and nothing of it is left behind."""

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import DataError
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


def test_without_shared_memory_everything_goes_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(capacity: int) -> Lane:
        raise LaneLost("no shared memory")

    monkeypatch.setattr(Lane, "create", none)
    shards = start_shards(GROUPS[:1], 1, Begin(start=Snapshot((0,), {}), members={0: 1}))
    far = NearShard(shards[0], {"user": 4})
    rows = WorkerRows(GROUPS[:1], [far])
    keys = {"user": np.array([1, 2])}
    np.testing.assert_array_equal(rows.pull(keys)["user"], GROUPS[0].absent_rows(keys["user"]))


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
