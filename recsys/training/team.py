"""Several workers of one training in epochs, which share each batch out over one parameter server.

A batch is cut into a part a worker, in its order, so that a step is one step of one process over the whole batch
(``recsys.ps.steps``); with a staleness of 0 the two differ by rounding alone. Two things are a worker's own: batch
normalisation's statistics, and what ``clip_norm`` bounds. Predictions are made by all, and judged together.

Nothing here knows of Ray: workers are asked by whoever has them (``Ask``).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np

from recsys.batches.batch import LabelledBatch
from recsys.errors import ConfigError
from recsys.hashing import Floats
from recsys.models.recommender import Recommender
from recsys.rows.store import RowStore
from recsys.training.trainer import StepResult, Trainer

# Calls a method of as many workers as there are arguments, side by side; their answers in that order.
Ask = Callable[[str, Sequence[tuple[Any, ...]]], list[Any]]


@dataclass(frozen=True)
class Learned:
    """What a worker's part of a step was."""

    result: StepResult
    weight: float
    clipped: bool


class TeamMember:
    """One worker: a trainer over the shards, which is handed its parts of batches."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._upcoming: LabelledBatch | None = None

    def learn(self, batch: LabelledBatch | None, upcoming: LabelledBatch | None) -> Learned:
        """A step of ``batch``, or of what was ``upcoming`` before; answers when it is applied, as staleness allows."""
        batch = self._upcoming if batch is None else batch
        assert batch is not None
        self._upcoming, clipped_before = upcoming, self._trainer.num_clipped
        result = self._trainer.step(batch, upcoming=upcoming)
        self._trainer.store.flush()
        return Learned(result, float(batch.weights_B.sum()), self._trainer.num_clipped > clipped_before)

    def predict(self, batch: LabelledBatch) -> Floats:
        """Probabilities (B,)."""
        return self._trainer.predict(batch)


class Team:
    """A Learner: what ``epochs.fit`` drives, of ``num_workers`` members that ``ask`` reaches.

    ``store`` is the parameter server's. What ``ask`` raises ends the run, which is resumed from its checkpoint.
    """

    def __init__(
        self, recommender: Recommender, store: RowStore, ask: Ask, *, num_workers: int, num_steps: int = 0
    ) -> None:
        self.recommender, self.store = recommender, store
        self.num_steps, self.num_clipped = num_steps, 0
        self._ask, self._num_workers = ask, num_workers
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
        parts = [(part,) for part in self._parts(batch) if part.num_examples]
        probabilities_B: Floats = np.concatenate(self._ask("predict", parts))
        return probabilities_B

    def slow_down(self, factor: float) -> None:
        """ConfigError: the parameter server keeps its learning rates."""
        raise ConfigError(f"learning rates can not be lowered to {factor} of what they were on the parameter server")

    def _step(self, batch: LabelledBatch, upcoming: LabelledBatch | None) -> StepResult:
        nothing: Sequence[LabelledBatch | None] = [None] * self._num_workers
        parts = nothing if batch is self._upcoming else self._parts(batch)
        following = nothing if upcoming is None else self._parts(upcoming)
        self._upcoming = upcoming
        learned: list[Learned] = self._ask("learn", list(zip(parts, following, strict=True)))
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
        ends = np.linspace(0, batch.num_examples, self._num_workers + 1).astype(int)
        return [batch.part(int(start), int(end)) for start, end in pairwise(ends)]
