"""Online learning and batch learning of the same stream: the archive gives the run again, and warm starts go on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import composed
from disturbed import assert_same_rows

from recsys.batches.examples import to_batch
from recsys.errors import ConfigError
from recsys.models.recommender import Recommender
from recsys.rows.local import LocalRows
from recsys.runtime.online import train_online
from recsys.runtime.settings import OnlineSettings, build_settings
from recsys.runtime.summary import summarize
from recsys.training.archive import read_archive
from recsys.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recsys.training.fit import learn_in_order, recorded_batches
from recsys.training.predictions import read_predictions
from recsys.training.slices import OF, write_seen
from recsys.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("ray_is_up")
_LIMIT = 600


@pytest.fixture(scope="module")
def settings(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OnlineSettings]:
    place = tmp_path_factory.mktemp("runs")

    def build(name: str, *overrides: str) -> OnlineSettings:
        config = composed("online", "source=parquet", "batch.max_examples=32", "serving.sync_seconds=0.5", *overrides)
        config["data"]["folder"] = str(films)
        return build_settings(config, place / name)

    return build


def learned(settings: OnlineSettings) -> dict[str, Any]:
    with train_online(settings, print, lambda progress: None) as trained:
        return summarize(trained)


@pytest.fixture(scope="module")
def online(settings: Callable[..., OnlineSettings], ray_is_up: None) -> OnlineSettings:
    """A finished run of one worker over two shards."""
    run = settings("online", f"replay.limit={_LIMIT}")
    learned(run)
    return run


@pytest.fixture(scope="module")
def batch(online: OnlineSettings, settings: Callable[..., OnlineSettings]) -> Path:
    """A run of batch training, in this process: one pass over that run's archive from the same start."""
    folder = online.folder.parent / "batch"
    examples = read_archive(online.folder / "archive", online.blueprint.features)
    recommender = Recommender(online.blueprint)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    learn_in_order(trainer, recorded_batches(examples, recommender.features), lambda step: None)
    rows = trainer.store.snapshot()
    about = {"data": "ml100k", "time_ms": 0}
    save_checkpoint(folder / "checkpoints", Checkpoint(blueprint=online.blueprint, joiners=[], about=about, rows=rows))
    write_seen(folder / "predictions", {of: examples.column(f"{of}_id").combine_chunks() for of in OF})
    return folder


def test_one_pass_over_the_archive_learns_the_online_runs_rows_to_the_bit(online: OnlineSettings, batch: Path) -> None:
    examples = read_archive(online.folder / "archive", online.blueprint.features)
    predictions = read_predictions(online.folder / "predictions")
    assert examples.num_rows == _LIMIT
    assert examples.column("request_id").to_pylist() == predictions.column("request_id").to_pylist()
    assert max(examples.column("step").to_pylist()) == -(-_LIMIT // 32)
    assert_same_rows(load_checkpoint(batch / "checkpoints").rows, load_checkpoint(online.checkpoints).rows)


@pytest.mark.parametrize("shards", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_warm_start_predicts_what_the_batch_trained_model_does(
    settings: Callable[..., OnlineSettings], batch: Path, shards: int
) -> None:
    run = settings(f"warm-{shards}", "replay.limit=100", f"store.shards={shards}", f"start_from={batch}")
    summary = learned(run)
    examples = read_archive(run.folder / "archive", run.blueprint.features)
    first = to_batch(examples.slice(0, 32), run.blueprint.features)
    checkpoint = load_checkpoint(batch / "checkpoints")
    recommender = Recommender(checkpoint.blueprint)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.store.restore(checkpoint.rows)
    predictions = read_predictions(run.folder / "predictions")
    np.testing.assert_array_equal(predictions.column("probability").to_numpy()[:32], trainer.predict(first))
    # it goes on as one that had never stopped: optimizer state and counters too
    learn_in_order(trainer, recorded_batches(examples, recommender.features), lambda step: None)
    assert_same_rows(trainer.store.snapshot(), load_checkpoint(run.checkpoints).rows)
    assert (summary["slices"]["new_user"]["num_examples"], summary["slices"]["new_item"]["num_examples"]) == (0, 0)
    assert summary["parity_max_abs_error"] <= 1e-5  # rows that only the batch run has learned are in Redis, too


def test_a_warm_start_with_another_model_is_said_at_once(settings: Callable[..., OnlineSettings], batch: Path) -> None:
    other = settings("other", f"start_from={batch}", "table.embedding_dim=8")
    says = r"start_from=.*/batch was trained with another table; start with the settings that it had"
    with pytest.raises(ConfigError, match=says), train_online(other, print, lambda progress: None):
        raise AssertionError("it has begun")
    assert not other.folder.exists()
    fewer = settings("fewer", f"start_from={batch}")
    blueprint = dataclasses.replace(fewer.blueprint, features=fewer.blueprint.features[:-1])
    fewer = dataclasses.replace(fewer, blueprint=blueprint)
    with pytest.raises(ConfigError, match="another features"), train_online(fewer, print, lambda progress: None):
        raise AssertionError("it has begun")
