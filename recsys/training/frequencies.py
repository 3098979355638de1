"""A stage before training: which ids the examples have most often."""

from dataclasses import replace

import numpy as np

from recsys.hashing import Keys
from recsys.models.recommender import Blueprint, Recommender
from recsys.tables.embeddings import Embeddings
from recsys.tables.frequent_map import FrequentMap, most_frequent
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.tables.mgqe import MGQEConfig
from recsys.training.dpq_stages import quantizing_tables
from recsys.training.fit import Examples
from recsys.training.stage import Work, stage_folder

_EXAMPLES_PER_READ = 1 << 13


def frequencies(work: Work, blueprint: Blueprint) -> Blueprint:
    """The blueprint with a map of frequent ids, where it comes without one."""
    if blueprint.table.get("map") is not None:
        return blueprint
    recommender = Recommender(blueprint)
    configs = {name: table.config for name, table in quantizing_tables(recommender).items()}
    shares = {name: config.frequent_share for name, config in configs.items() if isinstance(config, MGQEConfig)}
    found = stage_folder(work.folder, "frequencies") / "frequent.safetensors"
    method = f"counts of ids, {', '.join(f'{share:g} of {name}' for name, share in shares.items())}"
    if found.exists() and (made := read_id_map(found, FrequentMap, work.data)).method == method:
        work.say(f"it has ended: {found} is read")
    else:
        counts = occurrences(recommender.embeddings, work.learned)
        tables = {name: most_frequent(counts[name], share) for name, share in shares.items()}
        made = FrequentMap(method=method, data=work.data, tables=tables)
        write_id_map(found, made)
    return replace(blueprint, table={**blueprint.table, "map": made.to_json()})


def occurrences(embeddings: Embeddings, examples: Examples) -> dict[str, Keys]:
    """How often each id of each table of known ids occurs in the bags of its features, int64 (num_ids,) by table."""
    tables = {name: table for name, table in embeddings.tables.items() if table.config.num_ids is not None}
    counts = {name: np.zeros(table.config.num_ids or 0, np.int64) for name, table in tables.items()}
    for batch in examples.batches(_EXAMPLES_PER_READ):
        bags, _ = embeddings.known_bags(batch.bags)
        for name, table in tables.items():
            for feature in table.config.feature_names:
                counts[name] += np.bincount(bags[feature].ids_N, minlength=len(counts[name]))
    return counts
