"""Examples drawn from a known model: shaped as Criteo's, of any size, so that the best possible AUC is known.

Thirteen numbers, I1 … I13, and 26 ids, C1 … C26, whose popularity falls as 1 / rank. The click's log-odds are a weight
for each id (a function of seed, feature and id), a weight for each number, and the product of two more such weights for
the first six pairs of features: what a linear model can not see. No example depends on how many are drawn beside it.

With a ``drift`` the examples are a stream, train, valid and test in the order of time, and the world changes along it:
by its end, that share of the ids has been replaced by new ones of the same popularity, each at a moment of its own, and
every weight has turned by that share of a right angle, towards another that has nothing to do with it.

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
    drift: float = 0.0

    def batches(self, split: str) -> Iterator[pa.RecordBatch]:
        """One part, the same every time."""
        num = self.num_examples if split == "train" else self.num_examples // 10
        for at, start in enumerate(range(0, num, _ROWS_A_BATCH)):
            yield self._batch(split, at, self._times(split, start, min(_ROWS_A_BATCH, num - start)))[0]

    def best_auc(self) -> float:
        """The AUC of the probabilities that the labels were drawn by, on examples of their own, of all times."""
        labels, odds = [], []
        for at in range(-(-_JUDGED // _ROWS_A_BATCH)):
            batch, odds_N = self._batch("judged", at, np.linspace(0, 1, _ROWS_A_BATCH))
            labels.append(batch.column("label").to_numpy())
            odds.append(odds_N)
        return _auc(np.concatenate(labels), np.concatenate(odds))

    def _times(self, split: str, start: int, num: int) -> Values:
        """When examples of a part come (N,): 0 is the stream's begin, 1 its end."""
        tenth = self.num_examples // 10
        before = {"train": 0, "valid": self.num_examples, "test": self.num_examples + tenth}[split]
        return (before + start + np.arange(num)) / (self.num_examples + 2 * tenth)

    def _batch(self, split: str, at: int, times_N: Values) -> tuple[pa.RecordBatch, Values]:
        """Examples, and their true log-odds (N,)."""
        num = len(times_N)
        draw = np.random.default_rng([self.seed, seed_of(split), at])
        numbers = {f"I{n}": draw.normal(size=num) for n in range(1, NUM_NUMBERS + 1)}
        # of a popularity 1 / rank, the rank of a uniform number u is about num_ids ** u
        ids = {
            f"C{n}": np.minimum(self.num_ids ** draw.random(num), self.num_ids).astype(np.int64) - 1
            for n in range(1, NUM_IDS + 1)
        }
        if self.drift:
            ids = {name: self._renewed(name, ids_N, times_N) for name, ids_N in ids.items()}
        odds_N = np.full(num, _BIAS)
        for name, ids_N in ids.items():
            odds_N += self._weights(name, ids_N, "own", times_N) / 3
        for n, values_N in enumerate(numbers.values()):
            odds_N += 0.3 * values_N / (1 + n)
        for pair in range(_NUM_PAIRS):
            one, other = f"C{2 * pair + 1}", f"C{2 * pair + 2}"
            of_one_N, of_other_N = (self._weights(name, ids[name], "pair", times_N) for name in (one, other))
            odds_N += of_one_N * of_other_N
        clicked_N = draw.random(num) < 1 / (1 + np.exp(-odds_N))
        return pa.record_batch({"label": clicked_N.astype(np.int8), **numbers, **ids}), odds_N

    def _renewed(self, name: str, ids_N: npt.NDArray[np.int64], times_N: Values) -> npt.NDArray[np.int64]:
        """Ids, those whose moment has passed replaced by their successors, which begin at ``num_ids``."""
        moments_N = (1 + self._uniform(name, ids_N, "moment")) / 2
        return np.where(moments_N < self.drift * times_N, ids_N + self.num_ids, ids_N)

    def _weights(self, name: str, ids_N: npt.NDArray[np.int64], of: str, times_N: Values) -> Values:
        """A weight for each id, uniform in [-1, 1) at first."""
        first_N = self._uniform(name, ids_N, of)
        if not self.drift:
            return first_N
        turned_N = self.drift * times_N * np.pi / 2
        return np.cos(turned_N) * first_N + np.sin(turned_N) * self._uniform(name, ids_N, f"{of}, later")

    def _uniform(self, name: str, ids_N: npt.NDArray[np.int64], of: str) -> Values:
        """A number for each id, uniform in [-1, 1)."""
        return uniform(ids_N, 1, seed_of(self.seed, name, of))[:, 0].astype(np.float64)


def _auc(labels_N: npt.NDArray[np.int8], scores_N: Values) -> float:
    """Of scores without ties."""
    ranks_N = np.empty(len(scores_N))
    ranks_N[np.argsort(scores_N)] = np.arange(1, len(scores_N) + 1)
    num_positive = int(labels_N.sum())
    above = ranks_N[labels_N == 1].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * (len(labels_N) - num_positive)))
