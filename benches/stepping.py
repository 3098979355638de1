"""Steps of a worker, to be timed: unique rows read and pushed, or a whole model trained.

Shape suffixes: N keys of a step, W row width, B examples.
"""

import time
from dataclasses import dataclass

import numpy as np

from recsys.batches.batch import Bag, LabelledBatch
from recsys.features.declarations import Feature
from recsys.hashing import Floats, Keys, mix64
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.optimizers import RowWiseAdagrad
from recsys.rows.store import RowGroup, RowStore
from recsys.training.trainer import Trainer

_NAMES = [f"feature-{at}" for at in range(8)]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    rows: int = 4_000_000
    ids: int = 30_000  # unique rows a step
    width: int = 16
    steps: int = 60
    rounds: int = 9
    saved_rows: int = 5_000_000
    examples: int = 512  # a training step


@dataclass(frozen=True)
class StepBatches:
    """The keys and gradients of some steps."""

    keys: list[Keys]
    gradients: list[Floats]

    @property
    def num_rows(self) -> int:
        """Rows of all steps."""
        return sum(map(len, self.keys))


def bench_group(sizes: Sizes) -> RowGroup:
    """One collisionless group."""
    return RowGroup(name="item", width=sizes.width, optimizer=RowWiseAdagrad(learning_rate=0.05))


def batches_for(sizes: Sizes, seed: int) -> StepBatches:
    """Distinct random keys out of ``rows``, and gradients for them."""
    draw = np.random.default_rng(seed)
    keys = [
        np.unique(mix64(draw.integers(0, sizes.rows, sizes.ids), seed=1).view(np.int64)) for _ in range(sizes.steps)
    ]
    gradient_NW = draw.standard_normal((sizes.ids, sizes.width), np.float32)
    return StepBatches(keys, [gradient_NW[: len(keys_N)] for keys_N in keys])


def timed_steps(store: RowStore, batches: StepBatches, *, ahead: bool = False) -> float:
    """Seconds for all steps: pull, push, and with ``ahead`` the next step's rows asked for between the two."""
    asked = [{"item": keys_N} for keys_N in batches.keys]
    started = time.perf_counter()
    for at, (keys, gradients_NW) in enumerate(zip(asked, batches.gradients, strict=True)):
        store.pull(keys)
        if ahead and at + 1 < len(asked):
            store.prefetch(asked[at + 1])
        store.push({"item": (keys["item"], gradients_NW)}, 0)
    store.flush()
    return time.perf_counter() - started


def bench_model(sizes: Sizes) -> Recommender:
    """DeepFM over eight features of many ids."""
    blueprint = Blueprint(
        features=tuple(Feature(name=name, kind="id", source="item.id") for name in _NAMES),
        table={"kind": "collisionless", "embedding_dim": sizes.width},
        model={"kind": "deepfm", "hidden_sizes": [64, 32]},
        optimizer={"kind": "rowwise_adagrad", "learning_rate": 0.05},
        dense_optimizer={"kind": "adam", "learning_rate": 0.001},
    )
    return Recommender(blueprint)


def learner(sizes: Sizes, rows: RowStore, worker: int = 0) -> tuple[Trainer, list[LabelledBatch]]:
    """Trains ``bench_model`` over rows that hold its start, and its batches."""
    draw = np.random.default_rng(worker)
    return Trainer(bench_model(sizes), rows, worker=worker), [_batch(sizes, draw) for _ in range(sizes.steps)]


def _batch(sizes: Sizes, draw: np.random.Generator) -> LabelledBatch:
    num = sizes.examples
    offsets = np.arange(num + 1)
    return LabelledBatch(
        bags={name: Bag(draw.zipf(1.2, num) % sizes.rows, offsets) for name in _NAMES},
        numbers_BM=np.zeros((num, 0), np.float32),
        labels_B=draw.integers(0, 2, num).astype(np.float32),
        weights_B=np.ones(num, np.float32),
        request_ids=[""] * num,
        user_ids=[0] * num,
        item_ids=[0] * num,
        times_ms_B=np.zeros(num, np.int64),
        read_at_ms_B=np.zeros(num, np.int64),
    )
