"""Table kinds that are trained in stages: each hands the next one the blueprint of what it trains or searches.

::

    optembed
    stages/supernet/    a run of its own: checkpoints, metrics.json with the pruning curve (``kept``), summary.json
    stages/search/      search.json, where it stands after each generation; kept.safetensors, the map that it found
    checkpoints/ …      the last stage is the run itself: retrained, judged on test, published

    dpq
    stages/queries/     a run of its own
    stages/codes/       codes.safetensors, the codes of every id
    checkpoints/ …      the codebooks and the network trained on, codes as they are

    mgqe                as dpq, after
    stages/frequencies/ frequent.safetensors, which ids the examples have most often

    cce
    stages/hashed/      a run of its own
    stages/clusters-1/  clusters.safetensors, which clusters the chunks of every id are in
    stages/clustered-1/ a run of its own, of each round but the last
    checkpoints/ …      the last round

    dedup
    stages/whole/       a run of its own
    stages/shared/      blocks.safetensors, which block of rows each one reads
    checkpoints/ …      the blocks that stay, trained on

Kinds that prune single weights: see ``weight_stages``; AutoDim: ``autodim_stages``. A stage that is finished is read
and not run again; one that was stopped goes on. Neither does so with another configuration than it was begun with.
"""

from collections.abc import Callable, Mapping
from typing import Any

from recsys.models.recommender import Blueprint
from recsys.tables import TABLES
from recsys.training.autodim_stages import choose, weigh
from recsys.training.cce_stages import clustered, hashed
from recsys.training.dedup_stages import shared, whole
from recsys.training.dpq_stages import codes, finetune, queries
from recsys.training.frequencies import frequencies
from recsys.training.optembed_stages import retrain, search, supernet
from recsys.training.stage import Work
from recsys.training.weight_stages import count, go_on, mask, prune, restart

STAGES: Mapping[str, Callable[[Work, Blueprint], Blueprint]] = {
    "supernet": supernet,
    "search": search,
    "retrain": retrain,
    "frequencies": frequencies,
    "queries": queries,
    "codes": codes,
    "finetune": finetune,
    "prune": prune,
    "thresholds": prune,
    "count": count,
    "gates": prune,
    "mask": mask,
    "go_on": go_on,
    "restart": restart,
    "weigh": weigh,
    "choose": choose,
    "hashed": hashed,
    "clustered": clustered,
    "whole": whole,
    "shared": shared,
}


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
