"""A stream rehearsed: copies answer as of their last sync, training knows nothing of them, a lost shard goes back."""

import numpy as np
import pytest
from test_trainer import batch_of, blueprint, trainer_of

from recsys.batches.batch import LabelledBatch
from recsys.errors import ConfigError
from recsys.hashing import Floats
from recsys.ps.routing import belongs
from recsys.training.metrics import ProgressiveMetrics
from recsys.training.rehearsal import Evaluation, LostShard, rehearse, with_lost_shard
from recsys.training.trainer import Trainer

SIZE, NUM_BATCHES = 6, 20
NUM_EXAMPLES = SIZE * NUM_BATCHES


def stream() -> list[LabelledBatch]:
    draw = np.random.default_rng(0)
    return [
        batch_of(draw.integers(0, 12, SIZE).tolist(), draw.integers(0, 12, SIZE).tolist(), time_ms=at)
        for at in range(NUM_BATCHES)
    ]


def rehearsed(evaluation: Evaluation) -> tuple[Trainer, dict[str, Floats]]:
    trainer = trainer_of(blueprint("collisionless"))
    steps: list[int] = []
    found = rehearse(trainer, stream(), NUM_EXAMPLES, evaluation, steps.append)
    assert steps == list(range(1, NUM_BATCHES + 1))
    return trainer, {name: probabilities(metrics) for name, metrics in found.items()}


def probabilities(metrics: ProgressiveMetrics) -> Floats:
    found = metrics.columns()["probabilities"]
    assert isinstance(found, np.ndarray)
    return found.astype(np.float32)


def test_copies_answer_as_of_their_last_sync() -> None:
    """Of the last 10 batches: as they begin; before the first and the sixth; before each, as the trainer itself."""
    _, found = rehearsed(Evaluation(page="x", last=0.5, syncs=(1, 2, 10)))
    trainer, batches = trainer_of(blueprint("collisionless")), stream()
    for batch in batches[:10]:
        trainer.step(batch)
    frozen = [trainer.predict(batch) for batch in batches[10:]]
    np.testing.assert_array_equal(found["1"], np.concatenate(frozen))
    for batch in batches[10:15]:
        trainer.step(batch)
    later = [trainer.predict(batch) for batch in batches[15:]]
    np.testing.assert_array_equal(found["2"], np.concatenate([*frozen[:5], *later]))
    np.testing.assert_array_equal(found["10"], found["live"])
    assert not np.array_equal(found["1"], found["live"])


def test_training_knows_nothing_of_copies() -> None:
    (one, few), (other, many) = (rehearsed(Evaluation(page="x", syncs=syncs)) for syncs in ((1,), (7, 3, 100)))
    np.testing.assert_array_equal(few["live"], many["live"])
    for name, group in one.store.snapshot().groups.items():
        np.testing.assert_array_equal(group.rows_UW, other.store.snapshot().groups[name].rows_UW)


def test_a_lost_shard_goes_back_alone() -> None:
    """Rows, optimizer state, and its part of the dense parameters; the others are as they were."""
    trainer, batches = trainer_of(blueprint("collisionless")), stream()
    for batch in batches[:5]:
        trainer.step(batch)
    kept = trainer.store.snapshot()
    for batch in batches[5:]:
        trainer.step(batch)
    now = trainer.store.snapshot()
    trainer.store.restore(with_lost_shard(trainer.store, kept, 3))
    after = trainer.store.snapshot()
    for name, group in trainer.store.groups.items():
        for shard in range(3):
            expected = (kept if shard == 0 else now).groups[name].select(lambda k: belongs(group, shard, 3, k))  # noqa: B023
            found = after.groups[name].select(lambda k: belongs(group, shard, 3, k))  # noqa: B023
            order, sought = np.argsort(found.keys_U), np.argsort(expected.keys_U)
            np.testing.assert_array_equal(found.keys_U[order], expected.keys_U[sought])
            np.testing.assert_array_equal(found.rows_UW[order], expected.rows_UW[sought])
            for state in found.state:
                np.testing.assert_array_equal(found.state[state][order], expected.state[state][sought])


def test_a_shard_that_loses_nothing_changes_nothing() -> None:
    nothing = LostShard(shards=2, at=0.5, back_to=0.5)
    whole, same, fresh = (
        rehearsed(Evaluation(page="x", last=0.5, syncs=(3,), lost_shard=lost))[1]
        for lost in (None, nothing, LostShard(shards=2, at=0.5, back_to=0.0))
    )
    for name in whole:
        np.testing.assert_array_equal(whole[name], same[name])
        assert not np.array_equal(whole[name], fresh[name])  # the copy is told of what went back


def test_a_shard_goes_back_not_ahead() -> None:
    with pytest.raises(ConfigError, match=r"back_to=0\.8 is after at=0\.7"):
        LostShard(shards=2, at=0.7, back_to=0.8)
