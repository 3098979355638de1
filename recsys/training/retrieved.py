"""What retrieval has learned, as a recommender that is published, looked up, ranked and retrieved by like any other.

Products of a user's and an item's vector are a factorisation machine of these two features, without weights of ids
(Rendle 2010, section V A). Matrix factorisation keeps its tables, compressed as they are; vectors that were smoothed
along a graph (LightGCN) are no table's, and become full tables of their own.

Shape suffixes: U users, I items, D embedding dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.features.latest import Latest
from recsys.features.state import FeatureState, History
from recsys.graphs.bipartite import Bipartite
from recsys.hashing import Floats
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import build_optimizer
from recsys.rows.store import Snapshot
from recsys.training.checkpoint import Checkpoint
from recsys.training.retrieval import ITEM, USER, Fitted, Graphs, build_embeddings, features_of

_PLAIN = {"kind": "sgd", "learning_rate": 1.0}  # what sets a row: a step against it from nothing


@dataclass(frozen=True)
class Retrieved:
    """What to build, and its rows."""

    blueprint: Blueprint
    rows: Snapshot


def retrieved_form(
    table: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    graphs: Graphs,
    fitted: Fitted,
    *,
    smooths: bool,
    seed: int,
) -> Retrieved:
    """The recommender of the best epoch; ``smooths`` says that vectors are not what the tables hold."""
    if smooths:
        dim = fitted.users_UD.shape[1]
        table, optimizer = {"kind": "full", "embedding_dim": dim, "initial_scale": 0.0}, _PLAIN
        learned = _full_rows(table, graphs.train, fitted.users_UD, fitted.items_ID, seed)
    else:
        learned = fitted.rows
    blueprint = Blueprint(
        features=features_of(graphs.train),
        table=table,
        model={"kind": "fm", "first_order": False},
        optimizer=optimizer,
        dense_optimizer=_PLAIN,
        seed=seed,
    )
    recommender = Recommender(blueprint)
    store = LocalRows(recommender.groups)
    store.restore(recommender.start_state())
    store.restore(learned)
    return Retrieved(blueprint, store.snapshot())


def as_checkpoint(retrieved: Retrieved, graphs: Graphs, titles: Mapping[int, str]) -> Checkpoint:
    """A checkpoint that jobs.publish reads; users like what they were learned and chosen by, so it is left out."""
    state = _features(graphs, titles)
    return Checkpoint(
        blueprint=retrieved.blueprint,
        joiners=[{"features": state.to_json(), "position": []}],
        about={"time_ms": 0},
        rows=retrieved.rows,
    )


def _full_rows(table: Mapping[str, Any], graph: Bipartite, users_UD: Floats, items_ID: Floats, seed: int) -> Snapshot:
    """Full tables that hold vectors: rows begin at 0, and one step of SGD takes each to its vector."""
    embeddings = build_embeddings(table, graph, build_optimizer(_PLAIN), seed)
    store = LocalRows(list(embeddings.groups.values()))
    store.push({name: (np.arange(len(v_ND)), -v_ND) for name, v_ND in ((USER, users_UD), (ITEM, items_ID))}, 0)
    return store.snapshot()


def _features(graphs: Graphs, titles: Mapping[int, str]) -> FeatureState:
    degrees_U = graphs.train.user_degrees_U + graphs.valid.user_degrees_U
    state = FeatureState(keep_items=int(degrees_U.max(initial=0)))
    for item in titles or range(graphs.train.num_items):  # of prepared data, ids without a title are holes
        state.put_facts("item", item, 0, {"title": titles[item]} if titles else {})
    known_UI = (graphs.train.matrix_UI + graphs.valid.matrix_UI).tocsr()
    for user in np.flatnonzero(degrees_U).tolist():
        items = known_UI.indices[known_UI.indptr[user] : known_UI.indptr[user + 1]].tolist()
        state.put_history(user, History(likes=Latest.of(items, [0] * len(items)), num_likes=len(items)))
    return state
