"""Embedding tables, one file a kind, behind one interface (``table.Table``).

A new kind is one file and one line in ``TABLES``; the contract tests find it there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recsys.features.declarations import Feature
from recsys.fields import build, choose
from recsys.rows.optimizers import Optimizer
from recsys.tables.adaembed import AdaEmbed, AdaEmbedPlan
from recsys.tables.alpt import Alpt, AlptPlan
from recsys.tables.autodim import AutoDim, AutoDimPlan
from recsys.tables.autosrh import AutoSrh, AutoSrhPlan
from recsys.tables.cafe import Cafe, CafePlan
from recsys.tables.cce import CCE, CCEPlan
from recsys.tables.code_map import CodeMap
from recsys.tables.codes import Codes, CodesPlan
from recsys.tables.collisionless import Collisionless, CollisionlessPlan
from recsys.tables.compositional import Compositional, CompositionalPlan
from recsys.tables.dedup import Dedup, DedupPlan
from recsys.tables.deeplight import DeepLight, DeepLightPlan
from recsys.tables.dhe import DHE, DHEPlan
from recsys.tables.double_graphhash import DoubleGraphHash, DoubleGraphHashPlan
from recsys.tables.double_hash import DoubleHash, DoubleHashPlan
from recsys.tables.dpq import DPQ, DPQPlan
from recsys.tables.frequency import Frequency, FrequencyPlan
from recsys.tables.frequent_map import FrequentMap
from recsys.tables.full import Full, FullPlan
from recsys.tables.graphhash import GraphHash, GraphHashPlan
from recsys.tables.hash import Hash, HashPlan
from recsys.tables.hash_embedding import HashEmbedding, HashEmbeddingPlan
from recsys.tables.id_map import IdMap
from recsys.tables.int8 import Int8, Int8Plan
from recsys.tables.int16 import Int16, Int16Plan
from recsys.tables.kept_map import KeptMap
from recsys.tables.mde import MDE, MDEPlan
from recsys.tables.mgqe import MGQE, MGQEPlan
from recsys.tables.optembed import OptEmbed, OptEmbedPlan
from recsys.tables.pep import Pep, PepPlan
from recsys.tables.plan import TablePlan
from recsys.tables.pruned import Pruned, PrunedPlan
from recsys.tables.robe import Robe, RobePlan
from recsys.tables.sparse import Sparse, SparsePlan
from recsys.tables.sparse_map import SparseMap
from recsys.tables.table import Table, TableConfig
from recsys.tables.tt_rec import TTRec, TTRecPlan
from recsys.tables.unified import Unified, UnifiedPlan

TABLES: dict[str, tuple[type[Table], type[TablePlan]]] = {
    "full": (Full, FullPlan),
    "hash": (Hash, HashPlan),
    "unified": (Unified, UnifiedPlan),
    "collisionless": (Collisionless, CollisionlessPlan),
    "double_hash": (DoubleHash, DoubleHashPlan),
    "hash_embedding": (HashEmbedding, HashEmbeddingPlan),
    "compositional": (Compositional, CompositionalPlan),
    "robe": (Robe, RobePlan),
    "tt_rec": (TTRec, TTRecPlan),
    "dhe": (DHE, DHEPlan),
    "mde": (MDE, MDEPlan),
    "frequency": (Frequency, FrequencyPlan),
    "cafe": (Cafe, CafePlan),
    "adaembed": (AdaEmbed, AdaEmbedPlan),
    "int8": (Int8, Int8Plan),
    "int16": (Int16, Int16Plan),
    "alpt": (Alpt, AlptPlan),
    "graphhash": (GraphHash, GraphHashPlan),
    "double_graphhash": (DoubleGraphHash, DoubleGraphHashPlan),
    "optembed": (OptEmbed, OptEmbedPlan),
    "pruned": (Pruned, PrunedPlan),
    "dpq": (DPQ, DPQPlan),
    "mgqe": (MGQE, MGQEPlan),
    "codes": (Codes, CodesPlan),
    "deeplight": (DeepLight, DeepLightPlan),
    "pep": (Pep, PepPlan),
    "autosrh": (AutoSrh, AutoSrhPlan),
    "sparse": (Sparse, SparsePlan),
    "autodim": (AutoDim, AutoDimPlan),
    "cce": (CCE, CCEPlan),
    "dedup": (Dedup, DedupPlan),
}

# whose map is not one of buckets
ID_MAPS: dict[str, type[IdMap]] = {
    "pruned": KeptMap,
    "mgqe": FrequentMap,
    "codes": CodeMap,
    "cce": CodeMap,
    "autosrh": CodeMap,
    "sparse": SparseMap,
    "dedup": CodeMap,
}


def plan_tables(
    fields: Mapping[str, Any],
    features: Sequence[Feature],
    *,
    optimizer: Optimizer,
    seed: int,
    with_first_order: bool = False,
) -> list[TableConfig]:
    """The tables for the sparse ones of ``features``, as the YAML ``fields`` describe them.

    ``with_first_order``: each will have its width-1 companion, which a budget counts too. Raises ConfigError for an
    unknown kind or field (listing the known ones), a value that can not be, a size that can not be found, or a budget
    that is too small.

    >>> from recsys.rows.optimizers import SGD
    >>> user = Feature(name="user", kind="id", source="user.id", num_embeddings=100)
    >>> plan_tables({"kind": "hash", "embedding_dim": 8, "compression": 4}, [user],
    ...             optimizer=SGD(learning_rate=1.0), seed=0)[0].num_buckets
    25
    """
    _, plan = TABLES[choose("table", fields, TABLES)]
    sparse = [feature for feature in features if feature.kind != "number"]
    return build(plan, fields, "table").tables(
        sparse, optimizer=optimizer, seed=seed, bytes_of=_served_bytes, with_first_order=with_first_order
    )


def check_fields(fields: Mapping[str, Any]) -> None:
    """ConfigError for an unknown kind or field, or a value that can not be, before anything is read."""
    _, plan = TABLES[choose("table", fields, TABLES)]
    build(plan, fields, "table")


def with_map(fields: Mapping[str, Any], data: str | None = None) -> Mapping[str, Any]:
    """The fields with the map that they name read into them: they build their tables where the file is not.

    Errors are those of ``read_map`` and ``read_id_map``; ``data`` is the data set that the map has to be for.
    """
    path = fields.get("map")
    if not isinstance(path, str):
        return fields
    from recsys.tables.bucket_files import read_map  # these need safetensors, which serving does without
    from recsys.tables.id_files import read_id_map

    kind = choose("table", fields, TABLES)
    if kind in ID_MAPS:
        return {**fields, "map": read_id_map(Path(path), ID_MAPS[kind], data).to_json()}
    return {**fields, "map": replace(read_map(Path(path), data), labels=None).to_json()}  # none is read any more


def build_table(config: TableConfig) -> Table:
    """The table that ``config`` describes."""
    table, _ = TABLES[config.kind]
    return table(config)


def _served_bytes(config: TableConfig) -> int:
    return build_table(config).nbytes("serving").total
