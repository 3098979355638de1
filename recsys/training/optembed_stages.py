"""OptEmbed's stages: the supernet is trained, widths are searched, what is left is retrained."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataError
from recsys.fields import build
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.optimizers import build_optimizer
from recsys.tables.id_files import read_id_map, write_id_map
from recsys.tables.kept_map import KeptMap
from recsys.tables.optembed import OptEmbedPlan
from recsys.training.evolution import Searched, evolve
from recsys.training.keeping import first_difference, write_json
from recsys.training.pruning import Fitness, kept_flags, kept_map, pruned_blueprint, pruning_tables, search_space
from recsys.training.stage import Work, digest_of, stage_folder, trained


def supernet(work: Work, blueprint: Blueprint) -> Blueprint:
    """All rows and widths at once; ConfigError where the model reads no embeddings."""
    if not pruning_tables(Recommender(blueprint)):
        raise ConfigError(f"model {blueprint.model['kind']!r} has no embeddings to prune; choose another model")
    if build_optimizer(blueprint.optimizer).lazy == "never":
        work.say("rows have no weight decay (optimizer.rows.weight_decay), without which next to none are pruned")
    work.train(blueprint, stage_folder(work.folder, "supernet"))
    return blueprint


def search(work: Work, blueprint: Blueprint) -> Blueprint:
    """The widths of the best AUC on the valid part, among the rows that the trained thresholds keep (OptEmbed)."""
    folder, before = stage_folder(work.folder, "search"), stage_folder(work.folder, "supernet")
    found = folder / "kept.safetensors"
    searched = _begun(folder / "search.json", _told(blueprint, before))
    if found.exists():
        work.say(f"it has ended: {found} is read")
        return pruned_blueprint(blueprint, read_id_map(found, KeptMap, work.data))

    recommender, store = trained(before)
    tables = pruning_tables(recommender)
    kept = kept_flags(recommender, store)
    widest = kept_map(kept, {name: table.config.embedding_dim for name, table in tables.items()}, work.data)
    work.say(f"{1 - widest.sparsity:.1%} of the rows are kept")
    space = search_space(blueprint, recommender, widest)
    fitness = Fitness(recommender, store, kept, work.valid)

    def keep(searched: Searched) -> None:
        _write_whole(folder / "search.json", {"told": _told(blueprint, before), **searched.to_json()})
        work.say(f"generation {searched.generation}: AUC {searched.history[-1]:.4f} of {len(searched.scores)} tried")

    how = build(OptEmbedPlan, blueprint.table, "table").search
    searched = evolve(how, space, fitness, seed=blueprint.seed, searched=searched, on_generation=keep)
    chosen = widest.widened(dict(zip(tables, searched.best, strict=True)))
    write_id_map(found, chosen)
    work.say(f"{chosen.num_weights:,} weights are left, of widths {', '.join(map(str, searched.best))}")
    return pruned_blueprint(blueprint, chosen)


def retrain(work: Work, blueprint: Blueprint) -> Blueprint:
    """From the initial values of the rows and of the network, in the run's own folder (OptEmbed)."""
    work.train(blueprint, work.folder)
    return blueprint


def _told(blueprint: Blueprint, before: Path) -> dict[str, Any]:
    """What a search follows from."""
    plan = build(OptEmbedPlan, blueprint.table, "table")
    table = {"search": asdict(plan.search), "compression": plan.compression, "budget": plan.budget}
    return {"table": table, "seed": blueprint.seed, "supernet": digest_of(before)}


def _begun(path: Path, told: Mapping[str, Any]) -> Searched | None:
    """Where a search stands; None where it has not begun. ConfigError where it was told something else."""
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        searched, before = Searched.from_json(saved), saved["told"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no state of a search ({error}); remove it, and search anew") from error
    if different := first_difference(before, told):
        name, was, now = different
        raise ConfigError(f"{path}: {name} was {was!r}, and is {now!r} now; give the options that it had")
    return searched


def _write_whole(path: Path, values: Any) -> None:
    """JSON that is there whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    write_json(beside, values)
    os.replace(beside, path)
