"""Batch training: joined from recorded events, split by time, reproducible to the bit, judged as scikit-learn does."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from recsys.batches.examples import Example, example_schema, to_rows
from recsys.batches.join import ActionKind, JoinConfig
from recsys.errors import ConfigError, DataError
from recsys.events import ACTIONS, END, FACTS, IMPRESSIONS, Action, Impression
from recsys.features.declarations import Feature
from recsys.features.packing import pack
from recsys.fields import build
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.streams.memory import Item, MemorySource
from recsys.streams.partitioner import partition_of
from recsys.streams.source import Partition
from recsys.training.epochs import Course, Fitting, fit
from recsys.training.fit import JoinedExamples, Splits, batches_of, evaluate, join_recorded
from recsys.training.trainer import Trainer

NUM_USERS = NUM_ITEMS = 10
FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=NUM_USERS),
    Feature(name="item", kind="id", source="item.id", num_embeddings=NUM_ITEMS),
    Feature(name="liked", kind="bag", source="user.likes", table="item", num_embeddings=NUM_ITEMS),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
)
JOIN = JoinConfig(actions={"like": ActionKind(window_seconds=10.0)})


def trainer_of(**fields: Any) -> Trainer:
    described: dict[str, Any] = {
        "features": FEATURES,
        "table": {"kind": "full", "embedding_dim": 8},
        "model": {"kind": "deepfm", "hidden_sizes": [16]},
        "optimizer": {"kind": "adagrad", "learning_rate": 0.2},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.02},
        "seed": 3,
    }
    recommender = Recommender(Blueprint(**{**described, **fields}))
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    return trainer


def board(num: int, seed: int = 0, noise: float = 0.1) -> pa.Table:
    """A user likes an item where both are even or both are odd, but for some noise."""
    draw = np.random.default_rng(seed)
    examples = []
    for number in range(num):
        user, item = int(draw.integers(NUM_USERS)), int(draw.integers(NUM_ITEMS))
        like = (user % 2 == item % 2) != (draw.random() < noise)
        values = pack([[user], [item], [], 0.0])
        examples.append(Example(f"r{number:06}", user, item, number, number, float(like), values))
    return pa.Table.from_batches([to_rows(examples, example_schema(FEATURES), 0).rows])


class Told:
    """A Watcher that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.epochs: list[tuple[int, float, bool]] = []

    def stepped(self, course: Course, steps: int, loss: float) -> None:
        self.steps.append((course.num_steps, steps))

    def validated(self, course: Course, is_best: bool) -> None:
        self.epochs.append((course.epoch, course.history[-1]["auc"], is_best))

    def checkpoint(self, course: Course) -> None:
        pass

    def stops(self) -> bool:
        return False


def joined(table: pa.Table) -> JoinedExamples:
    return JoinedExamples(table, FEATURES)


def run(trainer: Trainer, examples: pa.Table, *, epochs: int = 4, seed: int = 0) -> list[dict[str, float]]:
    train, valid, _ = Splits().cut(examples)
    return fit(
        trainer,
        joined(train),
        joined(valid),
        epochs=epochs,
        batch_size=64,
        seed=seed,
        how=Fitting(),
        watcher=Told(),
    ).history


# --- fit


