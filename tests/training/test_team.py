"""Workers that share batches out learn what one process does, and are judged on all that they predict."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_epochs import Quiet, blueprint_of, board, file, trainer_of  # noqa: F401

from recsys.models.recommender import Recommender
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.ps.steps import Steps
from recsys.ps.worker import WorkerRows
from recsys.rows.local import LocalRows
from recsys.training.epochs import Fitting, fit
from recsys.training.fit import evaluate
from recsys.training.team import Team, TeamMember
from recsys.training.trainer import Trainer

PLAIN = {
    "model": {"kind": "deepfm", "hidden_sizes": [8]},  # what dropout draws is a worker's own
    "optimizer": {"kind": "adagrad", "learning_rate": 0.1, "weight_decay": 0.01},
    "dense_optimizer": {"kind": "adagrad", "learning_rate": 0.02},
}
HOW = Fitting(validate_every_steps=7, monitor="gauc")


def team_of(num_workers: int, threads: ThreadPoolExecutor, num_shards: int = 2, **fields: Any) -> Team:
    """In this process: a thread a worker."""
    recommender = Recommender(blueprint_of(**fields))
    shards = []
    for shard in range(num_shards):
        store = LocalRows(recommender.groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        shards.append(LocalShard(store, Steps(store, members=dict.fromkeys(range(num_workers), 1))))
    members = []
    for worker in range(num_workers):
        own = Recommender(blueprint_of(**fields))
        members.append(TeamMember(Trainer(own, WorkerRows(own.groups, shards, worker=worker), worker=worker)))

    def ask(method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        asked = [threads.submit(getattr(member, method), *of) for member, of in zip(members, arguments, strict=False)]
        return [answer.result(timeout=60) for answer in asked]

    team = Team(recommender, ShardedRows(recommender.groups, shards), ask, num_workers=num_workers)
    team.start()
    return team


@pytest.mark.parametrize("num_workers", [2, 3])
def test_they_learn_what_one_process_does(num_workers: int, board: Path) -> None:  # noqa: F811
    """1,000 examples in batches of 111: parts of unequal sizes, and a last batch of one example."""
    alone = trainer_of(blueprint_of(**PLAIN))
    with ThreadPoolExecutor(num_workers) as threads:
        team = team_of(num_workers, threads, **PLAIN)
        courses = [
            fit(each, file(board), file(board, 5000), epochs=2, batch_size=111, seed=3, how=HOW, watcher=Quiet())
            for each in (alone, team)
        ]
        assert courses[0].num_steps == courses[1].num_steps == team.num_steps == 20
        for found, expected in zip(courses[1].history, courses[0].history, strict=True):
            assert found == pytest.approx(expected, abs=1e-5)
        assert evaluate(team, file(board), 333) == pytest.approx(evaluate(alone, file(board)), abs=1e-5)
    ours, theirs = team.store.snapshot().groups, alone.store.snapshot().groups
    for name, group in theirs.items():
        order, other = np.argsort(group.keys_U), np.argsort(ours[name].keys_U)
        np.testing.assert_array_equal(group.keys_U[order], ours[name].keys_U[other])
        np.testing.assert_allclose(group.rows_UW[order], ours[name].rows_UW[other], rtol=0, atol=1e-5)


def test_judged_together_is_no_mean_of_workers(board: Path) -> None:  # noqa: F811
    with ThreadPoolExecutor(2) as threads:
        team = team_of(2, threads, **PLAIN)
        for _ in team.steps(file(board).batches(100, seed=[0, 0])):
            pass
        (batch,) = file(board, 5000).batches(1000)
        probabilities_B = team.predict(batch)
        halves = [batch.part(0, 500), batch.part(500, 1000)]
        apart_B = np.concatenate([team.predict(half) for half in halves])
        np.testing.assert_allclose(probabilities_B, apart_B, rtol=0, atol=1e-6)
        assert evaluate(team, file(board, 5000), 1000)["num_examples"] == 1000
