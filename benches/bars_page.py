"""The page of ``benches.bars``: each model's figures beside BARS's, and whether they agree."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benches.bars_recipes import RECIPES, Recipe

INTRODUCTION = """# BARS's runs on Frappe_x1

`python -m benches.bars` makes this page from `bars_frappe.jsonl`, a line a run; it goes on where it stopped. Every run
is `python -m jobs.train experiment=bars_frappe` with a model, its L2 and its dropout as BARS has them
(`benches/bars_recipes.py`), tables of kind full, whole-table L2 by lazy decay. One of them:

```sh
python -m jobs.train {command}
```

Valid and test parts are BARS's exactly, train's positives too; **train's 134,423 negatives are redrawn** (BARS's train
file is not public), by the rule that its authors state. AUC and logloss are of the test part, at the epoch with the
best AUC on valid. BARS prints one run a model; of some it also lists five seeds, whose mean and σ are given here.
*Agrees*: our mean within that mean ± 3 σ, or, where BARS has no seeds, its printed run within our own mean ± 3
deviations of our seeds (*open* while we have fewer than three).
"""
_LEAST_SEEDS = 3
REASONS = {  # of those outside
    "DCNv2": "above BARS's seeds, and within .001 of the run that it prints; train's negatives are others",
}


def write_page(folder: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``bars_frappe.md``; its path."""
    path = folder / "bars_frappe.md"
    command = " ".join(["experiment=bars_frappe", "seed=2021", *RECIPES["DCNv2"].overrides()])
    rows = [_row(model, [line for line in lines if line["model"] == model]) for model in RECIPES]
    head = [
        "| model | seeds | AUC | logloss | epochs | BARS's run | its five seeds | difference | agrees |",
        "|---" * 9 + "|",
    ]
    clipped = sum(line["steps_clipped"] for line in lines)
    outside = [
        f"- {model}: {REASONS.get(model, 'not known yet')}"
        for model, recipe in RECIPES.items()
        if (aucs := [line["auc"] for line in lines if line["model"] == model]) and "no" in verdict(recipe, aucs)
    ]
    if outside:
        outside = ["\nWhy some do not agree:\n", *outside]
    said = f"\nIn all of these runs gradient clipping (a norm of 10) fired in {clipped:,} steps.\n"
    path.write_text("\n".join([INTRODUCTION.format(command=command), *head, *filter(None, rows), *outside, said]))
    return path


def verdict(recipe: Recipe, aucs: Sequence[float]) -> str:
    """Whether our seeds agree with BARS; "open" where there are too few to tell.

    >>> recipe = Recipe(kind="fm", weight_decay=0, auc=0.98, logloss=0.1, mean=0.97, deviation=0.001)
    >>> verdict(recipe, [0.9725]), verdict(recipe, [0.974])
    ('yes', 'no: above')
    """
    if recipe.mean is not None and recipe.deviation is not None:
        difference, most = float(np.mean(aucs)) - recipe.mean, 3 * recipe.deviation
    elif len(aucs) >= _LEAST_SEEDS:
        difference, most = float(np.mean(aucs)) - recipe.auc, 3 * float(np.std(aucs, ddof=1))
    else:
        return "open"
    if abs(difference) <= most:
        return "yes"
    return "no: above" if difference > 0 else "no: below"


def _row(model: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """One model's line of the table; empty where it has no run."""
    if not lines:
        return ""
    recipe = RECIPES[model]
    aucs, loglosses = ([line[name] for line in lines] for name in ("auc", "logloss"))
    difference = float(np.mean(aucs)) - (recipe.auc if recipe.mean is None else recipe.mean)
    seeds = "" if recipe.mean is None else f"{recipe.mean:.5f} ± {recipe.deviation:.5f}"
    cells = [
        model,
        str(len(lines)),
        _spread(aucs, 5),
        _spread(loglosses, 4),
        f"{np.mean([line['epochs'] for line in lines]):.0f}",
        f"{recipe.auc:.5f} / {recipe.logloss:.4f}",
        seeds,
        f"{difference:+.5f}",
        verdict(recipe, aucs),
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the deviation where there is more than one.

    >>> _spread([0.5], 2), _spread([0.25, 0.75], 2)
    ('0.50', '0.50 ± 0.35')
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    mean = f"{np.mean(values):.{digits}f}"
    return mean if math.isnan(deviation) else f"{mean} ± {deviation:.{digits}f}"
