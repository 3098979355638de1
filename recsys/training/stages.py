"""Table kinds that are trained in stages: each hands the next one the blueprint of what it trains or searches.

::

    stages/supernet/    a run of its own: checkpoints, metrics.json with the pruning curve (``kept``), summary.json
    stages/search/      search.json, where it stands after each generation; kept.safetensors, the map that it found
    checkpoints/ …      the last stage is the run itself: retrained, judged on test, published

A stage that is finished is read and not run again; one that was stopped goes on. Neither does so with another
configuration than it was begun with.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, DataError
from recsys.fields import build
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.tables import TABLES
from recsys.tables.kept_files import read_kept, write_kept
from recsys.tables.optembed import OptEmbedPlan
from recsys.training.checkpoint import load_checkpoint
from recsys.training.evolution import Searched, evolve
from recsys.training.fit import Examples
from recsys.training.keeping import first_difference, write_json
from recsys.training.pruning import Fitness, kept_flags, kept_map, pruned_blueprint, pruning_tables, search_space


@dataclass(frozen=True, kw_only=True)
class Work:
    """What stages share. ``train`` leaves a trained run of a blueprint in a folder: its last checkpoint is the best."""

    folder: Path
    data: str
    valid: Examples
    train: Callable[[Blueprint, Path], None]
    say: Callable[[str], None]


def stages_of(table: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of the table kind that the YAML fields name; none of most."""
    kind, _ = TABLES[table["kind"]]
    return kind.stages


def run_stages(work: Work, blueprint: Blueprint) -> None:
    """All stages of the blueprint's table kind, in order."""
    names = stages_of(blueprint.table)
    for number, name in enumerate(names, 1):
        work.say(f"stage {number} of {len(names)}: {name}")
        blueprint = STAGES[name](work, blueprint)


def stage_folder(folder: Path, name: str) -> Path:
    """Where a stage of a run leaves what it hands on."""
    return folder / "stages" / name


# --- OptEmbed's


def _supernet(work: Work, blueprint: Blueprint) -> Blueprint:
    if not pruning_tables(Recommender(blueprint)):
        raise ConfigError(f"model {blueprint.model['kind']!r} has no embeddings to prune; choose another model")
    work.train(blueprint, stage_folder(work.folder, "supernet"))
    return blueprint


def _search(work: Work, blueprint: Blueprint) -> Blueprint:
    """The widths of the best AUC on the valid part, among the rows that the trained thresholds keep (OptEmbed §3.3)."""
    folder, supernet = stage_folder(work.folder, "search"), stage_folder(work.folder, "supernet")
    found = folder / "kept.safetensors"
    searched = _begun(folder / "search.json", _told(blueprint, supernet))
    if found.exists():
        work.say(f"it has ended: {found} is read")
        return pruned_blueprint(blueprint, read_kept(found, work.data))

    recommender, store = _trained(supernet)
    tables = pruning_tables(recommender)
    kept = kept_flags(recommender, store)
    widest = kept_map(kept, {name: table.config.embedding_dim for name, table in tables.items()}, work.data)
    work.say(f"{1 - widest.sparsity:.1%} of the rows are kept")
    space = search_space(blueprint, recommender, widest)
    fitness = Fitness(recommender, store, kept, work.valid)

    def keep(searched: Searched) -> None:
        _write_whole(folder / "search.json", {"told": _told(blueprint, supernet), **searched.to_json()})
        work.say(f"generation {searched.generation}: AUC {searched.history[-1]:.4f} of {len(searched.scores)} tried")

    how = build(OptEmbedPlan, blueprint.table, "table").search
    searched = evolve(how, space, fitness, seed=blueprint.seed, searched=searched, on_generation=keep)
    chosen = widest.widened(dict(zip(tables, searched.best, strict=True)))
    write_kept(found, chosen)
    work.say(f"{chosen.num_weights:,} weights are left, of widths {', '.join(map(str, searched.best))}")
    return pruned_blueprint(blueprint, chosen)


def _retrain(work: Work, blueprint: Blueprint) -> Blueprint:
    """From the initial values of the rows and of the network, in the run's own folder (OptEmbed §3.4)."""
    work.train(blueprint, work.folder)
    return blueprint


STAGES: Mapping[str, Callable[[Work, Blueprint], Blueprint]] = {
    "supernet": _supernet,
    "search": _search,
    "retrain": _retrain,
}


def _trained(folder: Path) -> tuple[Recommender, LocalRows]:
    """What a stage has trained, with rows in this process."""
    checkpoint = load_checkpoint(folder / "checkpoints")
    recommender = Recommender(checkpoint.blueprint)
    store = LocalRows(recommender.groups)
    store.restore(checkpoint.rows)
    return recommender, store


def _told(blueprint: Blueprint, supernet: Path) -> dict[str, Any]:
    """What a search follows from."""
    plan = build(OptEmbedPlan, blueprint.table, "table")
    return {
        "search": asdict(plan.search),
        "compression": plan.compression,
        "budget": plan.budget,
        "seed": blueprint.seed,
        "supernet": hashlib.sha256((supernet / "summary.json").read_bytes()).hexdigest(),
    }


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
        raise ConfigError(f"{path}: table.{name} was {was!r}, and is {now!r} now; give the options that it had")
    return searched


def _write_whole(path: Path, values: Any) -> None:
    """JSON that is there whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    write_json(beside, values)
    os.replace(beside, path)
