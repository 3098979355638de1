"""jobs.prepare and jobs.train on plain examples, as pasted: from a CSV to a run's folder, stopped and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recsys.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
DATA = ["data=synthetic", "data.examples.synthetic.num_examples=4000", "data.examples.synthetic.num_ids=50"]
TRAIN = [*DATA, "optimizer=adam", "model.hidden_sizes=[8]", "table.embedding_dim=4", "epochs=2"]


def started(folder: Path, job: str, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{job}", *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(job: subprocess.Popen[str], status: int = 0) -> str:
    output, _ = job.communicate(timeout=250)
    assert job.returncode == status, output[-3000:]
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user works, with data/synthetic prepared."""
    place = tmp_path_factory.mktemp("user")
    output = said(started(place, "prepare", *DATA))
    assert "synthetic: examples 4,000 to train, 400 to valid, 400 to test" in output and "best AUC 0.7" in output
    return place


@pytest.mark.timeout(300)
def test_a_run_on_plain_examples(folder: Path) -> None:
    output = said(started(folder, "train", *TRAIN, "hydra.run.dir=runs/one"))
    assert "epoch 2: valid AUC" in output and "test AUC" in output
    run = folder / "runs" / "one"
    left = {path.name for path in run.iterdir()}
    assert left >= {"config.yaml", "summary.json", "metrics.json", "curve.png", "tensorboard", "checkpoints", "best"}
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["examples"], summary["steps"], len(summary["valid"])) == (4800, 32, 2)
    assert summary["test"]["auc"] > 0.55 and summary["best_auc"] > 0.75


def test_what_is_not_prepared_is_one_line(tmp_path: Path) -> None:
    output = said(started(tmp_path, "train", *TRAIN), status=2)
    assert "run: python -m jobs.prepare data=synthetic" in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed(how: signal.Signals, folder: Path) -> None:
    """The figures and weights of a run that was not: from the step it was in, after a SIGKILL from a checkpoint."""
    options = [*TRAIN, "epochs=12", "batch.max_examples=64", "fit.checkpoint_every_steps=40", "fit.clip_norm=0.05"]
    options += ["+model.dropout=0.1", "+model.batch_norm=true", "+optimizer.rows.weight_decay=0.01"]
    whole = folder / "runs" / "whole"
    if not whole.exists():
        said(started(folder, "train", *options, f"hydra.run.dir={whole}"))
    run = folder / "runs" / f"stopped-{how.name}"
    job = started(folder, "train", *options, f"hydra.run.dir={run}")
    while not list(run.glob("checkpoints/checkpoint-*/manifest.json")):
        time.sleep(0.05)
    time.sleep(float(np.random.default_rng().uniform(0, 0.4)))
    job.send_signal(how)
    output = said(job, status=-9 if how is signal.SIGKILL else 143)
    assert how is signal.SIGKILL or "train: interrupted" in output
    assert not (run / "summary.json").exists()
    said(started(folder, "train", *options, f"resume={run}"))
    found, expected = (json.loads((place / "summary.json").read_text()) for place in (run, whole))
    assert found == expected and found["steps_clipped"] > 0
    rows, others = (load_checkpoint(place / "checkpoints").rows.groups for place in (run, whole))
    for name, group in rows.items():
        np.testing.assert_array_equal(group.keys_U, others[name].keys_U)
        np.testing.assert_array_equal(group.rows_UW, others[name].rows_UW)
        for part, values in group.state.items():
            np.testing.assert_array_equal(values, others[name].state[part])
