"""Any number of workers and shards learns what one process does that takes all their batches at once."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_recommender_over_shards import BLUEPRINT, batch_of

from recsys.batches.batch import Bag, LabelledBatch
from recsys.errors import ServiceError
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.client import Pending
from recsys.ps.pacing import Pace
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.ps.steps import Steps
from recsys.ps.worker import WorkerRows
from recsys.rows.local import LocalRows
from recsys.rows.store import Snapshot
from recsys.training.trainer import Trainer

STEPS = 200
OPTIMIZERS = {
    "sgd": {"kind": "sgd", "learning_rate": 0.1},
    "adagrad": {"kind": "adagrad", "learning_rate": 0.05},
    "adam": {"kind": "adam", "learning_rate": 0.001},
}


def joined(batches: Sequence[LabelledBatch]) -> LabelledBatch:
    """Several batches as one, in their order."""

    def bag(name: str) -> Bag:
        lists = [
            part.ids_N[start:stop].tolist()
            for part in (batch.bags[name] for batch in batches)
            for start, stop in zip(part.offsets[:-1], part.offsets[1:], strict=True)
        ]
        return Bag.of_lists(lists)

    return LabelledBatch(
        bags={name: bag(name) for name in batches[0].bags},
        numbers_BM=np.concatenate([batch.numbers_BM for batch in batches]),
        labels_B=np.concatenate([batch.labels_B for batch in batches]),
        weights_B=np.concatenate([batch.weights_B for batch in batches]),
        request_ids=[id_ for batch in batches for id_ in batch.request_ids],
        user_ids=[id_ for batch in batches for id_ in batch.user_ids],
        item_ids=[id_ for batch in batches for id_ in batch.item_ids],
        times_ms_B=np.concatenate([batch.times_ms_B for batch in batches]),
        read_at_ms_B=np.concatenate([batch.read_at_ms_B for batch in batches]),
    )


def shards_for(recommender: Recommender, num_shards: int, num_workers: int, staleness: int = 0) -> list[LocalShard]:
    shards = []
    for shard in range(num_shards):
        store = LocalRows(recommender.groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        steps = Steps(store, staleness=staleness, members=dict.fromkeys(range(num_workers), 1))
        shards.append(LocalShard(store, steps))
    WorkerRows(recommender.groups, shards).restore(recommender.start_state())
    return shards


def part_of(step: int, worker: int) -> LabelledBatch:
    whole = batch_of(1000 * step + worker, num_users=60, num_items=40)
    weights_B = np.where(np.arange(16) < 16 - 5 * worker, whole.weights_B, 0).astype(np.float32)
    return replace(whole, weights_B=weights_B)


def learned(
    blueprint: Blueprint, num_workers: int, num_shards: int, *, staleness: int = 0, ahead: bool = True
) -> tuple[Snapshot, np.ndarray]:
    """Rows after all steps, and the losses of each worker's batches (worker, step)."""
    shards = shards_for(Recommender(blueprint), num_shards, num_workers, staleness)
    losses = np.zeros((num_workers, STEPS))
    errors: list[BaseException] = []

    def train(worker: int) -> None:
        try:
            recommender = Recommender(blueprint)
            rows = WorkerRows(recommender.groups, shards, worker=worker)
            trainer = Trainer(recommender, rows, worker=worker)
            batches = [part_of(step, worker) for step in range(STEPS)]
            results = list(trainer.steps(batches)) if ahead else [trainer.step(batch) for batch in batches]
            rows.flush()
            losses[worker] = [result.loss for result in results]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=train, args=(worker,)) for worker in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return WorkerRows(Recommender(blueprint).groups, shards).snapshot(), losses


def in_one_process(blueprint: Blueprint, num_workers: int) -> tuple[Snapshot, np.ndarray]:
    recommender = Recommender(blueprint)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    steps = [joined([part_of(step, worker) for worker in range(num_workers)]) for step in range(STEPS)]
    return trainer.store.snapshot(), np.array([trainer.step(batch).loss for batch in steps])


