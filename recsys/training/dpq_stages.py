"""DPQ's stages, and MGQE's: queries and codebooks, then every id's codes, then codebooks trained on with those."""

from pathlib import Path

import numpy as np
import torch

from recsys.errors import ConfigError, DataError
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.store import RowReader, Snapshot
from recsys.tables.code_map import CodeMap, IdCodes, MixedCodes
from recsys.tables.dpq import DPQ
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.training.stage import Work, digest_of, stage_folder, trained, with_table_of

_IDS_PER_PULL = 1 << 16


def queries(work: Work, blueprint: Blueprint) -> Blueprint:
    """Rows and codebooks; ConfigError where the model reads no embeddings."""
    if not quantizing_tables(Recommender(blueprint)):
        raise ConfigError(f"model {blueprint.model['kind']!r} has no embeddings to quantise; choose another model")
    work.train(blueprint, stage_folder(work.folder, "queries"))
    return blueprint


def codes(work: Work, blueprint: Blueprint) -> Blueprint:
    """The nearest centroids of every id's query, whether an example had the id or not."""
    found, before = stage_folder(work.folder, "codes") / "codes.safetensors", stage_folder(work.folder, "queries")
    method = f"{blueprint.table['kind']}, of queries {digest_of(before)}"
    if found.exists() and (made := read_id_map(found, CodeMap, work.data)).method == method:
        work.say(f"it has ended: {found} is read")
        return coded_blueprint(blueprint, made)
    recommender, store = trained(before)
    recommender.load_dense(store.pull(recommender.dense_keys))
    tables = {name: codes_of(table, store) for name, table in quantizing_tables(recommender).items()}
    made = CodeMap(method=method, data=work.data, tables=tables)
    write_id_map(found, made)
    return coded_blueprint(blueprint, made)


def finetune(work: Work, blueprint: Blueprint) -> Blueprint:
    """Codebooks, companions and the network from what the queries' stage trained, in the run's own folder."""
    work.train(blueprint, work.folder, start_of(blueprint, stage_folder(work.folder, "queries")))
    return blueprint


def quantizing_tables(recommender: Recommender) -> dict[str, DPQ]:
    """The tables that have codebooks, by name."""
    tables = recommender.embeddings.tables
    return {name: table for name, table in tables.items() if isinstance(table, DPQ) and table.quantizes}


def coded_blueprint(blueprint: Blueprint, made: CodeMap) -> Blueprint:
    """What is served in place of queries."""
    return with_table_of(blueprint, "codes", map=made.to_json())


def start_of(blueprint: Blueprint, before: Path) -> Snapshot:
    """The state of a new run whose parameters, and rows of the same groups, are those of another that was trained.

    Optimizers start anew for parameters, and go on for rows.
    """
    old, store = trained(before)
    old.load_dense(store.pull(old.dense_keys))
    new = Recommender(blueprint)
    new.load_state_dict(old.state_dict())
    rows, begun = store.snapshot(), new.start_state()
    shared = [name for name in new.embeddings.groups if name in rows.groups]
    return Snapshot(begun.cursor, {**begun.groups, **{name: rows.groups[name] for name in shared}})


@torch.no_grad()
def codes_of(table: DPQ, store: RowReader) -> IdCodes | MixedCodes:
    """The codes of all ids of a table; DataError where its codebooks have numbers that are none."""
    if not torch.isfinite(table.codebooks).all():
        raise DataError(
            f"the codebooks of table {table.config.name!r} have numbers that are none: training diverged; lower the "
            "learning rates, and train anew"
        )
    parts = []
    for start in range(0, table.num_embeddings, _IDS_PER_PULL):
        ids_N = np.arange(start, min(table.num_embeddings, start + _IDS_PER_PULL))
        queries_ND = torch.from_numpy(store.pull({table.config.name: ids_N})[table.config.name])
        parts.append(table.codes(queries_ND, torch.from_numpy(ids_N)).numpy())
    return table.packed(np.concatenate(parts))
