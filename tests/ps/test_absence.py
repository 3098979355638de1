"""A worker goes on without a shard that is away, and what that costs is counted."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from test_recommender_over_shards import BLUEPRINT, batch_of

from recsys.models.recommender import Recommender
from recsys.ps.absence import ShardAway, sparing
from recsys.ps.client import EveryShardLost, Pending, ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.ps.steps import Steps
from recsys.ps.worker import WorkerRows
from recsys.rows.local import LocalRows
from recsys.rows.store import DENSE, Snapshot
from recsys.training.trainer import Trainer


class Mortal:
    """A shard that dies, and comes back as the snapshot that it began with when it is told to."""

    def __init__(self, recommender: Recommender, shard: int, num_shards: int, num_workers: int = 1) -> None:
        self._recommender, self._share, self._members = recommender, (shard, num_shards), range(num_workers)
        self.is_gone, self.num_polls, self._comes_after = False, 0, 0
        self.inner = self._made(lost=False)

    def call(self, method: str, *arguments: Any) -> Pending:
        if self.is_gone and method in ("pull", "prefetch", "push"):
            raise ShardAway("killed")
        return self.inner.call(method, *arguments)

    def back(self) -> Callable[[], bool]:
        def come() -> bool:
            self.num_polls += 1
            if self.is_gone and self.num_polls > self._comes_after:
                self.is_gone = False
            return not self.is_gone

        return come

    def die(self, comes_after_polls: int) -> None:
        kept: Snapshot = self.inner.shard.store.snapshot()
        self.inner = self._made(lost=True)
        self.inner.shard.store.restore(kept)
        self.is_gone, self.num_polls, self._comes_after = True, 0, comes_after_polls

    def _made(self, lost: bool) -> LocalShard:
        shard, num_shards = self._share
        store = LocalRows(self._recommender.groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        applied = self.inner.shard.steps.applied if lost else 0
        return LocalShard(store, Steps(store, applied=applied, members=dict.fromkeys(self._members, 1), lost=lost))


def trained(num_shards: int, steps: int, at: Mapping[int, Callable[[list[Mortal]], None]]) -> tuple[list[Mortal], Any]:
    recommender = Recommender(BLUEPRINT)
    shards = [Mortal(recommender, shard, num_shards) for shard in range(num_shards)]
    rows = WorkerRows(recommender.groups, sparing(shards, recommender.groups))
    rows.restore(recommender.start_state())
    trainer = Trainer(recommender, rows)
    for step in range(steps):
        if step in at:
            rows.flush()
            at[step](shards)
        trainer.step(batch_of(step, num_users=60, num_items=40))
    rows.leave()
    return shards, ShardedRows(recommender.groups, shards)


def test_the_others_learn_on_while_one_is_away() -> None:
    shards, reader = trained(2, 40, {20: lambda shards: shards[1].die(comes_after_polls=30)})
    looks = reader.look()
    assert [look["applied"] for look in looks] == [40, 40]
    assert looks[0]["lost"] == 0
    assert 1 <= looks[1]["lost"] < 20  # it took part again before the end
    assert shards[1].num_polls == 31
    answers = reader.at_one_step([("num_rows",)] * 2)
    assert reader.step == 40 and all(answers)


def test_one_that_is_away_until_the_end_is_told_of_it() -> None:
    shards, reader = trained(2, 30, {20: lambda shards: shards[0].die(comes_after_polls=10_000)})
    assert [look["applied"] for look in reader.look()] == [20, 30]
    shards[0].is_gone = False
    reader.at_one_step([("num_rows",)] * 2)  # for ever, if it was not told
    assert [(look["applied"], look["lost"]) for look in reader.look()] == [(30, 10), (30, 0)]


def test_where_there_is_no_other_one_waits() -> None:
    shards, reader = trained(1, 40, {20: lambda shards: shards[0].die(comes_after_polls=5)})
    (look,) = reader.look()
    assert (look["applied"], look["lost"]) == (40, 0)
    assert shards[0].num_polls == 6


def test_what_is_read_meanwhile() -> None:
    """Rows as ids without a row read them, dense parameters as they were last."""
    recommender = Recommender(BLUEPRINT)
    mortals = [Mortal(recommender, shard, 2) for shard in range(2)]
    away, _ = shards = sparing(mortals, recommender.groups)
    rows = WorkerRows(recommender.groups, shards)
    rows.restore(recommender.start_state())
    group = next(group for group in recommender.groups if group.name != DENSE)
    dense = mortals[0].inner.shard.store.snapshot().groups[DENSE]
    keys = {group.name: np.arange(3), DENSE: dense.keys_U}
    known = away.call("pull", keys)()
    mortals[0].die(comes_after_polls=10_000)
    read = away.call("prefetch", 0, 1, keys)()
    np.testing.assert_array_equal(read[group.name], group.absent_rows(np.arange(3)))
    np.testing.assert_array_equal(read[DENSE], known[DENSE])
    assert away.call("push", None, True)() == {}
    mortals[0].is_gone = False
    np.testing.assert_array_equal(away.call("pull", keys)()[DENSE], dense.rows_UW)
    assert mortals[0].inner.shard.steps.is_lost  # told that steps went by


@pytest.mark.parametrize("method", ["look", "position"])
def test_other_calls_are_the_shards_own(method: str) -> None:
    recommender = Recommender(BLUEPRINT)
    mortal = Mortal(recommender, 0, 1)
    (shard,) = sparing([mortal], recommender.groups)
    mortal.is_gone = True
    assert shard.call(method)() == mortal.inner.call(method)()


@pytest.mark.parametrize("applied", [(10,), (10, 20)])
def test_shards_that_are_all_lost_when_nobody_trains_any_more_are_no_instant_to_save(applied: tuple[int, ...]) -> None:
    """What was learned after their checkpoints is nowhere: it would be saved as if it had never been."""
    recommender = Recommender(BLUEPRINT)
    shards = []
    for shard, step in enumerate(applied):
        store = LocalRows(recommender.groups, buckets=shard_buckets(shard, len(applied)), num_buckets=NUM_BUCKETS)
        shards.append(LocalShard(store, Steps(store, applied=step, lost=True)))
    with pytest.raises(EveryShardLost, match=r"every shard was made anew .from step 10., and nobody trains any more"):
        ShardedRows(recommender.groups, shards).at_one_step([("num_rows",)] * len(applied))


def test_a_shard_made_anew_between_two_looks_is_not_taken_for_the_one_before() -> None:
    """It answers at once, for nobody trains any more: with rows of a step that is long over."""
    recommender = Recommender(BLUEPRINT)
    store = LocalRows(recommender.groups, buckets=shard_buckets(0, 1), num_buckets=NUM_BUCKETS)
    shard = LocalShard(store, Steps(store, applied=30))

    class DiesAfterOneLook:
        looks = 0

        def call(self, method: str, *arguments: Any) -> Pending:
            nonlocal shard
            answer = shard.call(method, *arguments)
            if method == "look":
                self.looks += 1
                shard = LocalShard(store, Steps(store, applied=10, lost=True))
            return answer

    mortal = DiesAfterOneLook()
    with pytest.raises(EveryShardLost):
        ShardedRows(recommender.groups, [mortal]).at_one_step([("num_rows",)])
    assert mortal.looks == 2
