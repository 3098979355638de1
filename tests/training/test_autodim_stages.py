"""AutoDim from weighing widths to what is served."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_stages import DIM, NUM_IDS, VALID, blueprint, work_in

from recsys.errors import ConfigError
from recsys.models.recommender import Blueprint
from recsys.training.fit import evaluate
from recsys.training.stage import stage_folder, trained
from recsys.training.stages import run_stages
from recsys.training.trainer import Trainer

FULL_BYTES = 4 * NUM_IDS * (DIM + 1)


def autodim(**table: Any) -> Blueprint:
    fields = {"kind": "autodim", "embedding_dim": DIM, "initial_scale": 0.05, **table}
    return replace(blueprint({"kind": "adam", "learning_rate": 0.01}), table=fields)


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, to a target."""
    folder = tmp_path_factory.mktemp("weighed")
    work, folders = work_in(folder)
    run_stages(work, autodim(compression=1.9))
    assert folders == ["weigh", folder.name]
    return folder


def test_what_was_chosen_has_room_and_is_as_good(weighed: Path) -> None:
    said = json.loads((stage_folder(weighed, "choose") / "widths.json").read_text())
    recommender, store = trained(weighed)
    assert recommender.blueprint.table["kind"] == "mde" and recommender.blueprint.table["widths"] == said["widths"]
    for name, width in said["widths"].items():
        assert recommender.embeddings.groups[name].width == width
        assert sum(said["probabilities"][name].values()) == pytest.approx(1, abs=1e-5)
    served = sum(table.nbytes("serving").total for table in recommender.embeddings.tables.values())
    assert served <= FULL_BYTES / 1.9
    assert evaluate(Trainer(recommender, store), VALID)["auc"] > 0.85
    assert all(max(likely.values()) - min(likely.values()) > 0.005 for likely in said["probabilities"].values())


def test_a_choice_is_read_or_made_anew_and_the_smallest_target_said(weighed: Path, tmp_path: Path) -> None:
    stage_folder(tmp_path, "weigh").parent.mkdir(parents=True)
    stage_folder(tmp_path, "weigh").symlink_to(stage_folder(weighed, "weigh"))
    with pytest.raises(
        ConfigError, match=r"table\.budget=99 allows 99 bytes, and the narrowest candidates take"
    ) as said:
        run_stages(work_in(tmp_path)[0], autodim(budget=99))
    least = int(str(said.value).partition("give budget=")[2].split()[0])
    (tmp_path / "summary.json").write_text("{}")  # nothing is to be trained again
    lines: list[str] = []
    for _ in range(2):
        run_stages(work_in(tmp_path, lines.append)[0], autodim(budget=least))
    assert sum("it has ended" in line for line in lines) == 1
    chosen = json.loads((stage_folder(tmp_path, "choose") / "widths.json").read_text())
    assert set(chosen["widths"].values()) == {2}
