"""CCE's stages: sums of hashed rows are trained; then, in rounds, their vectors are clustered and trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys import hashing
from recsys.errors import ConfigError
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.store import RowReader, Snapshot, fresh_rows
from recsys.tables.cce import CCE
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.training.dpq_stages import start_of
from recsys.training.kmeans import kmeans
from recsys.training.magnitudes import check_finite
from recsys.training.stage import Work, digest_of, stage_folder, trained

_IDS_PER_PULL = 1 << 16


def hashed(work: Work, blueprint: Blueprint) -> Blueprint:
    """Rows by hash alone; ConfigError where the blueprint comes with clusters."""
    if blueprint.table.get("map") is not None:
        raise ConfigError("table.map is given, and table=cce would make it anew; leave it out")
    work.train(blueprint, stage_folder(work.folder, "hashed"))
    return blueprint


def clustered(work: Work, blueprint: Blueprint) -> Blueprint:
    """Each round clusters what the one before has trained, and trains on; the last in the run's own folder."""
    rounds, before = blueprint.table.get("rounds", 1), stage_folder(work.folder, "hashed")
    for number in range(1, rounds + 1):
        made = _clusters(work, before, number)
        blueprint = replace(blueprint, table={**blueprint.table, "map": made.to_json(), "round": number})
        within = work.folder if number == rounds else stage_folder(work.folder, f"clustered-{number}")
        work.train(blueprint, within, start_in_clusters(blueprint, before))
        before = within
    return blueprint


def _clusters(work: Work, before: Path, number: int) -> CodeMap:
    """The clusters of a round: read where they are there."""
    found = stage_folder(work.folder, f"clusters-{number}") / "clusters.safetensors"
    method = f"cce, round {number}, of rows {digest_of(before)}"
    if found.exists() and (made := read_id_map(found, CodeMap, work.data)).method == method:
        work.say(f"round {number}: {found} is read")
        return made
    recommender, store = trained(before)
    made = CodeMap(method=method, data=work.data, tables=clusters_of(recommender, store, number))
    work.say(f"round {number}: ids of {', '.join(made.tables)} are clustered")
    write_id_map(found, made)
    return made


def clusters_of(recommender: Recommender, store: RowReader, number: int) -> dict[str, IdCodes]:
    """The clusters of all ids by table, chunk by chunk; companions have those of their tables."""
    found = {}
    for name, table in _tables(recommender).items():
        if not table.counts_map:
            continue
        vectors_ND = vectors_of(table, store)
        chunks = [
            kmeans(chunks_NS, table.num_clusters, seed=hashing.seed_of(table.config.seed, name, "clusters", number, at))
            for at, chunks_NS in enumerate(vectors_ND.chunk(table.num_chunks, dim=1))
        ]
        found[name] = IdCodes.of(torch.stack([nearest_N for _, nearest_N in chunks], 1).numpy(), table.num_clusters)
    return found


def start_in_clusters(blueprint: Blueprint, before: Path) -> Snapshot:
    """The state of a run that goes on from another's: its tables' rows at centroids, the other parameters as they are.

    Optimizers start anew for those rows, and for parameters.
    """
    old, store = trained(before)
    new = Recommender(blueprint)
    start = start_of(blueprint, before)
    groups = dict(start.groups)
    for name, table in _tables(new).items():
        clusters_NC = table.address(table.config.feature_names[0], torch.arange(table.num_ids))[name].numpy()
        clusters_NC = clusters_NC[:, ::2] % table.num_clusters
        rows = table.rows_of(vectors_of(_tables(old)[name], store), clusters_NC).numpy()
        groups[name] = fresh_rows(table.groups[0], np.arange(len(rows)), rows)
    return Snapshot(start.cursor, groups)


@torch.no_grad()
def vectors_of(table: CCE, store: RowReader) -> Tensor:
    """The vectors of all ids of a table, (N, D); DataError where some are no numbers."""
    name, parts = table.config.name, []
    for ids_N in torch.arange(table.num_ids).split(_IDS_PER_PULL):
        keys_NK = table.address(table.config.feature_names[0], ids_N)[name]
        rows = torch.from_numpy(store.pull({name: keys_NK.reshape(-1).numpy()})[name])
        parts.append(table.compose(table.config.feature_names[0], ids_N, {name: rows.view(*keys_NK.shape, -1)}))
    vectors_ND = torch.cat(parts)
    check_finite(name, vectors_ND.numpy())
    return vectors_ND


def _tables(recommender: Recommender) -> dict[str, CCE]:
    """The tables of this kind, companions too, by name."""
    return {name: table for name, table in recommender.embeddings.tables.items() if isinstance(table, CCE)}
