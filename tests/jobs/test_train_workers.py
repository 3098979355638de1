"""jobs.train with several workers on a parameter server learns what one process does."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_train_examples import DATA, TRAIN, said, started

from recsys.training.checkpoint import load_checkpoint


@pytest.mark.timeout(300)
@pytest.mark.long
def test_two_workers_learn_what_one_process_does(tmp_path: Path) -> None:
    """A batch of an odd size is shared out unevenly, and the last of an epoch is smaller."""
    options = [*TRAIN, "optimizer=adagrad", "batch.max_examples=333"]
    said(started(tmp_path, "prepare", *DATA))
    said(started(tmp_path, "train", *options, "hydra.run.dir=runs/one"))
    said(started(tmp_path, "train", *options, "store=ray", "workers=2", "hydra.run.dir=runs/two"))
    one, two = (json.loads((tmp_path / "runs" / name / "summary.json").read_text()) for name in ("one", "two"))
    assert (one["steps"], one["rows"]) == (two["steps"], two["rows"])
    for found, expected in zip([two["test"], *two["valid"]], [one["test"], *one["valid"]], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    rows, others = (load_checkpoint(tmp_path / "runs" / name / "checkpoints").rows.groups for name in ("one", "two"))
    assert rows.keys() == others.keys()
    for name, group in rows.items():
        order, other = np.argsort(group.keys_U), np.argsort(others[name].keys_U)
        np.testing.assert_array_equal(group.keys_U[order], others[name].keys_U[other])
        np.testing.assert_allclose(group.rows_UW[order], others[name].rows_UW[other], atol=1e-5)


def test_workers_need_a_parameter_server(tmp_path: Path) -> None:
    output = said(started(tmp_path, "train", *TRAIN, "workers=2"), status=2)
    assert "workers=2 share batches out over the parameter server" in output
