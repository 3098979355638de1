"""ACTR-BPR: a user is the mean of what they know best, by base level; items are learned by BPR. No transformer.

PISA's paper names it without a formula that was at hand; this is our reading: PISA's long-term vector alone.

Shape suffixes: B sessions, K tracks a session, T top tracks, D width, V tracks, Q questions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recsys.fields import AtLeast
from recsys.hashing import Floats
from recsys.models.sessions.actr import Memory, base_levels
from recsys.models.sessions.learned import Items, Negatives, SessionModel, bpr, distinct, shuffled
from recsys.models.sessions.longterm import top_levels
from recsys.models.sessions.questions import Questions
from recsys.sessions.log import TRAIN, Int32s, Int64s, SessionLog


class Targets(NamedTuple):
    """Sessions to be told, and tracks that are not in them."""

    sessions_B: Int64s
    negatives_BK: Int64s


class ActrBpr(SessionModel):
    """Scores lt·m."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["actr_bpr"] = "actr_bpr"
        memory: Memory = field(default_factory=Memory)
        num_top: Annotated[int, AtLeast(1)] = 20
        negative_exponent: Annotated[float, AtLeast(0)] = 0.0

    def __init__(self, config: Config, *, log: SessionLog, embedding_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self._config = config
        self.know(log)

    def know(self, log: SessionLog) -> None:
        """See SessionModel."""
        self._log = log
        self._levels = base_levels(log, self._config.memory, num_top=self._config.num_top)

    def batches(self, size: int, order: np.random.Generator) -> Iterator[Targets]:
        """See SessionModel."""
        log = self._log
        negatives = Negatives(log.play_counts(TRAIN), self._config.negative_exponent)
        targets_N = np.flatnonzero((log.parts_S == TRAIN) & (log.begins_S < np.arange(len(log.parts_S))))
        for sessions_B in shuffled(targets_N, size, order):
            tracks_BK = log.tracks_SK[sessions_B]
            yield Targets(sessions_B, negatives.draw(tracks_BK.shape, tracks_BK, order))

    def tracks_of(self, batch: Targets) -> Int64s:
        """See SessionModel."""
        return distinct(
            self._log.tracks_SK[batch.sessions_B], self._levels.top_ST[batch.sessions_B], batch.negatives_BK
        )

    def loss(self, items: Items, batch: Targets) -> Tensor:
        """See SessionModel."""
        tracks_BK, chosen = self._log.tracks_SK[batch.sessions_B], batch.sessions_B
        query_BD = _mean(items, self._levels.top_ST[chosen], self._levels.top_levels_ST[chosen])
        positives_BK = (items.of(tracks_BK) @ query_BD[..., None]).squeeze(2)
        negatives_BK = (items.of(batch.negatives_BK) @ query_BD[..., None]).squeeze(2)
        return bpr(positives_BK, negatives_BK, torch.from_numpy(tracks_BK >= 0).float())

    def scores(self, items: Items, questions: Questions) -> Tensor:
        """See SessionModel."""
        top_QT, top_levels_QT = top_levels(self._log, questions, self._config.memory, self._config.num_top)
        return _mean(items, top_QT, top_levels_QT) @ items.all_UD.T


def _mean(items: Items, top_BT: Int32s, top_levels_BT: Floats) -> Tensor:
    return normalize((torch.from_numpy(top_levels_BT)[..., None] * items.of(top_BT)).sum(dim=1), dim=1)