def test_the_same_seed_gives_the_same_metrics_to_the_bit() -> None:
    examples = board(1000)
    first, second = (run(trainer_of(), examples) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert json.dumps(run(trainer_of(), examples, seed=1)) != json.dumps(first)  # another order
    assert json.dumps(run(trainer_of(seed=4), examples)) != json.dumps(first)  # other initial weights


def test_a_planted_pattern_is_learned() -> None:
    examples = board(3000)
    trainer = trainer_of()
    before = evaluate(trainer, joined(examples))
    assert 0.3 < before["auc"] < 0.7
    history = run(trainer, examples)
    assert history[-1]["auc"] > 0.85  # of 0.9 that the noise allows
    assert history[-1]["logloss"] < before["logloss"]
    assert abs(history[-1]["calibration"] - 1) < 0.15
    unseen = evaluate(trainer, joined(Splits().cut(examples)[2]))
    assert unseen["auc"] > 0.8


def test_the_watcher_counts_steps_and_epochs() -> None:
    train, valid, _ = Splits().cut(board(500))  # 400: 7 batches of 64, the last one smaller
    told = Told()
    course = fit(
        trainer_of(), joined(train), joined(valid), epochs=3, batch_size=64, seed=0, how=Fitting(), watcher=told
    )
    assert told.steps == [(step, 21) for step in range(1, 22)]
    aucs = [found["auc"] for found in course.history]
    best = [auc > max([0.0, *aucs[:at]]) for at, auc in enumerate(aucs)]
    assert told.epochs == [(at + 1, auc, best[at]) for at, auc in enumerate(aucs)] and len(aucs) == 3
    assert (course.best, course.best_at, course.finished) == (max(aucs), aucs.index(max(aucs)), True)


def test_every_example_once_an_epoch_in_another_order_each() -> None:
    examples = board(130)
    straight = list(batches_of(examples, FEATURES, 50))
    assert [batch.num_examples for batch in straight] == [50, 50, 30]
    ids = [request for batch in straight for request in batch.request_ids]
    assert ids == examples.column("request_id").to_pylist()
    orders = []
    for epoch in range(2):
        order = np.random.default_rng([0, epoch])
        shuffled = [request for batch in batches_of(examples, FEATURES, 50, order) for request in batch.request_ids]
        assert sorted(shuffled) == ids
        orders.append(shuffled)
    assert orders[0] != orders[1] != ids


# --- evaluate


def test_metrics_are_scikit_learns() -> None:
    trainer, examples = trainer_of(), board(700, noise=0.3)
    run(trainer, examples)
    (batch,) = batches_of(examples, FEATURES, 1000)
    labels_N, probabilities_N = batch.labels_B, trainer.predict(batch).astype(np.float64)
    for batch_size in (64, 4096):
        found = evaluate(trainer, joined(examples), batch_size)
        assert found["num_examples"] == 700
        assert found["label_mean"] == pytest.approx(labels_N.mean())
        assert found["auc"] == pytest.approx(roc_auc_score(labels_N, probabilities_N), abs=1e-6)
        assert found["logloss"] == pytest.approx(log_loss(labels_N, probabilities_N), abs=1e-6)
        assert found["calibration"] == pytest.approx(probabilities_N.mean() / labels_N.mean(), abs=1e-6)
        mean = labels_N.mean()
        base = -(mean * math.log(mean) + (1 - mean) * math.log(1 - mean))
        assert found["normalized_entropy"] == pytest.approx(log_loss(labels_N, probabilities_N) / base, abs=1e-6)


def test_evaluating_learns_nothing() -> None:
    trainer, examples = trainer_of(), board(200)
    run(trainer, examples, epochs=1)
    before = trainer.store.snapshot()
    first = evaluate(trainer, joined(examples))
    assert evaluate(trainer, joined(examples)) == first
    after = trainer.store.snapshot()
    assert after.cursor == before.cursor
    for name, group in before.groups.items():
        np.testing.assert_array_equal(after.groups[name].rows_UW, group.rows_UW)


def test_evaluating_is_without_dropout_and_training_with_it() -> None:
    """As it is served; and training goes on as before."""
    trainer, examples = trainer_of(model={"kind": "deepfm", "hidden_sizes": [16], "dropout": 0.5}), board(300)
    torch.manual_seed(0)
    run(trainer, examples, epochs=1)
    assert len({evaluate(trainer, joined(examples))["logloss"] for _ in range(5)}) == 1
    assert trainer.recommender.training


# --- splits


def test_splits_are_cut_by_time() -> None:
    examples = board(100)
    parts = Splits(valid=0.2, test=0.1).cut(examples)
    assert [part.num_rows for part in parts] == [70, 20, 10]
    ids = [request for part in parts for request in part.column("request_id").to_pylist()]
    assert ids == examples.column("request_id").to_pylist()


@pytest.mark.parametrize("num", [3, 10, 17, 1000])
def test_default_splits(num: int) -> None:
    if num < 10:
        with pytest.raises(DataError, match=f"{num} examples are too few to split into train, valid and test"):
            Splits().cut(board(num))
    else:
        parts = [part.num_rows for part in Splits().cut(board(num))]
        assert sum(parts) == num and min(parts) >= 1
        np.testing.assert_allclose(parts, [0.8 * num, 0.1 * num, 0.1 * num], atol=1)


@pytest.mark.parametrize(
    ("valid", "test"), [(0, 0.1), (0.1, 0), (0.5, 0.5), (0.9, 0.2), (-0.1, 0.1), (math.nan, 0.1), (1, 0.1)]
)
def test_impossible_splits(valid: float, test: float) -> None:
    with pytest.raises(ConfigError) as raised:
        build(Splits, {"valid": valid, "test": test}, "split")
    assert str(raised.value).startswith(("split.valid=", "split.test=", f"split: valid={valid} and test={test} leave"))


# --- join


def recorded(events: Sequence[Any], partitions: int) -> MemorySource:
    lists: dict[Partition, list[Item]] = {
        Partition(topic, index): [] for topic in (IMPRESSIONS, ACTIONS, FACTS) for index in range(partitions)
    }
    for event in events:
        topic = ACTIONS if isinstance(event, Action) else IMPRESSIONS
        index = 0 if isinstance(event, bytes) else partition_of(getattr(event, "user_id", 0), partitions)
        lists[Partition(topic, index)].append(event)
    for items in lists.values():
        items.append(END)
    return MemorySource(lists)


def films_events() -> list[Any]:
    events: list[Any] = []
    for number in range(40):
        user, time_ms = number % 4, 1000 * number
        events.append(Impression(f"r{number:02}", user, number % 7, time_ms))
        if number % 3 == 0:
            events.append(Action(f"r{number:02}", user, "like", time_ms + 500))
    return events


@pytest.mark.parametrize("partitions", [1, 3])
def test_recorded_events_become_examples_in_order_of_emission(tmp_path: Path, partitions: int) -> None:
    joined = join_recorded(recorded(films_events(), partitions), partitions, JOIN, FEATURES, tmp_path)
    examples = joined.examples.to_pydict()
    assert sorted(examples["request_id"]) == [f"r{number:02}" for number in range(40)]
    by_id = dict(zip(examples["request_id"], examples["label"], strict=True))
    assert [number for number in range(40) if by_id[f"r{number:02}"]] == list(range(0, 40, 3))
    order = list(zip(examples["emitted_ms"], examples["request_id"], strict=True))
    assert order == sorted(order)
    assert joined.time_ms == 39_500
    assert joined.features.history(0).num_impressions == 10
    assert joined.features.history(0).liked() == [36 % 7, 24 % 7, 12 % 7, 0]


def test_the_number_of_partitions_changes_no_example(tmp_path: Path) -> None:
    one, three = (
        join_recorded(recorded(films_events(), n), n, JOIN, FEATURES, tmp_path).examples.drop_columns(["read_at_ms"])
        for n in (1, 3)
    )
    by_id = [("request_id", "ascending")]
    left, right = (table.drop_columns(["emitted_ms"]).sort_by(by_id) for table in (one, three))
    assert left.equals(right)


def test_what_can_not_be_read_is_on_disk_when_the_join_is_done(tmp_path: Path) -> None:
    events = [*films_events(), b"not JSON", b'{"request_id":"x"}']
    joined = join_recorded(recorded(events, 1), 1, JOIN, FEATURES, tmp_path / "aside")
    assert joined.examples.num_rows == 40
    lines = (tmp_path / "aside" / "dead_letters.jsonl").read_text().splitlines()
    assert [json.loads(line)["payload"] for line in lines] == ["not JSON", '{"request_id":"x"}']


def test_no_impressions_are_no_examples(tmp_path: Path) -> None:
    joined = join_recorded(recorded([], 2), 2, JOIN, FEATURES, tmp_path)
    assert joined.examples.num_rows == 0
    with pytest.raises(DataError, match="0 examples are too few to split"):
        Splits().cut(joined.examples)


def test_joined_examples_train(tmp_path: Path) -> None:
    joined = join_recorded(recorded(films_events(), 2), 2, JOIN, FEATURES, tmp_path)
    history = run(trainer_of(), joined.examples, epochs=1)
    assert len(history) == 1 and history[0]["num_examples"] == 4
