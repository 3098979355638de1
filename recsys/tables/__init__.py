"""Embedding tables, one file a kind, behind one interface (``table.Table``).

A new kind is one file and one line in ``TABLES``; the contract tests find it there.
"""

from recsys.tables.collisionless import Collisionless, CollisionlessConfig
from recsys.tables.full import Full, FullConfig
from recsys.tables.hash import Hash, HashConfig
from recsys.tables.table import Table, TableConfig
from recsys.tables.unified import Unified, UnifiedConfig

TABLES: dict[str, tuple[type[Table], type[TableConfig]]] = {
    "full": (Full, FullConfig),
    "hash": (Hash, HashConfig),
    "unified": (Unified, UnifiedConfig),
    "collisionless": (Collisionless, CollisionlessConfig),
}


def build_table(config: TableConfig) -> Table:
    """The table that ``config`` describes."""
    table, _ = TABLES[config.kind]
    return table(config)
