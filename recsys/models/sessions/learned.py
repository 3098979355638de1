"""What every model of sessions that learns has in common: batches, item vectors, a loss, scores.

Item vectors come from a table of any kind over a row store; a model is given ``Items``, never rows or ids of a store.

Shape suffixes: N tracks asked for, U distinct tracks, V tracks of the catalogue, D embedding width, Q questions.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.errors import DataError
from recsys.models.sessions.actr import Cooccurrence
from recsys.models.sessions.questions import Questions
from recsys.sessions.log import Int64s, SessionLog


class Items:
    """Vectors of distinct tracks. Where a track is -1 there is none: zeros.

    >>> items = Items(np.array([3, 7]), torch.tensor([[1.0], [2.0]]))
    >>> items.of(np.array([[7, -1], [3, 3]])).squeeze(2).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """

    def __init__(self, tracks_U: Int64s, vectors_UD: Tensor) -> None:
        self._tracks_U = tracks_U
        self._table = torch.cat([vectors_UD, vectors_UD.new_zeros(1, vectors_UD.shape[1])])

    def of(self, tracks: npt.NDArray[Any]) -> Tensor:
        """Vectors (…, D) of tracks, which must be among the distinct ones."""
        places = np.where(tracks >= 0, np.searchsorted(self._tracks_U, tracks), len(self._tracks_U))
        return self._table[torch.from_numpy(places)]

    @property
    def all_UD(self) -> Tensor:
        """The vectors as they are: of the whole catalogue where scores are asked for."""
        return self._table[:-1]


class SessionModel(nn.Module, ABC):
    """A model that learns of the training sessions of a log. Batches are its own; it says which tracks one needs.

    ``together`` is what its answers need of the training sessions beside vectors and parameters, where they need any.
    """

    together: Cooccurrence | None = None

    @abstractmethod
    def know(self, log: SessionLog) -> None:
        """From now on questions are of the histories in this log, whose tracks are those of the catalogue."""

    @abstractmethod
    def batches(self, size: int, order: np.random.Generator) -> Iterator[Any]:
        """One epoch, shuffled and with its negatives drawn by ``order``."""

    @abstractmethod
    def tracks_of(self, batch: Any) -> Int64s:
        """The distinct tracks that a batch's loss needs, sorted."""

    @abstractmethod
    def loss(self, items: Items, batch: Any) -> Tensor:
        """What the step lowers."""

    @abstractmethod
    def scores(self, items: Items, questions: Questions) -> Tensor:
        """A score of every track of the catalogue: (Q, V)."""


class Negatives:
    """Draws tracks with probability ∝ count^exponent: 0 is uniform (PISA-U), 0.5 leans to the popular (PISA-P)."""

    def __init__(self, counts_V: npt.NDArray[np.float64], exponent: float) -> None:
        odds_V = np.ones_like(counts_V) if exponent == 0 else counts_V**exponent
        self._cumulated_V = np.cumsum(odds_V / odds_V.sum())

    def draw(self, shape: tuple[int, ...], not_N: npt.NDArray[Any], order: np.random.Generator) -> Int64s:
        """Tracks of ``shape``, redrawn twice where one is among ``not_N`` (its leading axes are those of ``shape``)."""
        drawn = self._drawn(shape, order)
        for _ in range(2):
            taken = (drawn[..., :, None] == not_N[..., None, :]).any(axis=-1)
            drawn[taken] = self._drawn((int(taken.sum()),), order)
        return drawn

    def _drawn(self, shape: tuple[int, ...], order: np.random.Generator) -> Int64s:
        last = len(self._cumulated_V) - 1
        found: Int64s = np.minimum(np.searchsorted(self._cumulated_V, order.random(shape), side="right"), last)
        return found


def shuffled(rows_N: Int64s, size: int, order: np.random.Generator) -> Iterator[Int64s]:
    """What there is to learn in batches of about ``size``; DataError where that is nothing."""
    if not len(rows_N):
        raise DataError("no user has two training sessions, so there is nothing to learn; see plays.rules.split")
    for chosen in np.array_split(order.permutation(len(rows_N)), -(-len(rows_N) // size)):
        yield rows_N[chosen]


def distinct(*tracks: npt.NDArray[Any]) -> Int64s:
    """The distinct tracks of some arrays, sorted, without -1.

    >>> distinct(np.array([[4, -1]]), np.array([2, 4])).tolist()
    [2, 4]
    """
    found = np.unique(np.concatenate([part.reshape(-1) for part in tracks])).astype(np.int64)
    return found[found >= 0]


def bpr(positives: Tensor, negatives: Tensor, mask: Tensor) -> Tensor:
    """The mean of -log σ(positive - negative) where the mask is set (Rendle et al. 2009); 0 where it is nowhere."""
    losses = nn.functional.softplus(negatives - positives)
    return (losses * mask).sum() / mask.sum().clamp_min(1)


def masked_mean(losses: Tensor, mask: Tensor) -> Tensor:
    """The mean where the mask is set; 0 where it is nowhere."""
    return (losses * mask).sum() / mask.sum().clamp_min(1)
