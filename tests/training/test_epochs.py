"""Training in epochs: stopped, slowed down and clipped as torch would, and interrupted without a trace."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional

from recsys.batches.batch import LabelledBatch
from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.hashing import Floats
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import Adam
from recsys.rows.schedules import Cosine, MultiStep
from recsys.rows.store import RowGroup, Snapshot
from recsys.tabular.batches import ExampleFile
from recsys.training.epochs import Course, Fitting, fit
from recsys.training.fit import evaluate
from recsys.training.keeping import Keeper, open_resumed
from recsys.training.trainer import Trainer

USERS, ITEMS = 30, 20
FEATURES = (
    Feature(name="user", kind="id", source="column.user", num_embeddings=USERS),
    Feature(name="item", kind="id", source="column.item", num_embeddings=ITEMS),
    Feature(name="tags", kind="bag", source="column.tags", num_embeddings=10),
    Feature(name="odds", kind="number", source="column.odds"),
)
ADAM = {"kind": "adam", "learning_rate": 0.02}
ABOUT = {"data": "board", "seed": 0}


def blueprint_of(**fields: Any) -> Blueprint:
    described: dict[str, Any] = {
        "features": FEATURES,
        "table": {"kind": "full", "embedding_dim": 4},
        "model": {"kind": "deepfm", "hidden_sizes": [8], "dropout": 0.2},
        "optimizer": {**ADAM, "weight_decay": 0.01},
        "dense_optimizer": ADAM,
        "seed": 5,
    }
    return Blueprint(**{**described, **fields})


def trainer_of(blueprint: Blueprint | None = None, **fields: Any) -> Trainer:
    recommender = Recommender(blueprint or blueprint_of())
    trainer = Trainer(recommender, LocalRows(recommender.groups), **fields)
    trainer.start()
    return trainer


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 examples in row groups of 128: a user likes an item where both are even or both odd, but for some noise."""
    draw, num = np.random.default_rng(0), 1000
    user, item = draw.integers(USERS, size=num), draw.integers(ITEMS, size=num)
    label = ((user % 2 == item % 2) != (draw.random(num) < 0.4)).astype(np.float32)
    tags = [draw.integers(10, size=at % 3).tolist() for at in range(num)]
    odds = draw.standard_normal(num).astype(np.float32)
    path = tmp_path_factory.mktemp("board") / "train.parquet"
    columns = {"user": user, "item": item, "tags": pa.array(tags, pa.list_(pa.int64())), "odds": odds, "label": label}
    pq.write_table(pa.table(columns), path, row_group_size=128)
    return path


def file(path: Path, rows_in_memory: int = 300) -> ExampleFile:
    return ExampleFile(path, FEATURES, group="user", rows_in_memory=rows_in_memory)


class Quiet:
    """A Watcher that stops training after some steps, or never."""

    def __init__(self, stop_after: int | None = None) -> None:
        self._stop_after, self.num = stop_after, 0

    def stepped(self, course: Course, steps: int, loss: float) -> None:
        self.num = course.num_steps

    def validated(self, course: Course, is_best: bool) -> None: ...

    def checkpoint(self, course: Course) -> None: ...

    def stops(self) -> bool:
        return self._stop_after is not None and self.num >= self._stop_after


def same_rows(one: Snapshot, other: Snapshot) -> None:
    for name, group in one.groups.items():
        order, order_other = np.argsort(group.keys_U), np.argsort(other.groups[name].keys_U)
        np.testing.assert_array_equal(group.rows_UW[order], other.groups[name].rows_UW[order_other])
        for part, values in group.state.items():
            np.testing.assert_array_equal(values[order], other.groups[name].state[part][order_other])


# --- interrupted = uninterrupted


HOW = Fitting(
    validate_every_steps=11, patience=9, plateau_factor=0.5, clip_norm=0.1, checkpoint_every_steps=7, monitor="gauc"
)


def run_kept(folder: Path, board: Path, stop_after: int | None, resume: bool = False) -> tuple[Trainer, Course]:
    """Train with a Keeper that is asked to stop after some steps; the store and the process are as if new."""
    blueprint = blueprint_of()
    checkpoint, course = open_resumed(folder, blueprint, ABOUT) if resume else (None, Course())
    trainer = trainer_of(None if checkpoint is None else checkpoint.blueprint, clip_norm=HOW.clip_norm)
    if checkpoint is not None:
        trainer.store.restore(checkpoint.rows)
        trainer.num_steps, trainer.num_clipped = course.num_steps, course.num_clipped

    def stop(step: int, steps: int) -> None:
        if step == stop_after:
            keeper.stop()

    keeper = Keeper(folder, trainer, monitor="gauc", about=ABOUT, features={}, on_step=stop, say=lambda line: None)
    course = fit(
        trainer,
        file(board),
        file(board, 5000),
        epochs=5,
        batch_size=64,
        seed=1,
        how=HOW,
        watcher=keeper,
        course=course,
    )
    keeper.close()
    if course.finished:
        keeper.restore_best()
    return trainer, course


