"""Batch normalisation through the store: a worker's steps are torch's, several workers' statistics are their mean."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_recommender_over_shards import BLUEPRINT, InTorchAlone, batch_of, sharded
from test_workers import shards_for
from torch import nn
from torch.nn import functional

from recsys.errors import ConfigError
from recsys.models.recommender import Recommender
from recsys.ps.dense import STATISTICS, Statistics
from recsys.ps.worker import WorkerRows
from recsys.rows.local import LocalRows
from recsys.rows.store import RowStore
from recsys.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recsys.training.trainer import Trainer

SIZES = {"user": 12, "item": 9}
PLAN = replace(
    BLUEPRINT,
    features=tuple(replace(feature, num_embeddings=SIZES.get(feature.table_name)) for feature in BLUEPRINT.features),
    model={"kind": "deepfm", "hidden_sizes": [16, 8], "batch_norm": True},
    # not Adam: a bias before batch normalisation has a gradient of rounding errors alone, which Adam makes steps of
    dense_optimizer={"kind": "momentum", "learning_rate": 0.05},
)


def batch(step: int):
    return batch_of(step, SIZES["user"], SIZES["item"])


def store_for(recommender: Recommender, num_shards: int) -> RowStore:
    return sharded(recommender, num_shards) if num_shards else LocalRows(recommender.groups)


def buffers_of(module: nn.Module) -> list[torch.Tensor]:
    return [buffer for name, buffer in module.named_buffers() if not name.endswith("tracked")]


@pytest.mark.parametrize("num_shards", [0, 2])
def test_twenty_steps_with_batch_norm_are_those_of_torch_alone(num_shards: int) -> None:
    ours = Recommender(PLAN)
    store = store_for(ours, num_shards)
    trainer = Trainer(ours, store)
    trainer.start()
    reference = InTorchAlone(Recommender(PLAN), store, SIZES)
    rows_optimizer = torch.optim.Adagrad(reference.bags.parameters(), lr=0.1)
    dense_optimizer = torch.optim.SGD(reference.model.parameters(), lr=0.05, momentum=0.9)
    for step in range(20):
        result = trainer.step(batch(step))
        expected_B = reference(batch(step))
        np.testing.assert_allclose(result.probabilities_B, torch.sigmoid(expected_B).detach(), rtol=0, atol=1e-6)
        functional.binary_cross_entropy_with_logits(expected_B, torch.from_numpy(batch(step).labels_B)).backward()
        for optimizer in (rows_optimizer, dense_optimizer):
            optimizer.step()
            optimizer.zero_grad()
    fresh = Recommender(PLAN)
    predicted_B = fresh.predict(batch(99), store)  # what it knows it has pulled
    np.testing.assert_allclose(predicted_B, torch.sigmoid(reference.eval()(batch(99))).detach(), rtol=0, atol=1e-6)
    for mine, theirs in zip(buffers_of(fresh), buffers_of(reference), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
        assert not torch.equal(mine, torch.zeros_like(mine)) and not torch.equal(mine, torch.ones_like(mine))


def test_predicting_leaves_the_statistics_alone() -> None:
    recommender = Recommender(PLAN)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    trainer.step(batch(0))
    keys = {STATISTICS: recommender.statistics.keys}
    before = trainer.store.pull(keys)[STATISTICS]
    first = trainer.predict(batch(1))
    np.testing.assert_array_equal(trainer.predict(batch(1)), first)
    np.testing.assert_array_equal(trainer.store.pull(keys)[STATISTICS], before)


def test_two_workers_statistics_are_the_mean_of_theirs_by_weight() -> None:
    shards = shards_for(Recommender(PLAN), 2, 2)
    parts = [replace(batch(worker), weights_B=np.full(16, weight, np.float32)) for worker, weight in ((0, 3), (1, 1))]
    observed: dict[int, np.ndarray] = {}

    def train(worker: int) -> None:
        recommender = Recommender(PLAN)
        trainer = Trainer(recommender, WorkerRows(recommender.groups, shards, worker=worker), worker=worker)
        trainer.step(parts[worker])
        observed[worker] = recommender.statistics.rows()  # what this worker's pass has left

    threads = [threading.Thread(target=train, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recommender = Recommender(PLAN)
    store = WorkerRows(recommender.groups, shards)
    held = store.pull({STATISTICS: recommender.statistics.keys})[STATISTICS]
    assert not np.allclose(observed[0], observed[1], atol=1e-3)
    np.testing.assert_allclose(held, 0.75 * observed[0] + 0.25 * observed[1], rtol=0, atol=1e-6)


def test_statistics_go_with_a_checkpoint(tmp_path: Path) -> None:
    recommender = Recommender(PLAN)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    for step in range(5):
        trainer.step(batch(step))
    save_checkpoint(tmp_path, Checkpoint(blueprint=PLAN, joiners=[], about={}, rows=trainer.store.snapshot()))
    loaded = load_checkpoint(tmp_path)
    again = Recommender(loaded.blueprint)
    store = LocalRows(again.groups)
    store.restore(loaded.rows)
    other = Trainer(again, store, num_steps=trainer.num_steps)
    np.testing.assert_array_equal(other.predict(batch(50)), trainer.predict(batch(50)))
    np.testing.assert_array_equal(other.step(batch(51)).probabilities_B, trainer.step(batch(51)).probabilities_B)
    np.testing.assert_array_equal(other.predict(batch(50)), trainer.predict(batch(50)))


def test_a_model_that_remembers_nothing_has_no_such_group() -> None:
    assert STATISTICS not in {group.name for group in Recommender(BLUEPRINT).groups}
    assert STATISTICS not in Recommender(BLUEPRINT).start_state().groups


def test_only_floats_are_remembered() -> None:
    with pytest.raises(ConfigError, match=r"keeps num_batches_tracked, torch.int64: rows are float32"):
        Statistics(nn.BatchNorm1d(3))
    net = nn.Module()
    net.register_buffer("places", torch.arange(3), persistent=False)  # follows from the config
    assert not Statistics(net)
