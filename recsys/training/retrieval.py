"""Training a retrieval model by BPR over a row store, stopped where validation is best.

Parameters that tables bring (an MLP, projections) are rows of the store too, as a recommender's are.

Shape suffixes: E edges, B edges of a batch, U users, I items, N ids, D embedding dimension.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.batches.batch import Bag
from recsys.datasets.interactions import Interactions, Pairs
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.graphs.bipartite import Bipartite
from recsys.hashing import Floats, Keys
from recsys.models.retrieval import bpr_loss, half_squares
from recsys.models.retriever import Retriever
from recsys.ps.dense import DENSE, DenseParameters
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import Optimizer
from recsys.rows.store import RowStore, Snapshot
from recsys.tables import plan_tables
from recsys.tables.embeddings import Embeddings, Looked
from recsys.training.fitting import RetrievalFit
from recsys.training.ranking import Judged, judge

USER, ITEM = "user", "item"


@dataclass(frozen=True)
class Graphs:
    """The three parts of a data set as graphs."""

    train: Bipartite
    valid: Bipartite
    test: Bipartite

    @classmethod
    def of(cls, interactions: Interactions) -> "Graphs":
        """Of the same ids each."""

        def graph(pairs: Pairs) -> Bipartite:
            return Bipartite.of(pairs.users_E, pairs.items_E, interactions.num_users, interactions.num_items)

        return cls(graph(interactions.train), graph(interactions.valid), graph(interactions.test))


@dataclass(frozen=True)
class Fitted:
    """The model where validation was best: the vectors that are multiplied, and the rows that they were made of."""

    epoch: int
    users_UD: Floats
    items_ID: Floats
    history: list[dict[str, float]]
    rows: Snapshot


class RetrievalTrainer:
    """BPR over the edges of a graph, each once an epoch, beside an item drawn uniformly (which may be a liked one)."""

    def __init__(
        self, embeddings: Embeddings, retriever: Retriever, store: RowStore, graph: Bipartite, *, seed: int
    ) -> None:
        self._embeddings, self._retriever, self._store, self._graph = embeddings, retriever, store, graph
        self._seed, self.num_epochs, self._num_steps = seed, 0, 0
        self._dense = dense_of(embeddings)
        self._tables = {
            name: table.config.name for table in embeddings.tables.values() for name in table.config.feature_names
        }
        self._everyone = {
            USER: _bag(np.arange(graph.num_users)),
            ITEM: _bag(np.arange(graph.num_items)),
        }

    def epoch(self, batch_size: int, regularisation: float = 0.0) -> float:
        """Learn every edge once; the mean loss."""
        random = np.random.default_rng([self._seed, self.num_epochs])
        order_E = random.permutation(self._graph.num_edges)
        others_E = random.integers(0, self._graph.num_items, self._graph.num_edges)
        losses = [
            self._step(self._graph.users_E[part], self._graph.items_E[part], others_E[part], regularisation) * len(part)
            for part in np.split(order_E, np.arange(batch_size, len(order_E), batch_size))
        ]
        self.num_epochs += 1
        return sum(losses) / self._graph.num_edges

    def _step(self, users_B: Keys, liked_B: Keys, others_B: Keys, regularisation: float) -> float:
        """One pull, one gradient, one push; the loss of before."""
        learn = self._whole_loss if self._retriever.whole else self._batch_loss
        self._embeddings.begin_step(hashing.seed_of(self._seed, "step", self._num_steps))
        self._load_dense()
        looked, loss = learn(users_B, liked_B, others_B, regularisation)
        (loss + self._embeddings.penalty()).backward()
        gradients = looked.gradients()
        self._store.push(gradients if self._dense is None else {**gradients, DENSE: self._dense.gradients()}, 0)
        self._num_steps += 1
        return loss.item()

    def _load_dense(self) -> None:
        """Take over the tables' parameters from the store, where there are any."""
        if self._dense is not None:
            self._dense.load(self._store.pull({DENSE: self._dense.keys})[DENSE])

    def _batch_loss(self, users_B: Keys, liked_B: Keys, others_B: Keys, regularisation: float) -> tuple[Looked, Tensor]:
        """From the embeddings of a batch's users and items alone."""
        bags = {USER: _bag(users_B), ITEM: _bag(np.concatenate([liked_B, others_B]))}
        looked = self._embeddings.lookup(bags, self._store)
        users_BD, items_ND = self._retriever(*self._vectors(looked))
        liked_BD, others_BD = items_ND.split(len(users_B))
        loss = bpr_loss(users_BD, liked_BD, others_BD)
        return looked, loss + regularisation * half_squares(users_BD, liked_BD, others_BD)

    def _whole_loss(self, users_B: Keys, liked_B: Keys, others_B: Keys, regularisation: float) -> tuple[Looked, Tensor]:
        """From the embeddings of all; it is those of the batch that are regularised, before they are smoothed."""
        looked = self._embeddings.lookup(self._everyone, self._store)
        users_UD, items_ID = self._vectors(looked)
        smooth_users_UD, smooth_items_ID = self._retriever(users_UD, items_ID)
        loss = bpr_loss(smooth_users_UD[users_B], smooth_items_ID[liked_B], smooth_items_ID[others_B])
        return looked, loss + regularisation * half_squares(users_UD[users_B], items_ID[liked_B], items_ID[others_B])

    @torch.no_grad()
    def vectors(self) -> tuple[Floats, Floats]:
        """What is multiplied: (U, D) and (I, D)."""
        self._load_dense()
        looked = self._embeddings.lookup(self._everyone, self._store)
        users_UD, items_ID = self._retriever(*self._vectors(looked))
        return users_UD.detach().numpy(), items_ID.detach().numpy()

    def rows(self) -> Snapshot:
        """The rows as they are now."""
        return self._store.snapshot()

    def _vectors(self, looked: Looked) -> tuple[Tensor, Tensor]:
        return (
            self._embeddings.vectors(USER, self._tables[USER], looked),
            self._embeddings.vectors(ITEM, self._tables[ITEM], looked),
        )


