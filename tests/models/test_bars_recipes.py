"""The bench beside BARS: every recipe is a run that jobs.train takes, of the model that BARS counted."""

from pathlib import Path
from typing import Any

import pytest
from composing import composed
from test_parameter_counts import FRAPPE, count

from benches.bars_page import write_page
from benches.bars_recipes import RECIPES
from recsys.fields import build
from recsys.runtime.sections import TrainConfig

COUNTED = {  # BARS's parameters, where they count what is computed; see test_parameter_counts
    "LR": 5_390, "FM": 59_280, "FFM": 490_400, "FwFM": 107_826, "AFM": 60_826, "NFM": 384_880, "IPNN": 433_491,
    "WideDeep": 423_280, "DeepFM": 423_280, "DCN": 418_591, "CrossNet": 55_191, "DCNv2": 458_391, "CrossNetv2": 94_391,
    "xDeepFM": 429_809, "CIN": 147_984, "AutoInt": 306_051, "AutoInt+": 622_180, "FiBiNET": 743_480, "DLRM": 417_891,
    "MaskNet": 571_691,
}  # fmt: skip


def told(model: str) -> dict[str, Any]:
    return composed("train", "experiment=bars_frappe", *RECIPES[model].overrides())


@pytest.mark.parametrize("model", RECIPES)
def test_a_recipe_is_what_jobs_train_takes(model: str) -> None:
    recipe, config = RECIPES[model], told(model)
    build(TrainConfig, config, "")
    fields = {name: value for name, value in config["model"].items() if name != "kind"}
    assert fields.items() >= recipe.model.items()
    assert config["optimizer"]["rows"]["weight_decay"] == recipe.weight_decay
    assert config["optimizer"]["first_order"]["weight_decay"] == recipe.weight_decay


@pytest.mark.parametrize("model", COUNTED)
def test_it_has_as_many_parameters(model: str) -> None:
    fields = told(model)["model"]
    assert count(fields.pop("kind"), FRAPPE, fields) == COUNTED[model]


def test_the_page_judges_by_bars_seeds_or_by_ours(tmp_path: Path) -> None:
    def line(model: str, seed: int, auc: float) -> dict[str, Any]:
        return {"model": model, "seed": seed, "auc": auc, "logloss": 0.15, "epochs": 20, "steps_clipped": 0}

    lines = [line("DeepFM", 2021, 0.9841), line("LR", 2021, 0.9356), line("DCN", 2021, 0.99)]
    page = write_page(tmp_path, lines).read_text()
    assert "| DeepFM | 1 | 0.98410 | 0.1500 | 20 | 0.98424 / 0.1482 | 0.98395 ± 0.00016 | +0.00015 | yes |" in page
    assert "| LR | 1 | 0.93560 | 0.1500 | 20 | 0.93558 / 0.3076 |  | +0.00002 | open |" in page
    assert "+0.00658 | no: above |" in page
    more = [line("LR", seed, 0.9356 + 0.0001 * (seed - 2022)) for seed in (2022, 2023)]
    assert "| LR | 3 | 0.93563 ± 0.00006 |" in (page := write_page(tmp_path, [*lines, *more]).read_text())
    assert page.count("| yes |") == 2
