"""Examples drawn from a known model: shaped as Criteo's, of any size, so that the best possible AUC is known.

Thirteen numbers, I1 … I13, and 26 ids, C1 … C26, whose popularity falls as 1 / rank. The click's log-odds are a weight
for each id (a function of seed, feature and id), a weight for each number, and the product of two more such weights for
the first six pairs of features: what a linear model can not see. No example depends on how many are drawn beside it.

Shape suffixes: N examples of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.hashing import seed_of, uniform

NUM_NUMBERS, NUM_IDS = 13, 26
_ROWS_A_BATCH = 1 << 16
_NUM_PAIRS = 6
_BIAS = -1.4  # about one click in four, as in Criteo's
_JUDGED = 1 << 18  # examples that the best AUC is taken from: its standard error is 0.001
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How much is drawn: ``num_examples`` to train on, a tenth of that to choose by and to judge by."""

    num_examples: int
    num_ids: int
    seed: int

    def batches(self, split: str) -> Iterator[pa.RecordBatch]:
        """One part, the same every time."""
        num = self.num_examples if split == "train" else self.num_examples // 10
        for at, start in enumerate(range(0, num, _ROWS_A_BATCH)):
            yield self._batch(split, at, min(_ROWS_A_BATCH, num - start))[0]

    def best_auc(self) -> float:
        """The AUC of the probabilities that the labels were drawn by, on examples of their own."""
        labels, odds = [], []
        for at in range(-(-_JUDGED // _ROWS_A_BATCH)):
            batch, odds_N = self._batch("judged", at, _ROWS_A_BATCH)
            labels.append(batch.column("label").to_numpy())
            odds.append(odds_N)
        return _auc(np.concatenate(labels), np.concatenate(odds))

    def _batch(self, split: str, at: int, num: int) -> tuple[pa.RecordBatch, Values]:
        """Examples, and their true log-odds (N,)."""
        draw = np.random.default_rng([self.seed, seed_of(split), at])
        numbers = {f"I{n}": draw.normal(size=num) for n in range(1, NUM_NUMBERS + 1)}
        # of a popularity 1 / rank, the rank of a uniform number u is about num_ids ** u
        ids = {
            f"C{n}": np.minimum(self.num_ids ** draw.random(num), self.num_ids).astype(np.int64) - 1
            for n in range(1, NUM_IDS + 1)
        }
        odds_N = np.full(num, _BIAS)
        for name, ids_N in ids.items():
            odds_N += self._weights(name, ids_N, "own") / 3
        for n, values_N in enumerate(numbers.values()):
            odds_N += 0.3 * values_N / (1 + n)
        for pair in range(_NUM_PAIRS):
            one, other = f"C{2 * pair + 1}", f"C{2 * pair + 2}"
            odds_N += self._weights(one, ids[one], "pair") * self._weights(other, ids[other], "pair")
        clicked_N = draw.random(num) < 1 / (1 + np.exp(-odds_N))
        return pa.record_batch({"label": clicked_N.astype(np.int8), **numbers, **ids}), odds_N

    def _weights(self, name: str, ids_N: npt.NDArray[np.int64], of: str) -> Values:
        """A weight for each id, uniform in [-1, 1)."""
        return uniform(ids_N, 1, seed_of(self.seed, name, of))[:, 0].astype(np.float64)


def _auc(labels_N: npt.NDArray[np.int8], scores_N: Values) -> float:
    """Of scores without ties."""
    ranks_N = np.empty(len(scores_N))
    ranks_N[np.argsort(scores_N)] = np.arange(1, len(scores_N) + 1)
    num_positive = int(labels_N.sum())
    above = ranks_N[labels_N == 1].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * (len(labels_N) - num_positive)))
