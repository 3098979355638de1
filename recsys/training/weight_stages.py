"""The stages of kinds that prune single weights: they are trained, some are chosen, those are trained on or anew.

::

    deeplight  prune        mask  go_on      from the weights as they are
    pep        thresholds   mask  restart    from the initial values of the weights that stay, and of the network
    autosrh    count  gates mask  go_on      from the products of weights and gates

    stages/prune/           a run of its own, metrics.json with the pruning curve (``kept``)
    stages/mask/            weights.safetensors, the map of those that stay
    checkpoints/ …          the run itself: the kind ``sparse``
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.errors import ConfigError
from recsys.fields import build
from recsys.hashing import Floats, Keys
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.rows.store import Snapshot, fresh_rows
from recsys.tables import TABLES
from recsys.tables.autosrh import AutoSrhPlan
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.tables.sparse import Sparse
from recsys.tables.sparse_map import SparseIds, SparseMap
from recsys.tables.weights import PrunedWeights, PrunedWeightsPlan
from recsys.training.checkpoint import load_checkpoint
from recsys.training.fit import Examples
from recsys.training.magnitudes import Ranked, vectors_of, weight_tables
from recsys.training.pruning import served_target
from recsys.training.stage import Work, digest_of, stage_folder, trained, with_table_of

_EXAMPLES_PER_BATCH = 4096


def prune(work: Work, blueprint: Blueprint) -> Blueprint:
    """All weights, of which more and more read zero; ConfigError where the model reads no embeddings."""
    if not weight_tables(Recommender(blueprint)):
        raise ConfigError(f"model {blueprint.model['kind']!r} has no embeddings to prune; choose another model")
    folder = _folder_before(work, blueprint.table["kind"])
    work.train(blueprint, folder, epochs=_plan_of(blueprint).prune_epochs)
    return blueprint


def count(work: Work, blueprint: Blueprint) -> Blueprint:
    """Groups of ids by how often they occur in what is learned from: as many ids each, of equal counts the first."""
    found = stage_folder(work.folder, "count") / "groups.safetensors"
    num_groups = build(AutoSrhPlan, blueprint.table, "table").num_groups
    method = f"autosrh, {num_groups} groups"
    if found.exists() and (made := read_id_map(found, CodeMap, work.data)).method == method:
        work.say(f"it has ended: {found} is read")
    else:
        counts = _counts(weight_tables(Recommender(blueprint)), work.learned)
        tables = {
            name: IdCodes.of(_by_frequency(counts_I, num_groups), num_groups) for name, counts_I in counts.items()
        }
        made = CodeMap(method=method, data=work.data, tables=tables)
        write_id_map(found, made)
    return replace(blueprint, table={**blueprint.table, "map": made.to_json()})


def mask(work: Work, blueprint: Blueprint) -> Blueprint:
    """The weights that stay: those that do not read zero, or the largest of them, as far as a target has room."""
    kind = blueprint.table["kind"]
    found, before = stage_folder(work.folder, "mask") / "weights.safetensors", _folder_before(work, kind)
    method = f"{kind}, of {digest_of(before)}, {_asked(blueprint)}"
    if found.exists() and (made := read_id_map(found, SparseMap, work.data)).method == method:
        work.say(f"it has ended: {found} is read")
        return with_table_of(blueprint, "sparse", map=made.to_json())
    recommender, store = _trained(before)
    ranked = Ranked({name: vectors_of(recommender, name, store) for name in weight_tables(recommender)})

    def map_of(num: int) -> SparseMap:
        tables = {name: SparseIds.of(kept_ID) for name, kept_ID in ranked.largest(num).items()}
        return SparseMap(method=method, data=work.data, tables=tables)

    made = map_of(_num_kept(blueprint, recommender, ranked, lambda num: _served_bytes(blueprint, map_of(num))))
    write_id_map(found, made)
    work.say(f"{made.num_weights:,} weights are left, {made.density:.2%} of all")
    return with_table_of(blueprint, "sparse", map=made.to_json())


def go_on(work: Work, blueprint: Blueprint) -> Blueprint:
    """What stays and the network from where they are, in the run's own folder."""
    work.train(blueprint, work.folder, as_they_are(blueprint, _folder_of(work, blueprint)))
    return blueprint


def restart(work: Work, blueprint: Blueprint) -> Blueprint:
    """What stays from its initial values, and the network from its own, in the run's own folder (PEP, section 3.3)."""
    work.train(blueprint, work.folder, as_they_began(blueprint, _folder_of(work, blueprint)))
    return blueprint


