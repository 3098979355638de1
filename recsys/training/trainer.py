"""The one training loop: predict, then learn, then push. Batch jobs and online workers run the same step."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from recsys.batches.batch import LabelledBatch
from recsys.hashing import Floats
from recsys.models.recommender import Recommender
from recsys.ps.dense import DENSE
from recsys.rows.store import RowStore


@dataclass(frozen=True)
class StepResult:
    """What a step saw before it learned."""

    probabilities_B: Floats
    loss: float
    num_unknown: int = 0  # ids left out because their table can not hold them


class Trainer:
    """Trains a recommender on batches over a row store, wherever its rows live."""

    def __init__(self, recommender: Recommender, store: RowStore) -> None:
        self.recommender, self.store = recommender, store
        self.num_steps = 0

    def start(self) -> None:
        """Give a new store its dense parameters."""
        self.store.restore(self.recommender.start_state())

    def step(self, batch: LabelledBatch) -> StepResult:
        """Pull the batch's rows, predict, learn from the labels, push the gradients.

        The predictions are those of before the learning: progressive evaluation needs no second pass.
        """
        planned = self.recommender.plan(batch)
        rows = self.store.pull(planned.keys)
        logits_B, looked = self.recommender(planned, rows)
        loss = self._loss(logits_B, batch)
        loss.backward()
        gradients = {**looked.gradients(), DENSE: self.recommender.dense.gradients()}
        self.store.push(gradients, int(batch.times_ms_B.max(initial=0)))
        self.num_steps += 1
        with torch.no_grad():
            return StepResult(torch.sigmoid(logits_B).numpy(), loss.item(), planned.num_unknown)

    def predict(self, batch: LabelledBatch) -> Floats:
        """Probabilities (B,), learning nothing."""
        return self.recommender.predict(batch, self.store)

    def _loss(self, logits_B: torch.Tensor, batch: LabelledBatch) -> torch.Tensor:
        losses_B = functional.binary_cross_entropy_with_logits(
            logits_B, torch.from_numpy(batch.labels_B), reduction="none"
        )
        weights_B = torch.from_numpy(batch.weights_B)
        total = weights_B.sum().clamp_min(torch.finfo(torch.float32).tiny)  # all may be 0: nothing to learn
        return (losses_B * weights_B).sum() / total + self.recommender.embeddings.penalty()
