"""Trains models of sessions over a row store: item vectors from a table of any kind, dense parameters beside them.

Shape suffixes: U distinct tracks, V tracks of the catalogue, D embedding width, Q questions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from recsys import hashing
from recsys.batches.batch import Bag
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.hashing import Floats
from recsys.models.sessions import LEARNED, build_session_config
from recsys.models.sessions.learned import Items
from recsys.models.sessions.questions import Questions, popular_to_new
from recsys.ps.dense import DENSE, DenseParameters
from recsys.rows.optimizers import build_optimizer
from recsys.rows.store import RowGroup, RowStore, Snapshot
from recsys.sessions.log import VALID, Int64s, SessionLog
from recsys.tables import plan_tables
from recsys.tables.embeddings import Embeddings, Looked
from recsys.training.session_metrics import judge

_TRACK = "track"


@dataclass(frozen=True, kw_only=True)
class SessionBlueprint:
    """What a trained recommender of sessions is built from, in plain values."""

    table: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    dense_optimizer: Mapping[str, Any]
    seed: int = 0


class TrainedSessions(nn.Module):
    """A model of sessions and the table of its items, as one recommender over a row store.

    ``groups`` are what the store must hold, ``start_state`` what it begins with.
    """

    def __init__(self, blueprint: SessionBlueprint, log: SessionLog) -> None:
        super().__init__()
        self.blueprint, self._log = blueprint, log
        feature = Feature(name=_TRACK, kind="id", source="item.id", num_embeddings=log.num_tracks)
        tables = plan_tables(
            blueprint.table, [feature], optimizer=build_optimizer(blueprint.optimizer), seed=blueprint.seed
        )
        self.embeddings = Embeddings(tables)
        self._table = tables[0].name
        config = build_session_config(blueprint.model)
        if config.kind not in LEARNED:
            raise ConfigError(f"session_model.kind={config.kind} learns nothing by gradients; it is asked as it is")
        self.model = LEARNED[config.kind](
            config,
            log=log,
            embedding_dim=tables[0].embedding_dim,
            generator=torch.Generator().manual_seed(hashing.seed_of(blueprint.seed, "session_model")),
        )
        self.dense = DenseParameters(self)
        self._dense_optimizer = build_optimizer(blueprint.dense_optimizer)
        self.store: RowStore | None = None
        self._num_steps = 0
        self._catalogue: Items | None = None

    @property
    def groups(self) -> list[RowGroup]:
        """Every row group that a store must hold."""
        return [*self.embeddings.groups.values(), self.dense.group(self._dense_optimizer)]

    def start(self, store: RowStore) -> None:
        """Learn in a new store: it is given the dense parameters."""
        self.store = store
        store.restore(Snapshot((0,), {DENSE: self.dense.initial_snapshot(self._dense_optimizer)}))

    def step(self, batch: Any, time_ms: int = 0) -> float:
        """Pull what a batch needs, learn, push; the loss."""
        assert self.store is not None
        self._catalogue = None
        self.embeddings.begin_step(hashing.seed_of(self.blueprint.seed, "step", self._num_steps))
        self._num_steps += 1
        tracks_U = self.model.tracks_of(batch)
        addressed = self.embeddings.address({_TRACK: _bag(tracks_U)})
        rows = self.store.pull({**addressed.keys, DENSE: self.dense.keys})
        self.dense.load(rows.pop(DENSE))
        looked = self.embeddings.look(addressed, rows)
        loss = self.model.train().loss(self._items(tracks_U, looked), batch) + self.embeddings.penalty()
        if not torch.isfinite(loss):
            raise DataError("the loss is not finite; lower optimizer.rows.learning_rate")
        loss.backward()
        self.store.push({**looked.gradients(), DENSE: self.dense.gradients()}, time_ms)
        return loss.item()

    @torch.no_grad()
    def scores(self, questions: Questions) -> Floats:
        """See SessionRecommender; item vectors are read once after each learning."""
        assert self.store is not None
        if self._catalogue is None:
            self.dense.load(self.store.pull({DENSE: self.dense.keys})[DENSE])
            everything_V = np.arange(self._log.num_tracks)
            vectors_VD = self.embeddings.embed(self._table, _TRACK, everything_V, self.store)
            self._catalogue = Items(everything_V, vectors_VD)
        scores_QV: Floats = self.model.eval().scores(self._catalogue, questions).numpy()
        return popular_to_new(self._log, questions, scores_QV)

    def restore(self, snapshot: Snapshot) -> None:
        """Put back the rows of an earlier moment, the dense parameters among them."""
        assert self.store is not None
        self.store.restore(snapshot)
        self._catalogue = None

    def _items(self, tracks_U: Int64s, looked: Looked) -> Items:
        return Items(tracks_U, self.embeddings.vectors(_TRACK, self._table, looked))


def fit_sessions(
    trained: TrainedSessions,
    log: SessionLog,
    *,
    epochs: int,
    batch_size: int,
    patience: int,
    seed: int,
    on_epoch: Callable[[int, float, float], None] = lambda *_: None,
) -> list[dict[str, float]]:
    """Train until the validation NDCG@10 has not grown for ``patience`` epochs, and go back to its best.

    Without validation sessions, all epochs are trained and the last stays. Callback: (epoch, loss, NDCG).
    """
    assert trained.store is not None
    history: list[dict[str, float]] = []
    best: tuple[float, Snapshot] | None = None
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch])
        torch.manual_seed(hashing.seed_of(seed, "epoch", epoch))  # dropout's
        losses = [trained.step(batch) for batch in trained.model.batches(batch_size, order)]
        ndcg = judge(trained, log, VALID).mean("ndcg") if (log.parts_S == VALID).any() else float("nan")
        history.append({"loss": float(np.mean(losses)), "ndcg": ndcg})
        on_epoch(epoch, history[-1]["loss"], ndcg)
        if best is None or ndcg > best[0] or np.isnan(ndcg):
            best = ndcg, trained.store.snapshot()
        elif epoch - max(range(len(history)), key=lambda at: history[at]["ndcg"]) >= patience:
            break
    if best is not None:
        trained.restore(best[1])
    return history


def _bag(tracks_U: Int64s) -> Bag:
    return Bag(tracks_U, np.arange(len(tracks_U) + 1))
