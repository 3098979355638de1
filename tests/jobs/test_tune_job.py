"""jobs.tune, as pasted: a search that stops, and goes on with what it has found."""

import json
from pathlib import Path

import pytest
from test_train_examples import DATA, said, started

pytest.importorskip("optuna", reason="the extra tune is not installed")
pytest.importorskip("tensorboardX", reason="the extra tune is not installed")

TUNE = [
    *DATA,
    'train=["optimizer=adam","model.hidden_sizes=[8]","table.embedding_dim=4","epochs=2"]',
    "space={optimizer.rows.learning_rate: {low: 1e-4, high: 0.1, log: true}}",
    "reduction_factor=2",
]


@pytest.mark.timeout(600)
@pytest.mark.long
def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    said(started(tmp_path, "prepare", *DATA))
    output = said(started(tmp_path, "tune", *TUNE, "trials=2", "hydra.run.dir=runs/search"))
    assert "best of 2 trials: 0." in output
    assert "python -m jobs.train data=synthetic optimizer=adam" in output
    folder = tmp_path / "runs" / "search"
    first = (folder / "trials.jsonl").read_text().splitlines()
    assert len(first) == 2
    output = said(started(tmp_path, "tune", *TUNE, "trials=3", f"resume={folder}"))
    assert "best of 3 trials: 0." in output
    lines = (folder / "trials.jsonl").read_text().splitlines()
    assert lines[:2] == first and len({json.loads(line)["trial"] for line in lines}) == 3
    output = said(started(tmp_path, "tune", *TUNE[:-2], "trials=3", f"resume={folder}"), status=2)
    assert "space was" in output