def blueprint_of(optimizer: str) -> Blueprint:
    fields = OPTIMIZERS[optimizer]
    features = tuple(replace(feature, num_embeddings=None) for feature in BLUEPRINT.features)
    return replace(
        BLUEPRINT,
        features=features,
        table={"kind": "collisionless", "embedding_dim": 4},
        optimizer=fields,
        dense_optimizer=fields,
    )


def assert_close(one: Snapshot, other: Snapshot, tolerance: float) -> None:
    for name, a in one.groups.items():
        b = other.groups[name]
        order, its_order = np.argsort(a.keys_U), np.argsort(b.keys_U)
        np.testing.assert_array_equal(a.keys_U[order], b.keys_U[its_order])
        np.testing.assert_allclose(a.rows_UW[order], b.rows_UW[its_order], rtol=0, atol=tolerance)
        np.testing.assert_array_equal(a.event_times_U[order], b.event_times_U[its_order])


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize(("num_workers", "num_shards"), [(1, 3), (2, 1), (2, 2), (3, 2)])
def test_rows_are_those_of_one_process(optimizer: str, num_workers: int, num_shards: int) -> None:
    blueprint = blueprint_of(optimizer)
    trainer_rows, _ = learned(blueprint, num_workers, num_shards)
    recommender = Recommender(blueprint)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    for step in range(STEPS):
        trainer.step(joined([part_of(step, worker) for worker in range(num_workers)]))
    assert_close(trainer_rows, trainer.store.snapshot(), 1e-5)


def test_losses_with_adam_are_those_of_one_process() -> None:
    blueprint = blueprint_of("adam")
    weights = np.array([[part_of(step, worker).weights_B.sum() for step in range(STEPS)] for worker in range(2)])
    _, losses = learned(blueprint, 2, 2)
    _, expected = in_one_process(blueprint, 2)
    np.testing.assert_allclose((losses * weights).sum(axis=0) / weights.sum(axis=0), expected, rtol=0, atol=1e-4)


def test_what_is_read_ahead_is_what_would_have_been_read() -> None:
    """Bit for bit, at staleness 0: rows that the running step touches are read again."""
    blueprint = blueprint_of("adagrad")
    ahead, ahead_losses = learned(blueprint, 2, 2)
    after, after_losses = learned(blueprint, 2, 2, ahead=False)
    np.testing.assert_array_equal(ahead_losses, after_losses)
    assert_close(ahead, after, 0)


def test_a_stale_run_learns_too() -> None:
    blueprint = blueprint_of("adagrad")
    _, losses = learned(blueprint, 2, 2, staleness=3)
    _, fresh = learned(blueprint, 2, 2)
    assert np.isfinite(losses).all()
    assert abs(losses[:, -50:].mean() - fresh[:, -50:].mean()) < 0.05


class RefusingShard:
    """Refuses a push; its answer, as one that comes through a bell, can be had once."""

    def __init__(self, shard: LocalShard) -> None:
        self._shard = shard

    def call(self, method: str, *arguments: object) -> Pending:
        if method != "push":
            return self._shard.call(method, *arguments)
        answers = iter([ServiceError("refused")])

        def answer() -> None:
            raise next(answers, AssertionError("asked for twice: a bell would never ring"))

        return answer


@pytest.mark.parametrize("ahead", [False, True])
def test_a_refused_push_is_said_once_and_the_worker_can_leave(ahead: bool) -> None:
    recommender = Recommender(BLUEPRINT)
    [shard] = shards_for(recommender, num_shards=1, num_workers=1)
    rows = WorkerRows(recommender.groups, [RefusingShard(shard)], pace=Pace(reads_ahead=ahead))
    trainer = Trainer(recommender, rows)
    trainer.step(part_of(0, 0), upcoming=(following := part_of(1, 0)))
    with pytest.raises(ServiceError, match="refused"):
        trainer.step(following)
    rows.leave()