@pytest.fixture(scope="module")
def uninterrupted(board: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Course]:
    trainer, course = run_kept(tmp_path_factory.mktemp("whole"), board, None)
    assert course.finished and course.num_clipped > 0
    schedule = trainer.recommender.blueprint.dense_optimizer["schedule"]
    assert len(schedule["at"]) >= 2, "rates fell on the way"
    return trainer, course


@pytest.mark.parametrize("stops", [[1], [16], [5, 23, 40]])
def test_interrupted_is_uninterrupted_to_the_bit(
    stops: list[int], board: Path, uninterrupted: tuple[Trainer, Course], tmp_path: Path
) -> None:
    """Within an epoch and at its end, before and after rates fell, once and three times."""
    for at, stop_after in enumerate([*stops, None]):
        trainer, course = run_kept(tmp_path, board, stop_after, resume=at > 0)
        assert course.finished == (stop_after is None)
        if stop_after is not None:
            assert course.num_steps == stop_after
    assert course == uninterrupted[1]
    same_rows(trainer.store.snapshot(), uninterrupted[0].store.snapshot())
    assert trainer.recommender.blueprint == uninterrupted[0].recommender.blueprint


def test_what_a_run_leaves(board: Path, tmp_path: Path) -> None:
    """The best weights among it, which are put back whatever came after them."""
    trainer, course = run_kept(tmp_path, board, None)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"best", "checkpoints", "tensorboard", "metrics.json", "curve.png"}
    assert json.loads((tmp_path / "metrics.json").read_text()) == course.history
    assert (tmp_path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    monitored = [found["gauc"] for found in course.history]
    assert course.best_at is not None
    assert course.best == max(monitored) == monitored[course.best_at]
    list(trainer.steps(file(board).batches(64)))
    assert evaluate(trainer, file(board))["gauc"] != course.best
    keeper = Keeper(
        tmp_path, trainer, monitor="gauc", about=ABOUT, features={}, on_step=lambda step, steps: None, say=print
    )
    keeper.restore_best()
    keeper.close()
    found = evaluate(trainer, file(board))
    assert {name: course.history[course.best_at][name] for name in found} == found


def test_resuming_needs_a_run_that_was_told_the_same(board: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint in"):
        open_resumed(tmp_path, blueprint_of(), ABOUT)
    run_kept(tmp_path, board, 3)
    with pytest.raises(ConfigError, match=r"dense_optimizer.learning_rate was 0\.02, and is 0\.5 now"):
        open_resumed(tmp_path, blueprint_of(dense_optimizer={**ADAM, "learning_rate": 0.5}), ABOUT)
    with pytest.raises(ConfigError, match="seed was 0, and is 1 now; give the options that it had"):
        open_resumed(tmp_path, blueprint_of(), {**ABOUT, "seed": 1})
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(DataError, match="that run has ended"):
        open_resumed(tmp_path, blueprint_of(), ABOUT)


# --- stopping and slowing down


class Scripted(Trainer):
    """Predicts such that each validation finds the AUC that is next."""

    aucs: Sequence[float] = ()

    def predict(self, batch: LabelledBatch) -> Floats:
        auc, *self.aucs = self.aucs
        won = round(4 * auc)  # of the pairs of two positives, at 0.4 and 0.6, with two negatives
        negatives = {0: (0.7, 0.7), 1: (0.5, 0.7), 2: (0.5, 0.5), 3: (0.3, 0.5), 4: (0.3, 0.3)}[won]
        return np.array([0.4, 0.6, *negatives], np.float32)


class FourExamples:
    """Two positives, two negatives."""

    num_examples = 4

    def __init__(self, board: Path, labels: Sequence[float] = (1, 1, 0, 0)) -> None:
        self._batch = next(iter(file(board).batches(4)))
        self._labels = np.array(labels, np.float32)

    def batches(self, size: int, **_: Any) -> Any:
        yield replace(self._batch, labels_B=self._labels, user_ids=[])


@pytest.mark.parametrize(
    ("aucs", "how", "slowed_after", "best_at"),
    [
        ([0.5, 0.75, 1.0, 0.5], Fitting(), [], 2),
        ([0.5, 0.5, 0.75, 0.5, 0.75], Fitting(patience=2, plateau_factor=0.1), [2, 4], 2),
        ([0.75, 0.5, 0.5, 1.0], Fitting(patience=2), [], 0),  # stopped before it got better
        ([0.75, 0.5, 0.5, 1.0], Fitting(patience=3, plateau_factor=0.1), [2, 3], 3),
        ([0.75, 0.5, 1.0, 1.0], Fitting(plateau_factor=0.1), [2], 2),  # not after the last
    ],
)
def test_patience_and_plateau(
    aucs: list[float], how: Fitting, slowed_after: list[int], best_at: int, board: Path
) -> None:
    blueprint = blueprint_of()
    recommender = Recommender(blueprint)
    trainer = Scripted(recommender, LocalRows(recommender.groups))
    trainer.start()
    trainer.aucs = aucs
    train = file(board)
    course = fit(
        trainer, train, FourExamples(board), epochs=len(aucs), batch_size=1000, seed=0, how=how, watcher=Quiet()
    )
    assert (course.best, course.best_at) == (aucs[best_at], best_at)
    assert [found["auc"] for found in course.history] == aucs[: len(course.history)]
    assert len(course.history) == (len(aucs) if how.patience != 2 else 3 + 2 * (best_at == 2))
    schedule = {"kind": "multi_step", "at": slowed_after, "gamma": 0.1}
    # the same as if when rates fall had been known before
    foreseen = {
        "optimizer": {**ADAM, "weight_decay": 0.01, "schedule": schedule},
        "dense_optimizer": {**ADAM, "schedule": schedule},
    }
    other = trainer_of(blueprint_of(**foreseen) if slowed_after else blueprint)
    for epoch in range(len(course.history)):
        list(other.steps(train.batches(1000, seed=[0, epoch])))
    same_rows(trainer.store.snapshot(), other.store.snapshot())


def test_what_can_not_be_monitored_or_slowed_down(board: Path) -> None:
    def run(valid: Any, how: Fitting, **fields: Any) -> Course:
        trainer = trainer_of(blueprint_of(**fields))
        return fit(trainer, file(board), valid, epochs=2, batch_size=500, seed=0, how=how, watcher=Quiet())

    one_class = FourExamples(board, labels=(1, 1, 1, 1))
    with pytest.raises(DataError, match=r"the 4 examples of the valid part are of one class \(mean label 1\)"):
        run(one_class, Fitting())
    assert run(one_class, Fitting(monitor="logloss")).finished
    with pytest.raises(ConfigError, match=r"the examples have no groups; set data\.examples\.group"):
        run(FourExamples(board), Fitting(monitor="gauc"))
    trainer = trainer_of(blueprint_of(optimizer={**ADAM, "schedule": {"kind": "cosine", "steps": 9}}))
    with pytest.raises(ConfigError, match=r"optimizer\.rows\.schedule is cosine, and fit\.plateau_factor=0\.1"):
        trainer.slow_down(0.1)
    with pytest.raises(ConfigError, match=r"optimizer\.rows: ftrl has no schedule"):
        trainer_of(blueprint_of(optimizer={"kind": "ftrl", "learning_rate": 0.1})).slow_down(0.1)


def test_retuning_keeps_rows_and_state() -> None:
    keys, ones = np.arange(3), np.ones((3, 2), np.float32)
    group = RowGroup(name="t", width=2, optimizer=Adam(learning_rate=0.1, weight_decay=0.01), seed=1)
    store = LocalRows([group])
    for _ in range(4):
        store.push({"t": (keys, ones)}, 0)
    before = store.pull({"t": keys})["t"]
    slower = replace(group, optimizer=replace(group.optimizer, schedule=MultiStep(at=(4,), gamma=0.5)))  # type: ignore[type-var]
    store.retune([slower])
    np.testing.assert_array_equal(store.pull({"t": keys})["t"], before)
    foreseen = LocalRows([slower])
    for _ in range(4):
        foreseen.push({"t": (keys, ones)}, 0)
    for each in (store, foreseen):
        each.push({"t": (keys[:1], ones[:1])}, 0)
    np.testing.assert_array_equal(store.pull({"t": keys})["t"], foreseen.pull({"t": keys})["t"])
    for wrong in (replace(group, width=3), replace(group, optimizer=Adam(learning_rate=0.1))):
        with pytest.raises(ConfigError, match="can not go on with what"):
            store.retune([wrong])


def test_a_restored_row_catches_up_by_rates_of_steps_that_this_store_never_made() -> None:
    """More than a thousand steps in, before any push."""
    keys, ones = np.arange(4), np.ones((4, 2), np.float32)
    optimizer = Adam(learning_rate=0.01, weight_decay=0.01, schedule=Cosine(steps=5000), replay_steps=5000)
    group = RowGroup(name="t", width=2, optimizer=optimizer, seed=1)
    store, other = LocalRows([group]), LocalRows([group])
    store.push({"t": (keys, ones)}, 0)
    for _ in range(2500):
        store.push({"t": (keys[:1], ones[:1])}, 0)
    other.restore(store.snapshot())
    np.testing.assert_array_equal(other.pull({"t": keys})["t"], store.pull({"t": keys})["t"])


# --- torch's dense run


def dense_run(
    blueprint: Blueprint, batches: list[LabelledBatch], decay: float, clip_norm: float
) -> tuple[dict[str, Floats], int]:
    """BARS's loop, as FuxiCTR writes it: whole tables as parameters, λ/2‖E‖² of all of them in the loss, one Adam.

    The tables at the end, and how often the norm (that of the L2 term included) was clipped.
    """
    recommender = Recommender(blueprint)
    tables = {
        name: torch.nn.Parameter(
            torch.from_numpy(group.initial.rows(np.arange(group.num_rows), group.width, group.seed))
        )
        for name, group in recommender.embeddings.groups.items()
    }
    network = recommender.model
    parameters = [*tables.values(), *network.parameters()]
    optimizer, clipped = torch.optim.Adam(parameters, lr=0.02), 0
    names = [feature.name for feature in FEATURES if feature.kind != "number"]
    for batch in batches:
        ids = [torch.from_numpy(batch.bags[name].ids_N) for name in names]
        offsets = [torch.from_numpy(batch.bags[name].offsets[:-1]) for name in names]

        def pooled(of: str, ids: Any = ids, offsets: Any = offsets) -> list[torch.Tensor]:
            return [
                functional.embedding_bag(i, tables[name + of], o, mode="mean")
                for name, i, o in zip(names, ids, offsets, strict=True)
            ]

        logits = network(
            torch.stack(pooled(""), 1), torch.cat(pooled(".first_order"), 1), torch.from_numpy(batch.numbers_BM)
        )
        loss = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.labels_B))
        loss = loss + decay / 2 * sum(table.square().sum() for table in tables.values())
        optimizer.zero_grad()
        loss.backward()
        clipped += bool(torch.nn.utils.clip_grad_norm_(parameters, clip_norm) > clip_norm)
        optimizer.step()
    return {name: table.detach().numpy() for name, table in tables.items()}, clipped


