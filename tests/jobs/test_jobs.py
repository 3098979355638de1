"""The commands of the README, as pasted: each job in a process of its own, on a small data set."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from recsys.embedded.process import free_ports

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def run_job(folder: Path, job: str, *overrides: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *overrides],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user works: with data/ml100k prepared."""
    place = tmp_path_factory.mktemp("user")
    (place / "data").mkdir()
    (place / "data" / "ml100k").symlink_to(films)
    return place


@pytest.fixture(scope="module")
def online_run(folder: Path) -> Path:
    """A finished jobs.online."""
    run_job(folder, "online", "source=parquet", "replay.limit=600", "hydra.run.dir=runs/online")
    return folder / "runs" / "online"


@pytest.mark.timeout(300)
def test_online_leaves_summary_report_and_checkpoint(online_run: Path) -> None:
    summary = json.loads((online_run / "summary.json").read_text())
    expected = {
        "source", "events", "examples", "examples_lost", "examples_duplicated", "events_per_s", "auc_last_half",
        "auc_baseline_last_half", "calibration", "rows", "bytes", "sync_delay_ms_p50", "sync_delay_ms_p99",
        "lookup_rows_per_s", "rank_ms_p50", "rank_ms_p99", "parity_max_abs_error", "versions",
    }  # fmt: skip
    assert expected <= set(summary)
    assert (summary["examples"], summary["examples_lost"], summary["examples_duplicated"]) == (600, 0, 0)
    assert {path.name for path in online_run.iterdir()} >= {
        "report.html",
        "checkpoints",
        "redis",
        "predictions",
    }


def test_lookup_and_rank_reopen_the_latest_run(online_run: Path, folder: Path) -> None:
    found = json.loads(run_job(folder, "lookup", "feature=item", "ids=[1,2,3]"))
    assert {len(vector) for vector in found["embeddings"].values()} == {16}
    assert found["versions"]["run"] == "online"
    assert "Film" in run_job(folder, "rank", "user=7", "k=3")


@pytest.mark.timeout(300)
def test_train_sweeps_and_publishes(online_run: Path, folder: Path) -> None:
    said = run_job(
        folder, "train", "-m", "table=full,unified", "epochs=1", "batch.max_examples=64", "hydra.sweep.dir=runs/sweep"
    )
    assert said.count("test AUC") == 2
    summary = json.loads((folder / "runs" / "sweep" / "1" / "summary.json").read_text())
    assert summary["test"]["auc"] > 0.7  # the planted pattern
    table = summary["tables"]["unified"]
    assert (table["kind"], set(summary["tables"])) == ("unified", {"unified", "unified.first_order"})
    assert 0 < table["serving_bytes"] < table["training_bytes"] < summary["bytes"] and table["compression"] >= 2
    assert "published" in run_job(folder, "publish", "run=runs/sweep/1")
    assert "sweep-1" in run_job(folder, "rank", "user=7", "run=runs/sweep/1")
    of_run = "run=runs/sweep/1"
    assert "as version small of model" in run_job(
        folder, "publish", of_run, "version=small", "serving.layout=compact", "serving.row_format=int8"
    )
    listed = run_job(folder, "publish", "action=list", of_run).splitlines()
    assert [line.split("  ")[:2] for line in listed] == [["small", "served"], ["sweep-1", "was served"]]
    assert "serving version sweep-1" in run_job(folder, "publish", "action=rollback", of_run)
    assert "removed version small" in run_job(folder, "publish", "action=remove", "version=small", of_run)


@pytest.mark.timeout(300)
def test_train_learns_an_online_runs_archive_again(online_run: Path, folder: Path) -> None:
    """In the order and the batches of that run: each prediction before learning is the one that it made."""
    archive = "source.folder=runs/online/archive"
    said = run_job(folder, "train", "source=archive", archive, "table=collisionless", "epochs=1", "hydra.run.dir=again")
    assert "epoch 1: AUC of its last half, predicted before learned, " in said
    again, online = (json.loads((run / "summary.json").read_text()) for run in (folder / "again", online_run))
    found = again["progressive"][0]["last_half"]
    assert (found["auc"], found["logloss"]) == (online["auc_last_half"], online["logloss_last_half"])
    assert again["examples"] == online["examples"] == 600


def test_serve_answers_over_http(online_run: Path, folder: Path) -> None:
    port = free_ports(1)[0]
    server = subprocess.Popen(
        [sys.executable, "-m", "jobs.serve", f"port={port}", "run=runs/online"], cwd=folder, env=environment()
    )
    try:
        ranking = post_when_ready(f"http://127.0.0.1:{port}/v1/rank", {"user": 7, "k": 2})
        assert len(ranking["items"]) == len(ranking["titles"]) == 2
        assert ranking["scores"] == sorted(ranking["scores"], reverse=True)
        looked = post_when_ready(f"http://127.0.0.1:{port}/v1/lookup", {"feature": "item", "ids": [1]})
        assert len(looked["embeddings"][0]) == 16
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stop", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL])
def test_no_process_outlives_a_stopped_job(stop: signal.Signals, folder: Path) -> None:
    """Ctrl-C finishes in order, with a summary; SIGKILL leaves no server, no Ray and no actor either."""
    run = folder / "runs" / f"stopped-{stop.name}"
    job = subprocess.Popen(
        [sys.executable, "-m", "jobs.online", "source=auto", "replay.events_per_second=100", f"hydra.run.dir={run}"],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    with job, job.stdout as said:
        for line in said:  # the first progress line: everything is up
            if "events/s" in line:
                break
        children = psutil.Process(job.pid).children(recursive=True)
        names = {process.pid: process.name() for process in children}
        assert len(children) > 5
        job.send_signal(stop)
        said.read()
    status = job.wait(120)
    if stop is signal.SIGINT:
        assert status == 0
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["finished"], summary["examples_lost"], summary["examples_duplicated"]) == (False, None, 0)
    # After a SIGKILL, Ray's two agents try for a minute to reach its control service, then end by themselves.
    agents = [process for process in children if "Agent" in names[process.pid]] if stop is signal.SIGKILL else []
    _, alive = psutil.wait_procs([process for process in children if process not in agents], timeout=90)
    assert [process.name() for process in alive] == []


def post_when_ready(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    for _ in attempts(60):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
    raise AssertionError(f"{url} did not answer")


def attempts(seconds: int) -> Iterator[int]:
    for attempt in range(2 * seconds):
        yield attempt
        time.sleep(0.5)
