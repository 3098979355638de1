"""What a run has learned, carried over to another bucket map of its tables.

A new clustering renumbers buckets and moves ids between them. Each row starts as the mean of the rows that its members
read before, every member counting once (``recsys.graphs.online``); optimizers of those rows start anew. What reads the
same rows by both maps, or no map at all (the network), goes on as it was.

Shape suffixes: N ids, M buckets, W row width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from recsys.graphs.online import carried_rows
from recsys.hashing import Keys
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.rows.store import GroupSnapshot, Snapshot, fresh_rows
from recsys.tables.graphhash import GraphHash
from recsys.training.checkpoint import Checkpoint

RECLUSTERED = "graphhash"  # the one kind whose ids read a row each, and whose map may be another


def differs_in_map_alone(before: Blueprint, now: Blueprint) -> bool:
    """Whether two blueprints are the same but for the bucket map of their tables."""
    if before.table.get("kind") != RECLUSTERED:
        return False
    without = [replace(each, table=_without_map(each.table)).to_json() for each in (before, now)]
    return without[0] == without[1] and before.table.get("map") != now.table.get("map")


def carried_over(checkpoint: Checkpoint, now: Blueprint) -> Checkpoint:
    """The same learned state for tables of another map: what a run of the blueprint ``now`` may start from."""
    before = Recommender(checkpoint.blueprint)
    store = LocalRows(before.groups)
    store.restore(checkpoint.rows)
    new = Recommender(now)
    groups = dict(checkpoint.rows.groups)
    for name, table in new.embeddings.tables.items():
        old = before.embeddings.tables[name]
        if isinstance(table, GraphHash) and isinstance(old, GraphHash) and not _are_same(old, table):
            groups[name] = _carried(old, table, store)
    return replace(checkpoint, blueprint=now, rows=Snapshot(checkpoint.rows.cursor, groups))


def _carried(old: GraphHash, new: GraphHash, store: LocalRows) -> GroupSnapshot:
    """A table's rows in its new buckets, as rows that no optimizer has seen."""
    (old_group,), (new_group,) = old.groups, new.groups
    old_rows_MW = store.pull({old_group.name: np.arange(old_group.num_rows or 0)})[old_group.name]
    ids_N = np.arange(max(old.num_ids, new.num_ids))
    keys, rows = carried_rows(old_rows_MW, _keys(old, ids_N), _keys(new, ids_N), new_group.num_rows or 0)
    return fresh_rows(new_group, keys, rows)


def _are_same(old: GraphHash, new: GraphHash) -> bool:
    """Whether every id reads the same row of both."""
    ids_N = np.arange(max(old.num_ids, new.num_ids))
    return old.groups == new.groups and np.array_equal(_keys(old, ids_N), _keys(new, ids_N))


def _keys(table: GraphHash, ids_N: Keys) -> Keys:
    """The row that each id reads, int64 (N,)."""
    feature = table.config.feature_names[0]
    keys_N: Keys = table.address(feature, torch.from_numpy(ids_N))[table.config.name][:, 0].numpy()
    return keys_N


def _without_map(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "map"}
