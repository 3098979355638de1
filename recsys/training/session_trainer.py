"""Trains models of sessions over a row store: item vectors from a table of any kind, dense parameters beside them.

Shape suffixes: U distinct tracks, V tracks of the catalogue, D embedding width, Q questions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from recsys import hashing
from recsys.batches.batch import Bag
from recsys.errors import DataError
from recsys.hashing import Floats
from recsys.models.sessions.learned import Items
from recsys.models.sessions.questions import Questions, popular_to_new
from recsys.models.sessions.recommender import TRACK, SessionBlueprint, TrackRecommender
from recsys.ps.dense import DENSE
from recsys.rows.store import RowStore, Snapshot
from recsys.sessions.log import VALID, Int64s, SessionLog
from recsys.tables.embeddings import Looked
from recsys.training.session_metrics import judge


class TrainedSessions(TrackRecommender):
    """A recommender of sessions that learns of a log, over a row store that holds its ``groups``."""

    def __init__(self, blueprint: SessionBlueprint, log: SessionLog) -> None:
        super().__init__(blueprint, log)
        self._log = log
        self.store: RowStore | None = None
        self.num_steps = 0
        self._catalogue: Items | None = None

    def start(self, store: RowStore, begun: Snapshot | None = None) -> None:
        """Learn in a new store: it is given the dense parameters, or all that an earlier one held."""
        self.store = store
        store.restore(begun or Snapshot((0,), {DENSE: self.dense.initial_snapshot(self.dense_optimizer)}))

    def step(self, batch: Any, time_ms: int = 0) -> float:
        """Pull what a batch needs, learn, push; the loss."""
        assert self.store is not None
        self._catalogue = None
        self.embeddings.begin_step(hashing.seed_of(self.blueprint.seed, "step", self.num_steps))
        self.num_steps += 1
        tracks_U = self.model.tracks_of(batch)
        addressed = self.embeddings.address({TRACK: _bag(tracks_U)})
        rows = self.store.pull({**addressed.keys, DENSE: self.dense.keys})
        self.dense.load(rows.pop(DENSE))
        looked = self.embeddings.look(addressed, rows)
        loss = self.model.train().loss(self._items(tracks_U, looked), batch) + self.embeddings.penalty()
        if not torch.isfinite(loss):
            raise DataError("the loss is not finite; lower optimizer.rows.learning_rate")
        loss.backward()
        self.store.push({**looked.gradients(), DENSE: self.dense.gradients()}, time_ms)
        return loss.item()

    def scores(self, questions: Questions) -> Floats:
        """See SessionRecommender; item vectors are read once after each learning."""
        assert self.store is not None
        if self._catalogue is None:
            self._catalogue = self.read(self.store)
        return popular_to_new(self._log, questions, self.answer(self._catalogue, questions))

    def restore(self, snapshot: Snapshot) -> None:
        """Put back the rows of an earlier moment, the dense parameters among them."""
        assert self.store is not None
        self.store.restore(snapshot)
        self._catalogue = None

    def _items(self, tracks_U: Int64s, looked: Looked) -> Items:
        return Items(tracks_U, self.embeddings.vectors(TRACK, self.table, looked))


@dataclass(kw_only=True)
class SessionCourse:
    """Where training stands: JSON, as it goes with a checkpoint.

    ``epoch`` is the one that comes next, ``history`` each one's loss and validation NDCG@10 (NaN without sessions to
    validate by), ``best_at`` the best one's place in it.
    """

    epoch: int = 0
    num_steps: int = 0
    best_at: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False

    def ended(self, loss: float, ndcg: float, *, patience: int) -> bool:
        """Note an epoch's end; whether it is the best so far. Without an NDCG the last is."""
        self.history.append({"loss": loss, "ndcg": ndcg})
        is_best = self.best_at is None or np.isnan(ndcg) or ndcg > self.history[self.best_at]["ndcg"]
        if is_best:
            self.best_at = self.epoch
        self.finished = self.best_at is not None and self.epoch - self.best_at >= patience
        self.epoch += 1
        return bool(is_best)


class Keeper(Protocol):
    """Who keeps each epoch's rows, so that a run can go on, and the best."""

    def epoch_ended(self, course: SessionCourse, rows: Snapshot, is_best: bool) -> None:
        """After each epoch."""

    def best_rows(self) -> Snapshot:
        """Those of the best epoch."""


class InMemory:
    """Keeps the best for as long as this process lives."""

    def __init__(self) -> None:
        self._best: Snapshot | None = None

    def epoch_ended(self, course: SessionCourse, rows: Snapshot, is_best: bool) -> None:
        """See Keeper."""
        if is_best:
            self._best = rows

    def best_rows(self) -> Snapshot:
        """See Keeper."""
        assert self._best is not None
        return self._best


def fit_sessions(
    trained: TrainedSessions,
    log: SessionLog,
    *,
    epochs: int,
    batch_size: int,
    patience: int,
    seed: int,
    on_epoch: Callable[[int, float, float], None] = lambda *_: None,
    keeper: Keeper | None = None,
    course: SessionCourse | None = None,
) -> list[dict[str, float]]:
    """Train until the validation NDCG@10 has not grown for ``patience`` epochs, and go back to its best.

    Without validation sessions, all epochs are trained and the last stays. ``on_epoch`` is told (epoch, loss, NDCG).
    ``course`` is where a run stands whose rows ``trained`` holds: it ends as one that was never cut off.
    """
    assert trained.store is not None
    course, keeper = course or SessionCourse(), keeper or InMemory()
    trained.num_steps = course.num_steps
    while course.epoch < epochs and not course.finished:
        order = np.random.default_rng([seed, course.epoch])
        torch.manual_seed(hashing.seed_of(seed, "epoch", course.epoch))  # dropout's
        losses = [trained.step(batch) for batch in trained.model.batches(batch_size, order)]
        ndcg = judge(trained, log, VALID).mean("ndcg") if (log.parts_S == VALID).any() else float("nan")
        course.num_steps = trained.num_steps
        is_best = course.ended(float(np.mean(losses)), ndcg, patience=patience)
        keeper.epoch_ended(course, trained.store.snapshot(), is_best)
        on_epoch(course.epoch - 1, course.history[-1]["loss"], ndcg)
    if course.history:
        trained.restore(keeper.best_rows())
    return course.history


def _bag(tracks_U: Int64s) -> Bag:
    return Bag(tracks_U, np.arange(len(tracks_U) + 1))
