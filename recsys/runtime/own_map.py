"""A bucket map of the size that a comparison asks for: found from the very examples that are trained on."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from recsys.datasets.interaction_files import InteractionFiles
from recsys.datasets.interactions import read_interactions
from recsys.errors import ConfigError
from recsys.features.declarations import DataSet
from recsys.graphs.bipartite import Bipartite
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.optimizers import SGD
from recsys.tables import ID_MAPS, TABLES
from recsys.tables.assign import ITEM, USER, clustered_map
from recsys.tables.embeddings import Embeddings
from recsys.tables.graphhash import GraphHashPlan
from recsys.training.retrieval import build_embeddings

Fields = Mapping[str, Any]
_TRIES = 4  # to meet the bytes: what a map itself takes is known when it is there


def wants_map(table: Fields) -> bool:
    """Whether the YAML fields are of a kind that reads a bucket map."""
    kind = table["kind"]
    return kind not in ID_MAPS and issubclass(TABLES[kind][1], GraphHashPlan)


def with_map_of_positives(blueprint: Blueprint, data: DataSet, compression: float) -> Blueprint:
    """The blueprint with a map by which its tables take ``1 / compression`` of the full ones' bytes, all counted.

    Users and items of the positive examples are clustered; tables of other features stay full. ConfigError where those
    alone take more, or the features have no users and items; DataError where the data has none.
    """
    features = {f.table_name: f for f in blueprint.features if f.kind == "id"}
    if missing := [name for name in (USER, ITEM) if name not in features]:
        raise ConfigError(
            f"table kind={blueprint.table['kind']}: data set {data.name!r} has no feature {' and '.join(missing)}, of "
            "which a graph could be made; choose another kind"
        )
    full = full_recommender(blueprint).embeddings
    sizes = {name: table.nbytes("serving").total for name, table in full.tables.items()}
    widths = {name: table.config.embedding_dim for name, table in full.tables.items()}
    shared = {f"{name}{suffix}" for name in (USER, ITEM) for suffix in ("", ".first_order")}
    found = read_interactions(_interactions(data, features[USER].size, features[ITEM].size), None, seed=0)
    table = _with_map(
        blueprint.table,
        Bipartite.of(found.train.users_E, found.train.items_E, found.num_users, found.num_items),
        data.name,
        allowed=sum(sizes.values()) / compression,
        others=sum(size for name, size in sizes.items() if name not in shared),
        row_bytes=4 * (widths.get(USER, 0) + widths.get(f"{USER}.first_order", 0)),
        taken=lambda table: served_bytes(Recommender(replace(blueprint, table=table)).embeddings),
    )
    return replace(blueprint, table=table)


def with_map_of_graph(table: Fields, graph: Bipartite, data: str, compression: float) -> Fields:
    """The fields with a map of the users and items that retrieval learns from; errors likewise."""
    row_bytes = 4 * table["embedding_dim"]
    return _with_map(
        table,
        graph,
        data,
        allowed=row_bytes * (graph.num_users + graph.num_items) / compression,
        others=0,
        row_bytes=row_bytes,
        taken=lambda table: served_bytes(build_embeddings(table, graph, SGD(learning_rate=1.0), seed=0)),
    )


def _with_map(
    table: Fields,
    graph: Bipartite,
    data: str,
    *,
    allowed: float,
    others: int,
    row_bytes: int,
    taken: Callable[[Fields], int],
) -> Fields:
    """The fields with a map by which tables are ``taken`` to need no more than ``allowed`` bytes.

    ``others`` of them are of features that have no buckets.
    """
    budget = int(allowed) - others
    for _ in range(_TRIES):
        if budget < 2 * row_bytes:
            break
        made = clustered_map(graph, data, budget_bytes=budget, row_bytes=row_bytes)
        over = taken({**table, "map": made.to_json(), "compression": None}) - allowed
        if over <= 0:
            return {**table, "map": made.to_json()}
        budget -= int(over) + 1
    raise ConfigError(
        f"table kind={table['kind']}: {int(allowed):,} bytes are allowed, of which features other than user and item "
        f"take {others:,}: too little is left for a map; give a smaller compression"
    )


def full_recommender(blueprint: Blueprint) -> Recommender:
    """The same model over full tables: what compression counts from. ConfigError where ids are not counted."""
    return Recommender(replace(blueprint, table={"kind": "full", "embedding_dim": blueprint.table["embedding_dim"]}))


def served_bytes(embeddings: Embeddings, num_rows: Mapping[str, int] | None = None) -> int:
    """What tables take as they are served."""
    return sum(table.nbytes("serving", num_rows).total for table in embeddings.tables.values())


def _interactions(data: DataSet, num_users: int | None, num_items: int | None) -> InteractionFiles:
    """Where the pairs are that ``data`` is trained on."""
    return InteractionFiles(
        name=data.name,
        format="prepared" if data.examples is None else "examples",
        folder=data.folder,
        num_users=num_users,
        num_items=num_items,
        first=0.8 if data.examples is None else 1.0,
        valid_fraction=0.0,
    )
