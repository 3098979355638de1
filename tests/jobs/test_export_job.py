"""jobs.export and jobs.evaluate, as pasted: what a run leaves scores as it did, out of a folder and out of Redis."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_train_examples import DATA, TRAIN, said, started

FIGURES = ("num_examples", "label_mean", "auc", "gauc", "logloss", "calibration", "normalized_entropy")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user has trained ``runs/one``."""
    place = tmp_path_factory.mktemp("exported")
    said(started(place, "prepare", *DATA))
    said(started(place, "train", *TRAIN, "+optimizer.rows.weight_decay=0.01", "hydra.run.dir=runs/one"))
    return place


@pytest.mark.timeout(300)
def test_an_export_is_worth_what_the_run_was(place: Path) -> None:
    output = said(started(place, "export", "run=runs/one"))
    assert "exported runs/one to runs/one/export" in output
    test = "examples=data/synthetic/test.parquet"
    said(started(place, "evaluate", test, "export=runs/one/export", "hydra.run.dir=runs/judged"))
    found = json.loads((place / "runs/judged/metrics.json").read_text())
    expected = json.loads((place / "runs/one/summary.json").read_text())["test"]
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    predicted = pq.read_table(place / "runs/judged/predictions.parquet")
    labels = pq.read_table(place / "data/synthetic/test.parquet")["label"].to_numpy()
    np.testing.assert_array_equal(predicted["label"].to_numpy(), labels)
    assert np.mean(predicted["probability"].to_numpy()) == pytest.approx(found["calibration"] * labels.mean(), abs=1e-5)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_redis_gives_the_same(place: Path) -> None:
    said(started(place, "publish", "run=runs/one"))
    said(started(place, "evaluate", "examples=data/synthetic/test.parquet", "run=runs/one", "hydra.run.dir=runs/redis"))
    found = json.loads((place / "runs/redis/metrics.json").read_text())
    expected = json.loads((place / "runs/one/summary.json").read_text())["test"]
    assert [found[name] for name in expected] == pytest.approx([*expected.values()], abs=1e-5)


def test_what_can_not_be_scored_is_one_line(place: Path) -> None:
    table = pq.read_table(place / "data/synthetic/test.parquet")
    pq.write_table(table.drop_columns(table.column_names[-1]), place / "short.parquet")
    if not (place / "runs/one/export").exists():
        said(started(place, "export", "run=runs/one", "program=false"))
    output = said(started(place, "evaluate", "examples=short.parquet", "export=runs/one/export"), status=2)
    assert f"short.parquet has no column '{table.column_names[-1]}'" in output
    assert len(output.strip().splitlines()) == 1
