"""From scores to a list.

Shape suffixes: Q questions, V tracks, R places of a list.
"""

import numpy as np

from recsys.errors import DataError
from recsys.hashing import Floats
from recsys.sessions.log import Int64s


def top_tracks(scores_QV: Floats, k: int) -> Int64s:
    """The k best tracks, the best first; of equal scores, the first track."""
    if np.isnan(scores_QV).any():
        raise DataError("a score is NaN; the model diverged, lower the learning rate")
    k = min(k, scores_QV.shape[1])
    least_Q = np.partition(scores_QV, -k, axis=1)[:, -k]
    rows = [np.flatnonzero(row_V >= least) for row_V, least in zip(scores_QV, least_Q, strict=True)]  # with all ties
    best = [row[np.argsort(-row_V[row], kind="stable")][:k] for row_V, row in zip(scores_QV, rows, strict=True)]
    return np.stack(best).astype(np.int64)
