"""The one training loop: predict, then learn, then push. Batch jobs and online workers run the same step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from recsys import hashing
from recsys.batches.batch import KeepRates, LabelledBatch
from recsys.hashing import Floats
from recsys.models.recommender import Planned, Recommender
from recsys.rows.store import RowStore, StreamPosition
from recsys.training.clipping import clip
from recsys.training.magnitudes import raise_thresholds, rising_tables
from recsys.training.plateau import slowed


@dataclass(frozen=True)
class StepResult:
    """What a step saw before it learned."""

    probabilities_B: Floats
    loss: float
    num_unknown: int = 0  # ids left out because their table can not hold them


class Learner(Protocol):
    """What trains in epochs: a Trainer, or several workers that are driven like one."""

    recommender: Recommender
    num_steps: int
    num_clipped: int

    @property
    def store(self) -> RowStore:
        """Where its rows live."""

    def start(self) -> None:
        """Give a new store its dense parameters."""

    def steps(self, batches: Iterable[LabelledBatch]) -> Iterator[StepResult]:
        """A step for each batch."""

    def predict(self, batch: LabelledBatch) -> Floats:
        """Probabilities (B,), learning nothing."""

    def slow_down(self, factor: float) -> None:
        """Go on at ``factor`` of all learning rates so far; ConfigError where the store can not."""


class Trainer:
    """Trains a recommender on batches over a row store, wherever its rows live.

    ``num_steps`` counts steps. What one draws at random follows from the blueprint's seed, ``worker`` and its number.
    ``clip_norm`` bounds the norm of a step's gradients; ``num_clipped`` counts the steps that reached it. After each
    step, where ``held_out`` is given, tables learn from a batch of it what they say is learned from other examples.
    """

    def __init__(
        self,
        recommender: Recommender,
        store: RowStore,
        *,
        worker: int = 0,
        num_steps: int = 0,
        clip_norm: float | None = None,
        held_out: Iterator[LabelledBatch] | None = None,
    ) -> None:
        self.recommender, self.store = recommender, store
        self.worker, self.num_steps = worker, num_steps
        self.clip_norm, self.num_clipped = clip_norm, 0
        self._upcoming: Planned | None = None
        self._draws = any(isinstance(module, nn.Dropout) for module in recommender.modules())
        self._prunes = bool(rising_tables(recommender))
        own = [name for table in recommender.embeddings.tables.values() for name in table.held_out_groups]
        self._held_out = held_out if own else None
        self._held_out_groups = own if self._held_out is not None else []

    def start(self) -> None:
        """Give a new store its dense parameters."""
        self.store.restore(self.recommender.start_state())

    def step(
        self, batch: LabelledBatch, *, upcoming: LabelledBatch | None = None, position: StreamPosition | None = None
    ) -> StepResult:
        """Pull the batch's rows, predict, learn from the labels, push the gradients.

        The predictions are those of before the learning: progressive evaluation needs no second pass. Rows of the
        ``upcoming`` batch, where it is known, are read meanwhile. ``position`` is where the stream stands afterwards.
        """
        planned = self._planned(batch)
        rows = self.store.pull(planned.keys)
        if upcoming is not None and self._held_out is None:  # else another pull comes before
            self._upcoming = self.recommender.plan(upcoming)
            self.store.prefetch(self._upcoming.keys)
        self._seed_step()
        logits_B, looked = self.recommender(planned, rows)
        loss = self._loss(logits_B, batch)
        loss.backward()
        if self._prunes:
            raise_thresholds(self.recommender, self.store, self.num_steps + 1)
        gradients = self.recommender.gradients(looked)
        gradients = {name: gradients[name] for name in gradients if name not in self._held_out_groups}
        if self.clip_norm is not None:
            self.num_clipped += clip(gradients, self.clip_norm)
        self.store.push(
            gradients,
            int(batch.times_ms_B.max(initial=0)),
            weight=float(batch.weights_B.sum()),
            position=position,
        )
        if self._held_out is not None:
            self._learn_held_out(next(self._held_out))
        self.num_steps += 1
        with torch.no_grad():
            return StepResult(torch.sigmoid(logits_B).numpy(), loss.item(), planned.num_unknown)

    def slow_down(self, factor: float) -> None:
        """Go on at ``factor`` of all learning rates so far; ConfigError where the store can not.

        The rates' course is part of the blueprint from here on, so that a checkpoint goes on by it.
        """
        computing = self.recommender.computing
        self.recommender = Recommender(slowed(self.recommender.blueprint, self.num_steps, factor)).compute(computing)
        self.store.retune(self.recommender.groups)

    def steps(self, batches: Iterable[LabelledBatch]) -> Iterator[StepResult]:
        """A step for each batch, the rows of the next one read meanwhile."""
        for batch, upcoming in pairwise(chain(batches, [None])):
            assert batch is not None
            yield self.step(batch, upcoming=upcoming)

    def predict(self, batch: LabelledBatch) -> Floats:
        """Probabilities (B,), learning nothing."""
        return self.recommender.predict(batch, self.store)

    def _learn_held_out(self, batch: LabelledBatch) -> None:
        """A step of the row groups alone that learn from held-out examples."""
        planned = self.recommender.plan(batch)
        self._seed_step("held out")
        logits_B, looked = self.recommender(planned, self.store.pull(planned.keys))
        self._loss(logits_B, batch).backward()
        gradients = self.recommender.gradients(looked)
        self.store.push({name: gradients[name] for name in self._held_out_groups}, int(batch.times_ms_B.max(initial=0)))

    def _planned(self, batch: LabelledBatch) -> Planned:
        planned, self._upcoming = self._upcoming, None
        return planned if planned is not None and planned.batch is batch else self.recommender.plan(batch)

    def _seed_step(self, of: str = "step") -> None:
        """Let dropout, and tables, draw by (seed, worker, step): a run that goes on draws what it would have."""
        seed = hashing.seed_of(self.recommender.blueprint.seed, of, self.worker, self.num_steps)
        self.recommender.embeddings.begin_step(seed)
        if self._draws:
            torch.manual_seed(seed)

    def _loss(self, logits_B: torch.Tensor, batch: LabelledBatch) -> torch.Tensor:
        losses_B = cross_entropy(logits_B, torch.from_numpy(batch.labels_B), batch.rates)
        weights_B = torch.from_numpy(batch.weights_B)
        total = weights_B.sum().clamp_min(torch.finfo(torch.float32).tiny)  # all may be 0: nothing to learn
        return (losses_B * weights_B).sum() / total + self.recommender.embeddings.penalty()


def cross_entropy(logits_B: torch.Tensor, labels_B: torch.Tensor, rates: KeepRates | None) -> torch.Tensor:
    """Cross-entropy of the examples that sampling kept, such that its best logits are the whole stream's.

    See ``recsys.batches.sampling``: logits are shifted to the sampled odds, and an example counts as
    positives / own of a positive and negatives / own of a negative.
    """
    if rates is None:
        return functional.binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none")
    own_B, positives_B, negatives_B = map(torch.from_numpy, rates)
    odds_B = positives_B / negatives_B
    losses_B = functional.binary_cross_entropy_with_logits(
        logits_B + odds_B.log(), labels_B, pos_weight=odds_B, reduction="none"
    )
    return negatives_B / own_B * losses_B
