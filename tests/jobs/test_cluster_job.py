"""The commands around bucket maps, as pasted: cluster, train, retrieve; and their mistakes, one line each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from composing import composed

from jobs.cluster import ClusterSettings
from recsys.errors import ConfigError
from recsys.fields import build
from recsys.runtime.latest import open_redis
from recsys.runtime.settings import build_blueprint
from recsys.serving import Retriever

ROOT = Path(__file__).resolve().parents[2]


def run_job(folder: Path, job: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", f"jobs.{job}", *overrides]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def folder(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user works: with data/ml100k prepared and its clusters found."""
    place = tmp_path_factory.mktemp("clustering")
    (place / "data").mkdir()
    (place / "data" / "ml100k").symlink_to(films)
    done = run_job(place, "cluster", "num_buckets=30")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "gamma" in done.stdout and "rows for 102 ids" in done.stdout
    return place


def test_a_map_is_trained_over(folder: Path) -> None:
    assert (folder / "maps" / "graphhash.html").stat().st_size > 1000
    done = run_job(
        folder, "train", "table=graphhash", "replay.limit=600", "epochs=1", "model.hidden_sizes=[8]",
        "hydra.run.dir=runs/t",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads((folder / "runs" / "t" / "summary.json").read_text())["rows"]
    assert rows["user"] + rows["item"] <= 30 and rows["user"] > 1


def test_retrieval_reads_the_map_too(folder: Path) -> None:
    small = ["fit.epochs=2", "fit.batch_size=256", "table=graphhash", "interactions=prepared"]
    done = run_job(folder, "retrieve", *small, "hydra.run.dir=runs/r")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((folder / "runs" / "r" / "summary.json").read_text())
    assert summary["rows"] <= 30 and summary["map_bytes"] > 0
    assert 0 < summary["test"]["recall"] <= 1 and summary["popularity"]["num_users"] == summary["test"]["num_users"]
    done = run_job(folder, "publish", "run=runs/r")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with open_redis(None, folder / "runs" / "r") as url:
        found = Retriever.connect(url).recommend(1, k=5)
    assert found.by == "vectors" and all(title.startswith("Film ") for title in found.titles)


def test_a_map_of_another_data_set_is_a_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for overrides, said in (
        (["data=ml_latest_small"], "made for data set 'ml100k', not 'ml_latest_small'"),
        (["table.map=maps/none"], "table.map=maps/none: there is no such file; make it: python -m jobs.cluster"),
    ):
        with pytest.raises(ConfigError, match=said):
            build_blueprint(composed("train", "table=graphhash", *overrides))
    assert build_blueprint(composed("train", "table=graphhash")).table["map"]["data"] == "ml100k"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "nothing is given; give one of gamma, num_buckets, budget_bytes, like, grow"),
        (["gamma=2", "num_buckets=3"], "gamma and num_buckets is given; give one of"),
        (["gamma=2", "method=lsh"], "gamma=2.0 is of method=graphhash, not lsh"),
        (["budget_bytes=9", "item_fraction=0.5"], "goes with method=graphhash and num_buckets or like, not with"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(ClusterSettings, composed("cluster", *overrides), "")
