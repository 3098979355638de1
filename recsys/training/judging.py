"""What predictions are worth that were made batch by batch, or by several workers: judged all together, never averaged.

Shape suffixes: B examples of a batch, N all of them.
"""

import numpy as np

from recsys.batches.batch import LabelledBatch
from recsys.hashing import Floats, Keys
from recsys.training import metrics


class Judged:
    """Collects labels, probabilities and users, and judges them all together."""

    def __init__(self) -> None:
        self._labels: list[Floats] = []
        self._probabilities: list[Floats] = []
        self._users: list[Keys] = []
        self._codes: dict[int | str, int] = {}

    def add(self, batch: LabelledBatch, probabilities_B: Floats) -> None:
        """The predictions of a batch."""
        self._labels.append(batch.labels_B)
        self._probabilities.append(probabilities_B)
        self._users.append(np.array([self._codes.setdefault(u, len(self._codes)) for u in batch.user_ids], np.int64))

    def figures(self) -> dict[str, float]:
        """AUC, logloss, calibration, …; with users, their gAUC."""
        labels_N, probabilities_N = np.concatenate(self._labels), np.concatenate(self._probabilities)
        users_N = np.concatenate(self._users)
        found = metrics.summary(labels_N, probabilities_N)
        if len(users_N) == len(labels_N):
            found["gauc"] = metrics.grouped_auc(labels_N, probabilities_N, users_N)
        return found
