"""A bucket map of the size that a comparison asks for: found from the very examples that are trained on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recsys.datasets.interaction_files import InteractionFiles
from recsys.datasets.interactions import read_interactions
from recsys.errors import ConfigError
from recsys.features.declarations import DataSet
from recsys.graphs.bipartite import Bipartite
from recsys.models.recommender import Blueprint, Recommender
from recsys.tables import ID_MAPS, TABLES
from recsys.tables.assign import ITEM, USER, clustered_map
from recsys.tables.graphhash import GraphHashPlan

_TRIES = 4  # to meet the bytes: what a map itself takes is known when it is there


def wants_map(table: Mapping[str, Any]) -> bool:
    """Whether the YAML fields are of a kind that reads a bucket map."""
    kind = table["kind"]
    return kind not in ID_MAPS and issubclass(TABLES[kind][1], GraphHashPlan)


def with_own_map(blueprint: Blueprint, data: DataSet, compression: float) -> Blueprint:
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
    full = full_recommender(blueprint)
    sizes = {name: table.nbytes("serving").total for name, table in full.embeddings.tables.items()}
    found = read_interactions(_interactions(data, features[USER].size, features[ITEM].size), None, seed=0)
    graph = Bipartite.of(found.train.users_E, found.train.items_E, found.num_users, found.num_items)
    widths = {name: table.config.embedding_dim for name, table in full.embeddings.tables.items()}
    row_bytes = 4 * (widths.get(USER, 0) + widths.get(f"{USER}.first_order", 0))
    allowed = sum(sizes.values()) / compression
    shared = {f"{name}{suffix}" for name in (USER, ITEM) for suffix in ("", ".first_order")}
    budget = int(allowed - sum(size for name, size in sizes.items() if name not in shared))
    for _ in range(_TRIES):
        if budget < 2 * row_bytes:
            break
        made = clustered_map(graph, data.name, budget_bytes=budget, row_bytes=row_bytes)
        with_map = replace(blueprint, table={**blueprint.table, "map": made.to_json()})
        over = served_bytes(Recommender(replace(with_map, table={**with_map.table, "compression": None}))) - allowed
        if over <= 0:
            return with_map
        budget -= int(over) + 1
    raise ConfigError(
        f"table kind={blueprint.table['kind']}: compression={compression:g} allows {int(allowed):,} bytes, of "
        "which features other than user and item leave too little for their rows; give a smaller compression"
    )


def full_recommender(blueprint: Blueprint) -> Recommender:
    """The same model over full tables: what compression counts from. ConfigError where ids are not counted."""
    return Recommender(replace(blueprint, table={"kind": "full", "embedding_dim": blueprint.table["embedding_dim"]}))


def served_bytes(recommender: Recommender, num_rows: Mapping[str, int] | None = None) -> int:
    """What a recommender's tables take as they are served."""
    return sum(table.nbytes("serving", num_rows).total for table in recommender.embeddings.tables.values())


def _interactions(data: DataSet, num_users: int | None, num_items: int | None) -> InteractionFiles:
    """Where the pairs are that ``data`` is trained on."""
    form, first = ("examples", 1.0) if data.examples is not None else ("prepared", 0.8)
    return InteractionFiles(
        name=data.name,
        format=form,  # type: ignore[arg-type]
        folder=data.folder,
        num_users=num_users,
        num_items=num_items,
        first=first,
        valid_fraction=0.0,
    )
