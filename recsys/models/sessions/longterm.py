"""A user's long-term vector: the mean of what they know best, by base level.

Shape suffixes: Q questions, V tracks, T top tracks, D width.
"""

import numpy as np
import numpy.typing as npt

from recsys.hashing import Floats
from recsys.models.sessions.actr import Memory, shares, sums_between
from recsys.models.sessions.questions import Questions
from recsys.sessions.log import Int32s, SessionLog


def top_levels(
    log: SessionLog, questions: Questions, memory: Memory, num_top: int
) -> tuple[npt.NDArray[np.float64], Int32s, Floats]:
    """Base levels of all tracks (Q, V), and the highest with their tracks (Q, T): -1 and 0 where there are fewer."""
    sums_QV = sums_between(log, questions.begins_Q, questions.ends_Q, questions.times_Q, memory)
    shares_QV = np.stack([shares(sums_V, memory.normalised) for sums_V in sums_QV])
    width = min(num_top, log.num_tracks)
    best_QT = np.argpartition(-shares_QV, width - 1, axis=1)[:, :width]
    levels_QT = np.take_along_axis(shares_QV, best_QT, axis=1)
    top_QT = np.full((len(questions), num_top), -1, np.int32)
    top_levels_QT = np.zeros((len(questions), num_top), np.float32)
    top_QT[:, :width] = np.where(levels_QT > 0, best_QT, -1)
    top_levels_QT[:, :width] = levels_QT
    return shares_QV, top_QT, top_levels_QT
