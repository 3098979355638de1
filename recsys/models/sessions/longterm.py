"""What a user knows best, by base level, as they are asked: of it a long-term vector is the mean.

Shape suffixes: Q questions, N tracks that are wanted, T top tracks.
"""

import numpy as np

from recsys.hashing import Floats
from recsys.models.sessions.actr import Memory
from recsys.models.sessions.actr_kernels import question_levels
from recsys.models.sessions.questions import Questions
from recsys.sessions.log import Int32s, SessionLog


def top_levels(log: SessionLog, questions: Questions, memory: Memory, num_top: int) -> tuple[Int32s, Floats]:
    """The tracks of the highest base levels, and those (Q, T): -1 and 0 where there are fewer.

    Of equal ones, what was heard first: as ``base_levels`` has it, whose tops models learn by.
    """
    _, top_QT, top_levels_QT = levels_of(log, questions, memory, num_top, np.empty((len(questions), 0), np.int32))
    return top_QT, top_levels_QT


def levels_of(
    log: SessionLog, questions: Questions, memory: Memory, num_top: int, wanted_QN: Int32s
) -> tuple[Floats, Int32s, Floats]:
    """Base levels of some tracks (Q, N), 0 of those outside of the history, and ``top_levels``."""
    levels_QN = np.zeros(wanted_QN.shape, np.float32)
    top_QT = np.full((len(questions), num_top), -1, np.int32)
    top_levels_QT = np.zeros((len(questions), num_top), np.float32)
    question_levels(
        questions.begins_Q, questions.ends_Q, questions.times_Q, log.num_tracks, log.times_S, log.tracks_SK,
        memory.decay, memory.min_age_seconds, memory.keep_plays or 0, memory.normalised == "log",
        wanted_QN, levels_QN, top_QT, top_levels_QT,
    )  # fmt: skip
    return levels_QN, top_QT, top_levels_QT
