"""From five lines of YAML to the tables of all features.

``table: {kind: hash, embedding_dim: 16, compression: 4}`` says how tables are made; the features say which there
are, and how many ids each has.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from recsys import hashing
from recsys.errors import ConfigError, unknown
from recsys.features.declarations import Feature
from recsys.rows.initial import Initial
from recsys.rows.optimizers import Optimizer
from recsys.tables import TABLES
from recsys.tables.table import TableConfig
from recsys.tables.unified import UnifiedConfig

_SHARED = ("embedding_dim", "pooling", "absent", "initial_scale")
_SIZED = {"full": (), "hash": ("num_buckets", "compression"), "collisionless": ()}
_UNIFIED = ("num_rows", "num_chunks", "compression")


def plan_tables(
    fields: Mapping[str, Any], features: Sequence[Feature], *, optimizer: Optimizer, seed: int
) -> list[TableConfig]:
    """The tables for the sparse ones of ``features``; features that name the same table share it.

    Raises ConfigError for an unknown kind or field (listing the known ones), or a size that can not be found.

    >>> from recsys.rows.optimizers import SGD
    >>> user = Feature(name="user", kind="id", source="user.id", num_embeddings=100)
    >>> plan_tables({"kind": "hash", "embedding_dim": 8, "compression": 4}, [user],
    ...             optimizer=SGD(learning_rate=1.0), seed=0)[0].num_buckets
    25
    """
    kind = fields.get("kind")
    if kind not in TABLES:
        raise unknown("table kind", kind, TABLES)
    known = ("kind", *_SHARED, *(_UNIFIED if kind == "unified" else _SIZED[kind]))
    for name in fields:
        if name not in known:
            raise unknown(f"field of table kind={kind}", name, known)
    sparse = [feature for feature in features if feature.kind != "number"]
    common = {
        "embedding_dim": fields.get("embedding_dim", 16),
        "pooling": fields.get("pooling", "mean"),
        "absent": fields.get("absent", "initial"),
        "initial": Initial(scale=float(fields.get("initial_scale", 0.05))),
        "optimizer": optimizer,
    }
    if kind == "unified":
        return [_unified(fields, sparse, common, seed)]
    tables: dict[str, list[Feature]] = {}
    for feature in sparse:
        tables.setdefault(feature.table_name, []).append(feature)
    return [_table(str(kind), fields, name, users, common, seed) for name, users in tables.items()]


def first_order(tables: Sequence[TableConfig], optimizer: Optimizer) -> list[TableConfig]:
    """The width-1 companions of tables, for a model's linear part: same kind and sizes, starting from zero."""
    return [_narrowed(table, optimizer) for table in tables]


def _narrowed(table: TableConfig, optimizer: Optimizer) -> TableConfig:
    narrower: dict[str, Any] = {"num_chunks": 1} if isinstance(table, UnifiedConfig) else {}
    return dataclasses.replace(
        table,
        name=f"{table.name}.first_order",
        embedding_dim=1,
        initial=Initial(scale=0.0),
        optimizer=optimizer,
        **narrower,
    )


def _table(
    kind: str,
    fields: Mapping[str, Any],
    name: str,
    features: Sequence[Feature],
    common: Mapping[str, Any],
    seed: int,
) -> TableConfig:
    size = max((feature.size for feature in features if feature.size is not None), default=None)
    sizes: dict[str, Any] = {}
    if kind == "full":
        sizes["num_embeddings"] = size
    if kind == "hash":
        buckets = fields.get("num_buckets")
        sizes["num_buckets"] = _compressed(fields, name, size) if buckets is None else buckets
    _, config = TABLES[kind]
    names = tuple(feature.name for feature in features)
    return config(name=name, feature_names=names, seed=hashing.seed_of(seed, name), **common, **sizes)


def _unified(
    fields: Mapping[str, Any], features: Sequence[Feature], common: Mapping[str, Any], seed: int
) -> TableConfig:
    num_rows = fields.get("num_rows")
    num_chunks = fields.get("num_chunks", 2)
    if num_rows is None:
        sizes = {feature.table_name: feature.size for feature in features}
        missing = [name for name, size in sizes.items() if size is None]
        if missing:
            raise ConfigError(
                f"table kind=unified: num_embeddings of {', '.join(missing)} is not known; set table.num_rows"
            )
        total = sum(size for size in sizes.values() if size is not None)
        # rows are num_chunks times narrower than an embedding, so as many more fit into the same bytes
        num_rows = math.ceil(num_chunks * total / _ratio(fields))
    return UnifiedConfig(
        name="unified",
        feature_names=tuple(feature.name for feature in features),
        seed=hashing.seed_of(seed, "unified"),
        num_rows=num_rows,
        num_chunks=num_chunks,
        salts={feature.name: feature.table_name for feature in features},
        **common,
    )


def _compressed(fields: Mapping[str, Any], name: str, size: int | None) -> int:
    if size is None:
        raise ConfigError(f"table {name!r}: num_embeddings is not known; set table.num_buckets")
    return max(1, math.ceil(size / _ratio(fields)))


def _ratio(fields: Mapping[str, Any]) -> float:
    ratio = float(fields.get("compression", 1))
    if not ratio >= 1:
        raise ConfigError(f"compression {ratio} must be 1 or more: 4 means a quarter of the full table's bytes")
    return ratio