def features_of(graph: Bipartite) -> tuple[Feature, ...]:
    """A user and an item."""
    return (
        Feature(name=USER, kind="id", source="user.id", num_embeddings=graph.num_users),
        Feature(name=ITEM, kind="id", source="item.id", num_embeddings=graph.num_items),
    )


def build_embeddings(table: Mapping[str, Any], graph: Bipartite, optimizer: Optimizer, seed: int) -> Embeddings:
    """The tables of users and items, as the YAML fields ``table`` describe them.

    ConfigError for kinds with stages: there is one stage here.
    """
    embeddings = Embeddings(plan_tables(table, features_of(graph), optimizer=optimizer, seed=seed))
    if any(made.stages for made in embeddings.tables.values()):
        raise ConfigError(f"table.kind={table['kind']} has stages, and retrieval trains in one; choose another")
    return embeddings


def dense_of(embeddings: Embeddings) -> DenseParameters | None:
    """The parameters that tables bring, as rows; None where they bring none."""
    return DenseParameters(embeddings) if any(True for _ in embeddings.parameters()) else None


def fit_retriever(
    trainer: RetrievalTrainer,
    graphs: Graphs,
    fit: RetrievalFit,
    *,
    seed: int,
    on_judged: Callable[[int, dict[str, float]], None] = lambda epoch, figures: None,
    seconds: Callable[[], float] = lambda: 0.0,
) -> Fitted:
    """Train until validation gets no better; returns the best of all epochs that were judged. Callback: (epoch, …)."""
    asked = valid_users(graphs.valid, fit.valid_users, seed)
    best: Fitted | None = None
    best_recall, waited, history, start, learning_seconds = -1.0, 0, [], seconds(), 0.0
    for epoch in range(1, fit.epochs + 1):
        begun = seconds()
        loss = trainer.epoch(fit.batch_size, fit.regularisation)
        learning_seconds += seconds() - begun
        if epoch % fit.judge_every and epoch != fit.epochs:
            continue
        users_UD, items_ID = trainer.vectors()
        found = judge(users_UD, items_ID, graphs.valid, [graphs.train], seed=seed, users=asked)
        judged = {"epoch": float(epoch), "loss": loss, "recall": found.recall}
        history.append({**judged, "seconds": seconds() - start, "learning_seconds": learning_seconds})
        on_judged(epoch, history[-1])
        if found.recall > best_recall:
            best, best_recall, waited = Fitted(epoch, users_UD, items_ID, history, trainer.rows()), found.recall, 0
        else:
            waited += 1
        if waited >= fit.patience or (fit.max_minutes and seconds() - start > 60 * fit.max_minutes):
            break
    assert best is not None
    return best


def _bag(ids_N: Keys) -> Bag:
    """One id an example."""
    return Bag(ids_N, np.arange(len(ids_N) + 1))


def valid_users(valid: Bipartite, num: int, seed: int) -> Keys:
    """Users with something to find, at most ``num``, by chance, ascending."""
    users = np.flatnonzero(valid.user_degrees_U)
    if len(users) <= num:
        return users
    return np.sort(np.random.default_rng([seed, 0x5A]).choice(users, num, replace=False))


def judge_test(fitted: Fitted, graphs: Graphs, seed: int) -> Judged:
    """How well the rest is found, what was learned from and chosen by being masked."""
    return judge(fitted.users_UD, fitted.items_ID, graphs.test, [graphs.train, graphs.valid], seed=seed)


def local_trainer(
    table: Mapping[str, Any],
    retriever: Retriever,
    graph: Bipartite,
    optimizer: Optimizer,
    seed: int,
    dense_optimizer: Optimizer | None = None,
) -> tuple[RetrievalTrainer, Embeddings, LocalRows]:
    """A trainer with rows in this process; ``dense_optimizer`` is that of tables' parameters, by default the rows'."""
    embeddings = build_embeddings(table, graph, optimizer, seed)
    groups, dense = list(embeddings.groups.values()), dense_of(embeddings)
    if dense is None:
        store = LocalRows(groups)
    else:
        store = LocalRows([*groups, dense.group(dense_optimizer or optimizer)])
        store.restore(Snapshot((0,), {DENSE: dense.initial_snapshot(dense_optimizer or optimizer)}))
    return RetrievalTrainer(embeddings, retriever, store, graph, seed=seed), embeddings, store


def figures(judged: Judged) -> dict[str, float]:
    """Plain values."""
    return asdict(judged)
