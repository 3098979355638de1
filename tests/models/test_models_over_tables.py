"""Every model over every kind of table: it is built, it learns, and what was saved of it gives the same scores."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from table_kinds import CODES, FREQUENT, KEPT, MAP, WEIGHTS
from test_every_model import SMALL

from recsys.batches.batch import Bag, LabelledBatch
from recsys.errors import ConfigError, RecsysError
from recsys.features.declarations import Feature
from recsys.models import MODELS
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.local import LocalRows
from recsys.tables import TABLES
from recsys.training.trainer import Trainer

NUM_IDS, NUM_EXAMPLES, NUM_STEPS = 12, 64, 25
FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=NUM_IDS),
    Feature(name="item", kind="id", source="item.id", num_embeddings=NUM_IDS),
    Feature(name="liked", kind="sequence", source="user.likes", table="item", num_embeddings=NUM_IDS),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
)
# What a kind needs besides its defaults, to have room for ids that must not meet.
TABLE_FIELDS: dict[str, dict[str, Any]] = {
    "hash": {"num_buckets": 256},
    "unified": {"num_rows": 512},
    "graphhash": {"map": MAP},
    "double_graphhash": {"map": MAP},
    "pruned": {"map": KEPT},
    "dpq": {"num_subspaces": 2, "num_centroids": 32},
    "mgqe": {"num_subspaces": 2, "num_centroids": 32, "map": FREQUENT},
    "codes": {"map": CODES},
    "sparse": {"map": WEIGHTS},
    "cce": {"num_clusters": 128, "num_chunks": 2},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches are tiny: threads would only wait for one another."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def trainer_of(table: str, model: dict[str, Any], features: tuple[Feature, ...] = FEATURES) -> Trainer:
    blueprint = Blueprint(
        features=features,
        table={"kind": table, "embedding_dim": 4, "initial_scale": 0.3, **TABLE_FIELDS.get(table, {})},
        model=model,
        optimizer={"kind": "adagrad", "learning_rate": 0.3},
        dense_optimizer={"kind": "adam", "learning_rate": 0.02},
        seed=3,
    )
    recommender = Recommender(blueprint)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    return trainer


def batch_of(seed: int) -> LabelledBatch:
    """A user of a high number likes much, an item of a low number is liked: some way from half and half."""
    draw = np.random.default_rng(seed)
    users, items = draw.integers(NUM_IDS, size=(2, NUM_EXAMPLES))
    liked = [draw.integers(NUM_IDS, size=size).tolist() for size in draw.integers(3, size=NUM_EXAMPLES)]
    return LabelledBatch(
        bags={
            "user": Bag.of_lists([[int(user)] for user in users]),
            "item": Bag.of_lists([[int(item)] for item in items]),
            "liked": Bag.of_lists(liked),
        },
        numbers_BM=draw.standard_normal((NUM_EXAMPLES, 1)).astype(np.float32),
        labels_B=(users > items).astype(np.float32),
        weights_B=np.ones(NUM_EXAMPLES, np.float32),
        request_ids=[""] * NUM_EXAMPLES,
        user_ids=users.tolist(),
        item_ids=items.tolist(),
        times_ms_B=np.zeros(NUM_EXAMPLES, np.int64),
        read_at_ms_B=np.zeros(NUM_EXAMPLES, np.int64),
    )


BATCHES = [batch_of(seed) for seed in range(NUM_STEPS)]


@pytest.mark.parametrize(("table", "kind"), [*(("full", kind) for kind in MODELS), *((t, "deepfm") for t in TABLES)])
def test_it_learns(table: str, kind: str) -> None:
    trainer = trainer_of(table, {"kind": kind, **SMALL[kind]})
    losses = [result.loss for result in trainer.steps(BATCHES)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    scores_B, labels_B = trainer.predict(batch_of(99)), batch_of(99).labels_B
    assert scores_B[labels_B == 1].mean() > scores_B[labels_B == 0].mean() + 0.15


# Each kind under two models and each model over one kind and more; make test-long tries all of them.
QUICK = {(table, [*MODELS][(5 * at + more) % len(MODELS)]) for at, table in enumerate(TABLES) for more in (0, 11)}
EVERY = [
    pytest.param(table, kind, marks=() if (table, kind) in QUICK else pytest.mark.long)
    for table in TABLES
    for kind in MODELS
]


def test_the_quick_form_has_every_model() -> None:
    assert {kind for _, kind in QUICK} == set(MODELS)


@pytest.mark.parametrize(("table", "kind"), EVERY)
def test_every_model_steps_over_every_table_and_is_saved_whole(table: str, kind: str) -> None:
    trainer = trainer_of(table, {"kind": kind, **SMALL[kind]})
    before_B = trainer.predict(batch_of(99))
    trainer.step(BATCHES[0])
    trainer.step(BATCHES[1])
    scores_B = trainer.predict(batch_of(99))
    assert np.abs(scores_B - before_B).max() > 1e-3
    again = Recommender(Blueprint.from_json(trainer.recommender.blueprint.to_json()))
    store = LocalRows(again.groups)
    store.restore(trainer.store.snapshot())
    np.testing.assert_array_equal(again.predict(batch_of(99), store), scores_B)


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_of_which_nothing_is_known_is_learned_from(kind: str) -> None:
    """All bags are empty: embeddings are zeros, and the logit learns how many are liked."""
    trainer = trainer_of("full", {"kind": kind, **SMALL[kind]})
    nothing = Bag.of_lists([[]] * NUM_EXAMPLES)
    labels_B = (np.arange(NUM_EXAMPLES) % 4 > 0).astype(np.float32)
    numbers_BM = np.zeros((NUM_EXAMPLES, 1), np.float32)
    batch = replace(batch_of(0), bags=dict.fromkeys(BATCHES[0].bags, nothing), numbers_BM=numbers_BM, labels_B=labels_B)
    results = [trainer.step(batch) for _ in range(12)]
    assert len(set(results[-1].probabilities_B.tolist())) == 1
    assert results[-1].loss < results[0].loss


def test_rows_are_as_wide_as_the_model_asks() -> None:
    widths = {
        kind: {name: group.width for name, group in Recommender(plan.blueprint).embeddings.groups.items()}
        for kind in ("dnn", "lr", "fm", "ffm", "fwfm")
        for plan in [trainer_of("full", {"kind": kind}).recommender]
    }
    assert widths == {
        "dnn": {"user": 4, "item": 4},
        "lr": {"user.first_order": 1, "item.first_order": 1},
        "fm": {"user": 4, "item": 4, "user.first_order": 1, "item.first_order": 1},
        "ffm": {"user": 8, "item": 8, "user.first_order": 1, "item.first_order": 1},
        "fwfm": {"user": 8, "item": 8},
    }


def test_a_linear_models_weights_are_what_is_looked_up() -> None:
    trainer = trainer_of("full", {"kind": "lr"})
    for _ in trainer.steps(BATCHES):
        pass
    weights_ND = trainer.recommender.embed("user", np.arange(NUM_IDS), trainer.store)
    assert weights_ND.shape == (NUM_IDS, 1)
    assert weights_ND[-1, 0] > weights_ND[0, 0]  # a user of a high number likes more


def test_din_attends_to_what_shares_the_items_table() -> None:
    attending = trainer_of("full", {"kind": "din", **SMALL["din"]}).recommender.model
    assert attending._histories == [("liked", 2, 1)]
    apart = tuple(Feature(**{**feature.__dict__, "table": None}) for feature in FEATURES)
    with pytest.raises(ConfigError, match=r"model\.kind='din' needs a history"):
        trainer_of("full", {"kind": "din"}, apart)
    with pytest.raises(RecsysError, match="unknown feature of the model 'film'"):
        trainer_of("full", {"kind": "finalmlp", "first_context": ["film"]})