def _counts(tables: Mapping[str, PrunedWeights], learned: Examples) -> dict[str, Keys]:
    """How often each id of each table occurs, int64 (I,)."""
    counts = {name: np.zeros(table.num_embeddings, np.int64) for name, table in tables.items()}
    for batch in learned.batches(_EXAMPLES_PER_BATCH):
        for name, table in tables.items():
            for feature in table.config.feature_names:
                ids_N = batch.bags[feature].ids_N
                inside_N = (ids_N >= 0) & (ids_N < table.num_embeddings)
                counts[name] += np.bincount(ids_N[inside_N], minlength=table.num_embeddings)
    return counts


def _by_frequency(counts_I: Keys, num_groups: int) -> Keys:
    """The group of each id, 0 that of the most frequent: int64 (I, 1)."""
    groups_I = np.empty(len(counts_I), np.int64)
    groups_I[np.argsort(-counts_I, kind="stable")] = np.arange(len(counts_I)) * num_groups // max(1, len(counts_I))
    return groups_I[:, None]


def _folder_before(work: Work, kind: str) -> Path:
    """Where the first stage of a kind trains."""
    table, _ = TABLES[kind]
    return stage_folder(work.folder, table.stages[table.stages.index("mask") - 1])


def _folder_of(work: Work, blueprint: Blueprint) -> Path:
    """Where what a map was made of has been trained."""
    return _folder_before(work, SparseMap.from_json(blueprint.table["map"]).method.partition(",")[0])


def _plan_of(blueprint: Blueprint) -> PrunedWeightsPlan:
    _, kind = TABLES[blueprint.table["kind"]]
    plan = build(kind, blueprint.table, "table")
    assert isinstance(plan, PrunedWeightsPlan)
    return plan


def _asked(blueprint: Blueprint) -> str:
    """What the choice follows from, besides what was trained."""
    plan = _plan_of(blueprint)
    return f"sparsity={plan.sparsity}, compression={plan.compression}, budget={plan.budget}"


def _num_kept(blueprint: Blueprint, recommender: Recommender, ranked: Ranked, bytes_at: Callable[[int], int]) -> int:
    """How many weights stay: those that are alive, as far as the kind's own share and the target have room."""
    plan, num = _plan_of(blueprint), ranked.num_alive
    num = min(num, round((1 - plan.wanted_sparsity) * ranked.num_numbers))
    target = served_target(plan, recommender)
    return num if target is None else min(num, ranked.most_within(target[0], bytes_at, target[1]))


def _served_bytes(blueprint: Blueprint, made: SparseMap) -> int:
    """What all tables take, companions counted."""
    tables = Recommender(with_table_of(blueprint, "sparse", map=made.to_json())).embeddings.tables
    return sum(table.nbytes("serving").total for table in tables.values())


def _trained(before: Path) -> tuple[Recommender, LocalRows]:
    """What a stage has trained, its dense parameters loaded."""
    recommender, store = trained(before)
    recommender.load_dense(store.pull(recommender.dense_keys))
    return recommender, store


def as_they_are(blueprint: Blueprint, before: Path) -> Snapshot:
    """A new run's state whose weights and parameters are those that were trained; optimizers start anew."""
    old, store = _trained(before)
    new, parameters = Recommender(blueprint), old.state_dict()
    for name, tensor in new.state_dict().items():  # the old one has thresholds besides
        tensor.copy_(parameters[name])
    return _started(new, {name: vectors_of(old, name, store) for name in new.embeddings.tables})


def as_they_began(blueprint: Blueprint, before: Path) -> Snapshot:
    """A new run's state whose weights are those that training began with: they follow from (seed, id, column)."""
    began = weight_tables(Recommender(load_checkpoint(before / "checkpoints").blueprint))
    groups = {name: table.groups[0] for name, table in began.items()}
    return _started(
        Recommender(blueprint),
        {
            name: groups[name].initial.rows(np.arange(table.num_embeddings), groups[name].width, groups[name].seed)
            for name, table in began.items()
        },
    )


def _started(new: Recommender, vectors: Mapping[str, Floats]) -> Snapshot:
    """The start of a run with the vectors of all ids of some tables, pruned."""
    groups = dict(new.start_state().groups)
    for name, vectors_ID in vectors.items():
        table = new.embeddings.tables[name]
        assert isinstance(table, Sparse)
        (group,) = table.groups
        groups[group.name] = fresh_rows(group, *table.packed(vectors_ID))
    return Snapshot((0,), groups)
