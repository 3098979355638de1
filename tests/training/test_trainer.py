"""The training loop on a planted checkerboard: a user likes an item where both are even or both are odd."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from recsys.batches.batch import Bag, LabelledBatch
from recsys.features.declarations import Feature
from recsys.hashing import Floats
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.tables import TABLES
from recsys.training.trainer import Trainer

NUM_USERS = NUM_ITEMS = 12
NUM_STEPS = 60
FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=NUM_USERS),
    Feature(name="item", kind="id", source="item.id", num_embeddings=NUM_ITEMS),
    Feature(name="liked", kind="bag", source="user.likes", table="item", num_embeddings=NUM_ITEMS),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
)
# The board can not be learned where an even and an odd id collide: the compressed kinds get room enough.
TABLE_FIELDS: dict[str, dict[str, Any]] = {
    "full": {},
    "hash": {"num_buckets": 256},
    "unified": {"num_rows": 512},
    "collisionless": {},
}
MODEL_FIELDS: dict[str, dict[str, Any]] = {"deepfm": {}, "dcnv2": {"num_cross_layers": 2}}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches are tiny: threads would only wait for one another."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def blueprint(table: str = "full", model: str = "deepfm", **fields: Any) -> Blueprint:
    changed = {
        "features": FEATURES,
        "table": {"kind": table, "embedding_dim": 8, **TABLE_FIELDS.get(table, {})},
        "model": {"kind": model, "hidden_sizes": [16], **MODEL_FIELDS.get(model, {})},
        "optimizer": {"kind": "adagrad", "learning_rate": 0.2},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.02},
        "seed": 3,
    }
    return Blueprint(**{**changed, **fields})


def trainer_of(plan: Blueprint) -> Trainer:
    recommender = Recommender(plan)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    return trainer


def batch_of(
    users: Sequence[int],
    items: Sequence[int],
    *,
    labels: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    liked: Sequence[Sequence[int]] | None = None,
    empty: bool = False,
    time_ms: int = 0,
) -> LabelledBatch:
    size = len(users)
    board = [float(user % 2 == item % 2) for user, item in zip(users, items, strict=True)]
    return LabelledBatch(
        bags={
            "user": Bag.of_lists([[] if empty else [user] for user in users]),
            "item": Bag.of_lists([[] if empty else [item] for item in items]),
            "liked": Bag.of_lists([[]] * size if liked is None else liked),
        },
        numbers_BM=np.zeros((size, 1), np.float32),
        labels_B=np.array(board if labels is None else labels, np.float32),
        weights_B=np.ones(size, np.float32) if weights is None else np.array(weights, np.float32),
        request_ids=[f"r{place}" for place in range(size)],
        user_ids=list(users),
        item_ids=list(items),
        times_ms_B=np.arange(time_ms, time_ms + size, dtype=np.int64),
        read_at_ms_B=np.zeros(size, np.int64),
    )


def stream(num_batches: int, size: int = 48, seed: int = 0) -> list[LabelledBatch]:
    draw = np.random.default_rng(seed)
    batches = []
    for number in range(num_batches):
        users, items = draw.integers(NUM_USERS, size=size), draw.integers(NUM_ITEMS, size=size)
        # what a user liked before says nothing that the user's id does not
        liked = [[int(item) for item in draw.integers(NUM_ITEMS, size=draw.integers(3))] for _ in range(size)]
        batches.append(batch_of(users.tolist(), items.tolist(), liked=liked, time_ms=number * size))
    return batches


def whole_board() -> LabelledBatch:
    users, items = np.divmod(np.arange(NUM_USERS * NUM_ITEMS), NUM_ITEMS)
    return batch_of(users.tolist(), items.tolist())


def auc(labels_B: Floats, scores_B: Floats) -> float:
    """How often a like is scored above another, by comparing all pairs."""
    likes, others = scores_B[labels_B == 1], scores_B[labels_B == 0]
    above = (likes[:, None] > others[None, :]).mean() + 0.5 * (likes[:, None] == others[None, :]).mean()
    return float(above)


def cross_entropy(labels_B: Floats, probabilities_B: Floats, weights_B: Floats) -> float:
    p, y = probabilities_B.astype(np.float64), labels_B.astype(np.float64)
    losses_B = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    return float((losses_B * weights_B).sum() / weights_B.sum())


def test_every_kind_is_tried() -> None:
    assert TABLE_FIELDS.keys() <= TABLES.keys()  # models: tests/models


@pytest.mark.parametrize("model", MODEL_FIELDS)
@pytest.mark.parametrize("table", TABLE_FIELDS)
def test_the_checkerboard_is_learned(table: str, model: str) -> None:
    trainer, board = trainer_of(blueprint(table, model)), whole_board()
    untrained = auc(board.labels_B, trainer.predict(board))
    losses = [trainer.step(batch).loss for batch in stream(NUM_STEPS, size=96)]
    assert untrained < 0.7 and abs(losses[0] - np.log(2)) < 0.1
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert auc(board.labels_B, trainer.predict(board)) > 0.95
    assert trainer.num_steps == NUM_STEPS


@pytest.mark.parametrize("model", MODEL_FIELDS)
@pytest.mark.parametrize("table", TABLE_FIELDS)
def test_a_step_returns_the_predictions_of_before_it_learned(table: str, model: str) -> None:
    trainer = trainer_of(blueprint(table, model))
    for batch in stream(4):
        before = trainer.predict(batch)
        result = trainer.step(batch)
        np.testing.assert_array_equal(result.probabilities_B, before, strict=True)
        assert result.probabilities_B.dtype == np.float32 and result.probabilities_B.shape == (48,)
        assert result.loss == pytest.approx(cross_entropy(batch.labels_B, before, batch.weights_B), rel=1e-4)
        assert not np.array_equal(trainer.predict(batch), before)  # it did learn


def test_predicting_changes_nothing() -> None:
    trainer, board = trainer_of(blueprint("collisionless")), whole_board()
    for batch in stream(3):
        trainer.step(batch)
    rows, first = trainer.store.num_rows(), trainer.predict(board)
    np.testing.assert_array_equal(trainer.predict(board), first, strict=True)
    assert trainer.store.num_rows() == rows


def everything(trainer: Trainer) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    snapshot = trainer.store.snapshot()
    parts = {}
    for name, group in snapshot.groups.items():
        order = np.argsort(group.keys_U, kind="stable")
        parts[name] = (group.keys_U[order], group.rows_UW[order])
    return parts


@pytest.mark.parametrize("model", MODEL_FIELDS)
@pytest.mark.parametrize("table", TABLE_FIELDS)
def test_the_same_seed_gives_the_same_numbers_to_the_bit(table: str, model: str) -> None:
    first, second = trainer_of(blueprint(table, model)), trainer_of(blueprint(table, model))
    torch.manual_seed(99)  # the global generator has no part in it
    for batch in stream(5):
        results = [first.step(batch), second.step(batch)]
        assert results[0].loss == results[1].loss
        np.testing.assert_array_equal(results[0].probabilities_B, results[1].probabilities_B, strict=True)
    of_first, of_second = everything(first), everything(second)
    assert of_first.keys() == of_second.keys()
    for name, (keys_U, rows_UW) in of_first.items():
        np.testing.assert_array_equal(keys_U, of_second[name][0], strict=True)
        np.testing.assert_array_equal(rows_UW, of_second[name][1], strict=True)
    other = trainer_of(blueprint(table, model, seed=4))
    assert other.step(stream(1)[0]).loss != trainer_of(blueprint(table, model)).step(stream(1)[0]).loss


@pytest.mark.parametrize("model", MODEL_FIELDS)
@pytest.mark.parametrize("table", TABLE_FIELDS)
def test_a_batch_of_which_nothing_is_known_is_learned_from(table: str, model: str) -> None:
    """All bags empty: embeddings are zero, and the bias learns how many are liked."""
    trainer = trainer_of(blueprint(table, model))
    batch = batch_of([0] * 8, [0] * 8, labels=[1, 1, 1, 1, 1, 1, 0, 0], empty=True)
    losses = []
    for _ in range(80):
        result = trainer.step(batch)
        assert len(set(result.probabilities_B.tolist())) == 1
        losses.append(result.loss)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(trainer.predict(batch), 0.75, atol=0.05)
    if table == "collisionless":
        assert {name: rows for name, rows in trainer.store.num_rows().items() if name != "dense"} == dict.fromkeys(
            (name for name in trainer.store.num_rows() if name != "dense"), 0
        )


def test_an_example_of_weight_zero_teaches_nothing() -> None:
    weighted, alone = trainer_of(blueprint()), trainer_of(blueprint())
    loss = weighted.step(batch_of([1, 2], [3, 4], labels=[1, 0], weights=[2, 0])).loss
    assert loss == pytest.approx(alone.step(batch_of([1], [3], labels=[1])).loss, rel=1e-6)
    board = whole_board()
    np.testing.assert_allclose(weighted.predict(board), alone.predict(board), rtol=1e-5)


def test_a_batch_without_weight_leaves_everything_as_it_was() -> None:
    trainer, board = trainer_of(blueprint()), whole_board()
    before = trainer.predict(board)
    assert trainer.step(batch_of([1, 2], [3, 4], weights=[0, 0])).loss == 0.0
    np.testing.assert_array_equal(trainer.predict(board), before, strict=True)


def test_weights_are_relative() -> None:
    light, heavy = trainer_of(blueprint()), trainer_of(blueprint())
    batches = [batch_of([1, 2], [3, 4], weights=[factor, 3 * factor]) for factor in (1, 8)]
    assert light.step(batches[0]).loss == pytest.approx(heavy.step(batches[1]).loss, rel=1e-6)
    probabilities = trainer_of(blueprint()).predict(batches[0])
    expected = cross_entropy(batches[0].labels_B, probabilities, batches[0].weights_B)
    assert trainer_of(blueprint()).step(batches[0]).loss == pytest.approx(expected, rel=1e-5)


def test_the_tables_penalty_is_part_of_the_loss_and_of_its_gradient() -> None:
    plain, penalised = trainer_of(blueprint()), trainer_of(blueprint())
    embeddings = penalised.recommender.embeddings
    strength = torch.nn.Parameter(torch.tensor(0.25))
    table = embeddings.tables["user"]
    table.penalty = lambda: 2 * strength  # type: ignore[method-assign]
    batch = stream(1)[0]
    assert penalised.step(batch).loss == pytest.approx(plain.step(batch).loss + 0.5, rel=1e-6)
    assert strength.grad is not None and float(strength.grad) == 2.0


def test_pushed_rows_carry_the_latest_event_time_of_their_batch() -> None:
    trainer = trainer_of(blueprint("collisionless"))
    trainer.step(batch_of([1, 2], [3, 4], time_ms=500))
    snapshot = trainer.store.snapshot().groups["user"]
    assert dict(zip(snapshot.keys_U.tolist(), snapshot.event_times_U.tolist(), strict=True)) == {
        1: 501,
        2: 501,
    }


def test_start_gives_the_store_the_dense_parameters_of_the_seed() -> None:
    trainer = trainer_of(blueprint())
    recommender = Recommender(blueprint())
    keys = {"dense": recommender.dense.keys}
    np.testing.assert_array_equal(trainer.store.pull(keys)["dense"], recommender.dense.rows(), strict=True)
    assert np.abs(recommender.dense.rows()).sum() > 0
