"""What a recommender of sessions is asked: whose next session, knowing what, at what time.

Shape suffixes: Q questions, V tracks.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.hashing import Floats
from recsys.sessions.log import TEST, TRAIN, Int64s, SessionLog


@dataclass(frozen=True)
class Questions:
    """Histories are the sessions from ``begins_Q`` up to ``ends_Q`` (exclusive); ``times_Q`` is when it is asked."""

    users_Q: Int64s
    begins_Q: Int64s
    ends_Q: Int64s
    times_Q: Int64s

    def __len__(self) -> int:
        return len(self.users_Q)

    def part(self, start: int, stop: int) -> "Questions":
        """Questions ``start`` to ``stop`` (exclusive)."""
        chosen = slice(start, stop)
        return Questions(self.users_Q[chosen], self.begins_Q[chosen], self.ends_Q[chosen], self.times_Q[chosen])


class SessionRecommender(Protocol):
    """What is judged."""

    def scores(self, questions: Questions) -> Floats:
        """A score of every track, (Q, V); the larger, the more likely it is in the next session."""


def before(log: SessionLog, sessions_Q: Int64s) -> Questions:
    """What is asked as these sessions open: everything before them is known, validation and test sessions too."""
    users_Q = log.users_S[sessions_Q]
    return Questions(users_Q, log.first_U1[users_Q], sessions_Q, log.times_S[sessions_Q])


def as_of_test(log: SessionLog, questions: Questions) -> Questions:
    """The same users asked as their first test session opens, whatever was asked (PISA's code judges so)."""
    tests_U = np.add.reduceat(np.append(log.parts_S == TEST, False).astype(np.int64), log.first_U1[:-1])
    return before(log, (log.first_U1[1:] - np.maximum(tests_U, 1))[questions.users_Q])


def popular_to_new(log: SessionLog, questions: Questions, scores_QV: Floats) -> Floats:
    """The scores, in place; where there is no history to answer from, how many training sessions have each track."""
    new_Q = questions.begins_Q == questions.ends_Q
    if new_Q.any():
        scores_QV[new_Q] = log.play_counts(TRAIN)
    return scores_QV


def now(log: SessionLog, users_Q: Int64s, times_Q: Int64s) -> Questions:
    """What is asked of users after all that the log has of them."""
    return Questions(users_Q, log.first_U1[users_Q], log.first_U1[users_Q + 1], times_Q)
