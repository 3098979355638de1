"""Embedding tables, one file a kind, behind one interface (``table.Table``).

A new kind is one file and one line in ``TABLES``; the contract tests find it there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.features.declarations import Feature
from recsys.fields import build, choose
from recsys.rows.optimizers import Optimizer
from recsys.tables.collisionless import Collisionless, CollisionlessPlan
from recsys.tables.double_graphhash import DoubleGraphHash, DoubleGraphHashPlan
from recsys.tables.full import Full, FullPlan
from recsys.tables.graphhash import GraphHash, GraphHashPlan
from recsys.tables.hash import Hash, HashPlan
from recsys.tables.plan import TablePlan
from recsys.tables.table import Table, TableConfig
from recsys.tables.unified import Unified, UnifiedPlan

TABLES: dict[str, tuple[type[Table], type[TablePlan]]] = {
    "full": (Full, FullPlan),
    "hash": (Hash, HashPlan),
    "unified": (Unified, UnifiedPlan),
    "collisionless": (Collisionless, CollisionlessPlan),
    "graphhash": (GraphHash, GraphHashPlan),
    "double_graphhash": (DoubleGraphHash, DoubleGraphHashPlan),
}


def plan_tables(
    fields: Mapping[str, Any], features: Sequence[Feature], *, optimizer: Optimizer, seed: int
) -> list[TableConfig]:
    """The tables for the sparse ones of ``features``, as the YAML ``fields`` describe them.

    Raises ConfigError for an unknown kind or field (listing the known ones), a value that can not be, or a size that
    can not be found.

    >>> from recsys.rows.optimizers import SGD
    >>> user = Feature(name="user", kind="id", source="user.id", num_embeddings=100)
    >>> plan_tables({"kind": "hash", "embedding_dim": 8, "compression": 4}, [user],
    ...             optimizer=SGD(learning_rate=1.0), seed=0)[0].num_buckets
    25
    """
    _, plan = TABLES[choose("table", fields, TABLES)]
    sparse = [feature for feature in features if feature.kind != "number"]
    return build(plan, fields, "table").tables(sparse, optimizer=optimizer, seed=seed)


def check_fields(fields: Mapping[str, Any]) -> None:
    """ConfigError for an unknown kind or field, or a value that can not be, before anything is read."""
    _, plan = TABLES[choose("table", fields, TABLES)]
    build(plan, fields, "table")


def with_map(fields: Mapping[str, Any], data: str | None = None) -> Mapping[str, Any]:
    """The fields with the bucket map that they name read into them: they build their tables where the file is not.

    Errors are those of ``bucket_files.read_map``; ``data`` is the data set that the map has to be for.
    """
    path = fields.get("map")
    if not isinstance(path, str):
        return fields
    from recsys.tables.bucket_files import read_map  # needs safetensors, which serving does without

    return {**fields, "map": read_map(Path(path), data).to_json()}


def build_table(config: TableConfig) -> Table:
    """The table that ``config`` describes."""
    table, _ = TABLES[config.kind]
    return table(config)
