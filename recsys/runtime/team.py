"""Several workers of one training in epochs: actors that share each batch out, over one parameter server.

A batch is cut into a part a worker, in its order, so that a step is one step of one process over the whole batch
(``recsys.ps.steps``); with a staleness of 0 the two differ by rounding alone. Two things are a worker's own: batch
normalisation's statistics, and what ``clip_norm`` bounds. Predictions are made by all, and judged together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import ray
import torch

from recsys.batches.batch import LabelledBatch
from recsys.errors import ConfigError
from recsys.hashing import Floats
from recsys.models.computing import Computing
from recsys.models.recommender import Blueprint, Recommender
from recsys.ps.client import ShardedRows
from recsys.ps.worker import WorkerRows
from recsys.runtime.actors import Placement, start_actor, wait_for
from recsys.runtime.near import near
from recsys.runtime.shards import RayShard
from recsys.training.trainer import StepResult, Trainer


@dataclass(frozen=True)
class _Learned:
    """What a worker's part of a step was."""

    result: StepResult
    weight: float
    clipped: bool


class TeamWorker:
    """The actor: a trainer over the shards, which is handed its parts of batches."""

    def __init__(
        self,
        worker: int,
        blueprint: Blueprint,
        computing: Computing,
        shards: Sequence[RayShard],
        num_steps: int,
        clip_norm: float | None,
    ) -> None:
        torch.set_num_threads(1)  # cores are shared with the other workers and the shards
        recommender = Recommender(blueprint).compute(computing)
        self._rows = WorkerRows(recommender.groups, near(shards, recommender.groups), worker=worker)
        self._trainer = Trainer(recommender, self._rows, worker=worker, num_steps=num_steps, clip_norm=clip_norm)
        self._upcoming: LabelledBatch | None = None

    def learn(self, batch: LabelledBatch | None, upcoming: LabelledBatch | None) -> _Learned:
        """A step of ``batch``, or of what was ``upcoming`` before; answers when it is applied, as staleness allows."""
        batch = self._upcoming if batch is None else batch
        assert batch is not None
        self._upcoming, clipped_before = upcoming, self._trainer.num_clipped
        result = self._trainer.step(batch, upcoming=upcoming)
        self._rows.flush()
        return _Learned(result, float(batch.weights_B.sum()), self._trainer.num_clipped > clipped_before)

    def predict(self, batch: LabelledBatch) -> Floats:
        """Probabilities (B,)."""
        return self._trainer.predict(batch)


class Team:
    """A Learner: what ``epochs.fit`` drives, of ``num_workers`` actors.

    ``store`` is the parameter server's; ServiceError where a worker or a shard dies: the run is resumed from its
    checkpoint.
    """

    def __init__(
        self,
        recommender: Recommender,
        shards: Sequence[RayShard],
        *,
        num_workers: int,
        num_steps: int = 0,
        clip_norm: float | None = None,
        placement: Placement | None = None,
    ) -> None:
        self.recommender, self.store = recommender, ShardedRows(recommender.groups, shards)
        self.num_steps, self.num_clipped = num_steps, 0
        told = recommender.blueprint, recommender.computing, list(shards), num_steps, clip_norm
        self._workers = [start_actor(TeamWorker, worker, *told, placement=placement) for worker in range(num_workers)]
        self._upcoming: LabelledBatch | None = None  # which the workers have

    def start(self) -> None:
        """Give a new store its dense parameters."""
        self.store.restore(self.recommender.start_state())

    def steps(self, batches: Iterable[LabelledBatch]) -> Iterator[StepResult]:
        """A step for each batch, the rows of the next one read meanwhile."""
        for batch, upcoming in pairwise(chain(batches, [None])):
            assert batch is not None
            yield self._step(batch, upcoming)

    def predict(self, batch: LabelledBatch) -> Floats:
        """Probabilities (B,), in the order of the batch."""
        parts = [part for part in self._parts(batch) if part.num_examples]
        asked = [worker.predict.remote(part) for worker, part in zip(self._workers, parts, strict=False)]
        probabilities_B: Floats = np.concatenate(_all(asked))
        return probabilities_B

    def slow_down(self, factor: float) -> None:
        """ConfigError: the parameter server keeps its learning rates."""
        raise ConfigError(f"learning rates can not be lowered to {factor} of what they were on the parameter server")

    def _step(self, batch: LabelledBatch, upcoming: LabelledBatch | None) -> StepResult:
        known = batch is self._upcoming
        parts: Sequence[LabelledBatch | None] = [None] * len(self._workers) if known else self._parts(batch)
        following: Sequence[LabelledBatch | None] = [None] * len(parts) if upcoming is None else self._parts(upcoming)
        self._upcoming = upcoming
        asked = [w.learn.remote(*pair) for w, *pair in zip(self._workers, parts, following, strict=True)]
        learned: list[_Learned] = _all(asked)
        self.num_steps += 1
        self.num_clipped += any(part.clipped for part in learned)
        weights = np.array([part.weight for part in learned])
        losses = np.array([part.result.loss for part in learned])
        return StepResult(
            np.concatenate([part.result.probabilities_B for part in learned]),
            float((losses * weights).sum() / max(weights.sum(), np.finfo(np.float64).tiny)),
            sum(part.result.num_unknown for part in learned),
        )

    def _parts(self, batch: LabelledBatch) -> list[LabelledBatch]:
        """A batch in as many parts as there are workers, which differ by one example at most."""
        ends = np.linspace(0, batch.num_examples, len(self._workers) + 1).astype(int)
        return [batch.part(int(start), int(end)) for start, end in pairwise(ends)]


def _all(answers: Sequence[Any]) -> list[Any]:
    """All answers in order; an error as soon as there is one: the others may wait for who raised it."""
    waiting = list(answers)
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        wait_for(done)
    return [wait_for(answer) for answer in answers]
