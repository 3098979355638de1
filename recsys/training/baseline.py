"""The baseline that an online model must beat: how the user liked so far plus how the item was liked."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataError


class RunningMeans:
    """Scores an example by user mean + item mean of the labels seen before it, then learns its label.

    Both means are shrunk to the global running mean m as if ``shrinkage`` more labels of value m had been
    seen: (sum + shrinkage · m) / (count + shrinkage). So one early label does not decide, and a new user or
    item counts as average. Before the first label of all, m is ½. The sum ranks; it is no probability.

    MovieLens-100K in time order (like = rating ≥ 4), AUC over the last half of the ratings by pseudo-count:
    0: 0.7489, 1: 0.7523, 5: 0.7553, 8: 0.7555 (the best, hence the default), 20: 0.7543.

    >>> means = RunningMeans(shrinkage=1)
    >>> means.score_and_learn(user_ids=[1, 1, 2], item_ids=["a", "b", "a"], labels=[1, 0, 0]).tolist()
    [1.0, 2.0, 1.25]
    """

    def __init__(self, shrinkage: float = 8.0) -> None:
        if not 0 <= shrinkage < float("inf"):
            message = f"shrinkage is {shrinkage!r}; give the number of pseudo-labels, 0 or more"
            raise ConfigError(message)
        self.shrinkage = shrinkage
        self._label_sum = 0.0
        self._num_labels = 0
        self._users: dict[int | str, tuple[float, int]] = {}  # id → sum of labels, number of labels
        self._items: dict[int | str, tuple[float, int]] = {}

    def score_and_learn(
        self,
        user_ids: Sequence[int | str] | npt.NDArray,
        item_ids: Sequence[int | str] | npt.NDArray,
        labels: Sequence[float] | npt.NDArray,
    ) -> npt.NDArray[np.float64]:
        """Scores (N,) float64 of N examples in stream order, each from the labels of those before it alone.

        Cutting a stream into other chunks changes nothing. Raises DataError where the lengths differ.
        """
        if not len(user_ids) == len(item_ids) == len(labels):
            message = f"{len(user_ids)} users, {len(item_ids)} items, {len(labels)} labels; give one per example"
            raise DataError(message)
        # Python numbers: a dict is several times slower on numpy scalars.
        examples = zip(_as_list(user_ids), _as_list(item_ids), _as_list(labels), strict=True)
        return np.array([self._score_and_learn_one(*example) for example in examples], dtype=np.float64)

    def _score_and_learn_one(self, user_id: int | str, item_id: int | str, label: float) -> float:
        global_mean = self._label_sum / self._num_labels if self._num_labels else 0.5
        user_sum, user_count = self._users.get(user_id, (0.0, 0))
        item_sum, item_count = self._items.get(item_id, (0.0, 0))
        score = self._mean(user_sum, user_count, global_mean) + self._mean(item_sum, item_count, global_mean)
        self._users[user_id] = (user_sum + label, user_count + 1)
        self._items[item_id] = (item_sum + label, item_count + 1)
        self._label_sum += label
        self._num_labels += 1
        return score

    def _mean(self, label_sum: float, count: int, global_mean: float) -> float:
        weight = count + self.shrinkage
        return (label_sum + self.shrinkage * global_mean) / weight if weight else global_mean


def _as_list(values: Sequence | npt.NDArray) -> list:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