def test_lazy_l2_is_barss_dense_one_while_nothing_is_clipped(board: Path) -> None:
    blueprint = blueprint_of(optimizer={**ADAM, "weight_decay": 0.05}, model={"kind": "deepfm", "hidden_sizes": [8]})
    train = file(board, 5000)
    batches = [batch for epoch in range(6) for batch in train.batches(32, seed=[0, epoch])][:100]
    tables, clipped = dense_run(blueprint, batches, decay=0.05, clip_norm=10)
    trainer = trainer_of(blueprint, clip_norm=10)
    list(trainer.steps(batches))
    assert (clipped, trainer.num_clipped) == (0, 0)
    for name, expected in tables.items():
        found = trainer.store.pull({name: np.arange(len(expected))})[name]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


def test_clipping_is_torchs(board: Path) -> None:
    """Without decay the norm is that of the same gradients: every step is clipped, and ends where torch ends."""
    sgd = {"kind": "sgd", "learning_rate": 0.5}
    blueprint = blueprint_of(optimizer=sgd, dense_optimizer=sgd, model={"kind": "deepfm", "hidden_sizes": [8]})
    batch = next(iter(file(board).batches(64)))
    free, clipped = trainer_of(blueprint), trainer_of(blueprint, clip_norm=0.05)
    for trainer in (free, clipped):
        trainer.step(batch)
    all_keys = {name: np.arange(group.num_rows) for name, group in free.store.groups.items()}
    before = trainer_of(blueprint).store.pull(all_keys)
    steps = {name: rows - before[name] for name, rows in free.store.pull(all_keys).items()}
    norm = math.sqrt(sum(float(np.square(step).sum()) for step in steps.values())) / 0.5
    assert norm > 0.05
    for name, rows in clipped.store.pull(all_keys).items():
        np.testing.assert_allclose(rows - before[name], steps[name] * (0.05 / norm), rtol=1e-3, atol=1e-7)
    assert (free.num_clipped, clipped.num_clipped) == (0, 1)
