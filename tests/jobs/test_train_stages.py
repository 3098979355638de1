"""jobs.train over a table kind that has stages, as pasted: run, stopped between stages, gone on with."""

import json
import shutil
from pathlib import Path

import pytest
from test_train_examples import DATA, TRAIN, said, started

OPTIONS = [
    *TRAIN,
    "table=optembed",
    "+optimizer.rows.weight_decay=0.01",
    "table.search.generations=2",
    "table.search.mutations=2",
    "table.search.crossovers=2",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all stages."""
    place = tmp_path_factory.mktemp("stages")
    said(started(place, "prepare", *DATA))
    output = said(started(place, "train", *OPTIONS, "hydra.run.dir=runs/one"))
    for line in ("stage 1 of 3: supernet", "generation 2: AUC", "weights are left, of widths", "stage 3 of 3: retrain"):
        assert line in output
    return place / "runs" / "one"


def test_a_run_through_stages(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["test"]["auc"] > 0.55
    assert {table["kind"] for table in summary["tables"].values()} == {"pruned"}
    curve = json.loads((whole / "stages" / "supernet" / "metrics.json").read_text())
    assert [0 < found["kept"] <= 1 for found in curve] == [True, True]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_goes_on_with_the_stage_that_it_was_in(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "stopped"
    shutil.copytree(whole, run)
    shutil.copytree(whole.parents[1] / "data", tmp_path / "data")
    output = said(started(tmp_path, "train", *OPTIONS, f"resume={run}"), status=2)
    assert "that run has ended" in output and len(output.strip().splitlines()) == 1
    (run / "summary.json").unlink()
    (run / "stages" / "search" / "kept.safetensors").unlink()
    for left in ("checkpoints", "best"):
        shutil.rmtree(run / left)
    output = said(started(tmp_path, "train", *OPTIONS, "table.alpha=1", f"resume={run}"), status=2)
    assert "table.alpha was 1e-05, and is 1 now; give the options that it had" in output.replace("\n", " ")
    output = said(started(tmp_path, "train", *OPTIONS, f"resume={run}"))
    assert "it has ended:" in output and "generation" not in output
    assert json.loads((run / "summary.json").read_text()) == json.loads((whole / "summary.json").read_text())
