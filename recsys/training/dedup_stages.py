"""Dedup's stages: a full table is trained; then blocks of rows that lie near each other share, and are trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.errors import ConfigError
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.store import RowReader, Snapshot, fresh_rows
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.dedup import Dedup
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.training.dpq_stages import start_of
from recsys.training.lsh import shared_by_distance
from recsys.training.magnitudes import check_finite
from recsys.training.stage import Work, digest_of, stage_folder, trained


def whole(work: Work, blueprint: Blueprint) -> Blueprint:
    """A row of each id; ConfigError where the blueprint comes with a map."""
    if blueprint.table.get("map") is not None:
        raise ConfigError("table.map is given, and table=dedup would make it anew; leave it out")
    work.train(blueprint, stage_folder(work.folder, "whole"))
    return blueprint


def shared(work: Work, blueprint: Blueprint) -> Blueprint:
    """The blocks that stay are trained on, in the run's own folder."""
    before = stage_folder(work.folder, "whole")
    made = _blocks(work, before)
    blueprint = replace(blueprint, table={**blueprint.table, "map": made.to_json()})
    work.train(blueprint, work.folder, start_in_blocks(blueprint, before))
    return blueprint


def _blocks(work: Work, before: Path) -> CodeMap:
    """Which block each one reads: read where it has been found."""
    found = stage_folder(work.folder, "shared") / "blocks.safetensors"
    method = f"dedup, of rows {digest_of(before)}"
    if found.exists() and (made := read_id_map(found, CodeMap, work.data)).method == method:
        work.say(f"{found} is read")
        return made
    recommender, store = trained(before)
    made = CodeMap(method=method, data=work.data, tables=blocks_of(recommender, store))
    for name, stored in made.tables.items():
        work.say(f"table {name}: {stored.num_centroids:,} of {stored.num_ids:,} blocks are stored")
    write_id_map(found, made)
    return made


def blocks_of(recommender: Recommender, store: RowReader) -> dict[str, IdCodes]:
    """The stored block that each one reads, by table, of those that share; stored ones are numbered as they lie."""
    found = {}
    for name, table in _tables(recommender).items():
        if not table.shares:
            continue
        seed = hashing.seed_of(table.config.seed, name, "blocks")
        # what is as long as a full row is near or far whatever the scale of rows
        blocks_BW = block_vectors(table, store)
        replaced_B = shared_by_distance(blocks_BW / _scale(blocks_BW), table.num_stored, seed=seed)
        left, codes_B = np.unique(replaced_B, return_inverse=True)
        found[name] = IdCodes.of(codes_B[:, None].astype(np.int64), len(left))
    return found


def start_in_blocks(blueprint: Blueprint, before: Path) -> Snapshot:
    """The state of a run that goes on from another's, its blocks the means of what they were; optimizers start anew."""
    old, store = trained(before)
    new = Recommender(blueprint)
    start = start_of(blueprint, before)
    groups = dict(start.groups)
    for name, table in _tables(new).items():
        if table.stored is not None:
            rows = mean_rows(table, block_vectors(_tables(old)[name], store)).numpy()
            groups[name] = fresh_rows(table.groups[0], np.arange(len(rows)), rows)
    return Snapshot(start.cursor, groups)


def mean_rows(table: Dedup, blocks_BW: Tensor) -> Tensor:
    """The rows that blocks share: the mean of theirs, of the ids that are there, (num_stored · block_rows, D)."""
    assert table.stored is not None
    codes_B = torch.from_numpy(table.stored.at(np.arange(table.num_blocks))[:, 0])
    rows_BRD = blocks_BW.view(table.num_blocks, table.block_rows, -1)
    is_there_BR = (torch.arange(table.num_blocks * table.block_rows) < table.num_embeddings).view(-1, table.block_rows)
    sums = torch.zeros(table.num_stored, *rows_BRD.shape[1:]).index_add_(0, codes_B, rows_BRD)
    nums = torch.zeros(table.num_stored, table.block_rows).index_add_(0, codes_B, is_there_BR.float())
    return (sums / nums.clamp(min=1)[:, :, None]).flatten(0, 1)


def block_vectors(table: Dedup, store: RowReader) -> Tensor:
    """The rows of each block end to end, (B, block_rows · D); of ids that are not there zeros."""
    name, ids_N = table.config.name, np.arange(table.num_embeddings)
    rows = store.pull({name: ids_N})[name]
    check_finite(name, rows)
    padded = np.zeros((table.num_blocks * table.block_rows, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return torch.from_numpy(padded.reshape(table.num_blocks, -1))


def _scale(blocks_BW: Tensor) -> Tensor:
    """The mean length of blocks."""
    return blocks_BW.norm(dim=1).mean().clamp(min=torch.finfo(torch.float32).tiny)


def _tables(recommender: Recommender) -> dict[str, Dedup]:
    """The tables of this kind, companions too, by name."""
    return {name: table for name, table in recommender.embeddings.tables.items() if isinstance(table, Dedup)}
