"""AutoDim's stages: candidate widths are weighed, one is chosen for each table; ``retrain`` is OptEmbed's.

::

    stages/weigh/     a run of its own
    stages/choose/    widths.json: what was chosen, of what probabilities
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from recsys.errors import ConfigError, DataError
from recsys.fields import build
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.store import RowReader
from recsys.tables.autodim import AutoDim, AutoDimPlan
from recsys.training.keeping import write_json
from recsys.training.pruning import served_target
from recsys.training.stage import Work, digest_of, stage_folder, trained, with_table_of

Widths = Mapping[str, int]


def weigh(work: Work, blueprint: Blueprint) -> Blueprint:
    """All candidate widths at once; ConfigError where the model reads no embeddings."""
    if not _choosing(Recommender(blueprint)):
        raise ConfigError(f"model {blueprint.model['kind']!r} has no widths to choose; choose another model")
    work.train(blueprint, stage_folder(work.folder, "weigh"))
    return blueprint


def choose(work: Work, blueprint: Blueprint) -> Blueprint:
    """The likeliest width of each table, or narrower ones where a target asks it."""
    found, before = stage_folder(work.folder, "choose") / "widths.json", stage_folder(work.folder, "weigh")
    told = {"budget": blueprint.table.get("budget"), "compression": blueprint.table.get("compression")}
    told["weighed"] = digest_of(before)
    if found.exists() and (said := json.loads(found.read_text(encoding="utf-8")))["told"] == told:
        work.say(f"it has ended: {found} is read")
        return _of_widths(blueprint, said["widths"])
    recommender, store = trained(before)
    probabilities = {name: _probabilities(table, store) for name, table in _choosing(recommender).items()}
    target = served_target(build(AutoDimPlan, blueprint.table, "table"), recommender)
    num_bytes, asked = (math.inf, "") if target is None else target
    widths = chosen_widths(probabilities, _bytes_at(blueprint, probabilities), num_bytes, asked)
    found.parent.mkdir(parents=True, exist_ok=True)
    write_json(found, {"told": told, "widths": widths, "probabilities": probabilities})
    work.say(f"widths {', '.join(f'{name} {width}' for name, width in widths.items())}")
    return _of_widths(blueprint, widths)


def chosen_widths(
    probabilities: Mapping[str, Mapping[int, float]],
    bytes_at: Mapping[str, Mapping[int, int]],
    num_bytes: float,
    asked: str,
) -> dict[str, int]:
    """The likeliest widths by table; those that cost the least likelihood a byte are narrowed until all have room.

    ConfigError, naming what was ``asked``, where even the least of all have none.

    >>> likely, sizes = {2: 0.4, 4: 0.6}, {2: 20, 4: 40}
    >>> chosen_widths({"a": likely, "b": {2: 0.1, 4: 0.9}}, {"a": sizes, "b": sizes}, 70, "budget=70")
    {'a': 2, 'b': 4}
    """
    least = sum(min(sizes.values()) for sizes in bytes_at.values())
    if least > num_bytes:
        raise ConfigError(
            f"table.{asked} allows {int(num_bytes):,} bytes, and the narrowest candidates take {least:,}; give "
            f"budget={least} or more, or a smaller least_width"
        )
    widths = {name: _likeliest(likely) for name, likely in probabilities.items()}
    while sum(bytes_at[name][width] for name, width in widths.items()) > num_bytes:
        costs = {
            (name, narrower): (math.log(probabilities[name][width]) - math.log(probabilities[name][narrower])) / saved
            for name, width in widths.items()
            for narrower in probabilities[name]
            if (saved := bytes_at[name][width] - bytes_at[name][narrower]) > 0
        }
        name, narrower = min(costs, key=lambda which: costs[which])
        widths[name] = narrower
    return widths


def _likeliest(likely: Mapping[int, float]) -> int:
    return max(likely, key=lambda width: likely[width])


def _probabilities(table: AutoDim, store: RowReader) -> dict[int, float]:
    """How likely each width is; DataError for logits that are no numbers."""
    logits_C = store.pull({table.logit_group: np.zeros(1, np.int64)})[table.logit_group][0]
    if not np.isfinite(logits_C).all():
        raise DataError(
            f"the logits of table {table.config.name!r} are {logits_C.tolist()}: training diverged; lower the learning "
            "rates, and train anew"
        )
    return table.probabilities(torch.from_numpy(logits_C))


def _choosing(recommender: Recommender) -> dict[str, AutoDim]:
    """The tables that have widths to choose, by name."""
    tables = recommender.embeddings.tables
    return {name: table for name, table in tables.items() if isinstance(table, AutoDim) and table.chooses}


def _of_widths(blueprint: Blueprint, widths: Widths) -> Blueprint:
    """What is retrained and served."""
    return with_table_of(blueprint, "mde", widths=dict(widths))


def _bytes_at(blueprint: Blueprint, probabilities: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, int]]:
    """What each table takes at each of its widths, its companion counted."""
    sizes: dict[str, dict[int, int]] = {name: {} for name in probabilities}
    for width in sorted({width for likely in probabilities.values() for width in likely}):
        tables: Any = Recommender(_of_widths(blueprint, dict.fromkeys(probabilities, width))).embeddings.tables
        for name in probabilities:
            own = [tables[each] for each in (name, f"{name}.first_order") if each in tables]
            sizes[name][width] = sum(table.nbytes("serving").total for table in own)
    return sizes
