"""A published recommender of films to measure serving by: a million rows, users with histories, items with facts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.features.declarations import Feature
from recsys.features.state import FactValues, FeatureState, History
from recsys.hashing import Keys
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import RowGroup
from recsys.sync.publisher import Publisher
from recsys.training.trainer import Trainer

GENRES = tuple(f"genre {number}" for number in range(18))
WIDTH = 16
FEATURES = (
    Feature(name="user", kind="id", source="user.id"),
    Feature(name="item", kind="id", source="item.id"),
    Feature(name="liked", kind="bag", source="user.likes", table="item", max_length=20),
    Feature(name="genres", kind="bag", source="item.genres", vocabulary=GENRES),
    Feature(name="hour", kind="id", source="time.hour_of_day"),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
    Feature(name="year", kind="number", source="item.year"),
)


@dataclass(frozen=True)
class Films:
    """What is published, and its ids: those of items are any 64 bits."""

    blueprint: Blueprint
    store: LocalRows
    state: FeatureState
    item_ids: Keys
    user_ids: Sequence[int]

    def publisher(self, client: Any, layout: Layout) -> Publisher:
        """A publisher of all of it, as a consumer of its own."""
        self.state.everything_changed()
        consumer = f"{layout.model}:{layout.run}"
        publisher = Publisher(client, self.store, [self.state], layout, time_ms=lambda: 10**12, consumer=consumer)
        publisher.describe(self.blueprint.to_json(), {})
        return publisher

    def serve(self, client: Any, model: str, run: str = "2026-01-31_12-00-00", **fields: Any) -> Layout:
        """Published and switched to."""
        layout = Layout(model=model, run=run, **fields)
        publisher = self.publisher(client, layout)
        publisher.publish()
        publisher.switch()
        return layout


def films(num_rows: int, num_items: int, num_users: int = 200) -> Films:
    """A DCNv2 over collisionless tables with ``num_rows`` item rows; facts of the first ``num_items`` of them."""
    blueprint = Blueprint(
        features=FEATURES,
        table={"kind": "collisionless", "embedding_dim": WIDTH},
        model={"kind": "dcnv2", "hidden_sizes": [128, 64]},
        optimizer={"kind": "adagrad", "learning_rate": 0.05},
        dense_optimizer={"kind": "adam", "learning_rate": 0.001},
        seed=3,
    )
    recommender = Recommender(blueprint)
    store = LocalRows(recommender.groups)
    Trainer(recommender, store).start()
    draw = np.random.default_rng(0)
    item_ids = np.unique(draw.integers(-(2**63), 2**63 - 1, num_rows))
    fill(store, "item", item_ids)
    users = list(range(num_users))
    fill(store, "user", np.array(users, np.int64))
    return Films(blueprint, store, _features(draw, item_ids[:num_items].tolist(), users), item_ids, users)


def fill(store: LocalRows, group: str, keys: Keys) -> None:
    """Rows of random numbers."""
    width, draw = store.groups[group].width, np.random.default_rng(1)
    for start in range(0, len(keys), 100_000):
        part = keys[start : start + 100_000]
        store.push({group: (part, draw.normal(size=(len(part), width)).astype(np.float32))}, 0)


def rows_alone(num_rows: int) -> tuple[LocalRows, Keys]:
    """A store of one group of any 64-bit keys, without features."""
    store = LocalRows([RowGroup(name="item", width=WIDTH, optimizer=SGD(learning_rate=0.1))])
    keys = np.unique(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, num_rows))
    fill(store, "item", keys)
    return store, keys


def _features(draw: np.random.Generator, item_ids: Sequence[int], users: Sequence[int]) -> FeatureState:
    state = FeatureState()
    for at, item in enumerate(item_ids):
        facts: FactValues = {"title": f"Film {at}", "year": at % 90 / 90, "genres": list(GENRES[at % 16 : at % 16 + 2])}
        state.put_facts("item", item, 0, facts)
    for user in users:
        history = History()
        for place in draw.integers(0, len(item_ids), 30):
            history.like(int(place), item_ids[place], state.keep_items)
        history.num_impressions = 60
        state.put_history(user, history)
    return state
