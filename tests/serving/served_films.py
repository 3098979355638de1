"""A small trained recommender of films, with everything a user or an item can bring, as serving tests need it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from table_kinds import SMALL

from recsys.batches.batch import LabelledBatch
from recsys.batches.examples import Example, example_schema, to_batch, to_rows
from recsys.batches.join import ActionKind, JoinConfig, Joiner
from recsys.events import Action, Impression
from recsys.features.declarations import Feature
from recsys.features.extract import Extractor
from recsys.features.state import FactValues, FeatureState, Id
from recsys.hashing import Floats
from recsys.models.recommender import Blueprint, Recommender
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.sync.publisher import Publisher
from recsys.training.trainer import Trainer

GENRES = ("Drama", "Comedy", "War", "Noir")
TABLES = SMALL
MODELS: dict[str, dict[str, Any]] = {
    "deepfm": {"hidden_sizes": [8]},
    "dcnv2": {"hidden_sizes": [8], "num_cross_layers": 2},
    "fm": {},
}
NORMALISED = {"normalised": {"kind": "deepfm", "batch_norm": True}}
NUM_USERS, NUM_ITEMS = 12, 20
HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
_FOREVER_MS = 2**53
_JOIN = JoinConfig(actions={"like": ActionKind(window_seconds=60.0)})


def features() -> tuple[Feature, ...]:
    """Every kind of feature, of every owner."""
    return (
        Feature(name="user", kind="id", source="user.id", num_embeddings=100),
        Feature(name="item", kind="id", source="item.id", num_embeddings=100),
        Feature(name="liked", kind="bag", source="user.likes", table="item", max_length=5),
        Feature(name="shown", kind="bag", source="user.shown", table="item", max_length=4),
        Feature(name="genres", kind="bag", source="item.genres", vocabulary=GENRES),
        Feature(name="work", kind="id", source="profile.work", vocabulary=("artist", "doctor")),
        Feature(name="hour", kind="id", source="time.hour_of_day", num_embeddings=24),
        Feature(name="age", kind="number", source="profile.age"),
        Feature(name="odds", kind="number", source="user.like_log_odds"),
        Feature(name="recent", kind="number", source="user.recent_like_log_odds"),
        Feature(name="year", kind="number", source="item.year"),
    )


def blueprint(table: str, model: str, table_fields: Mapping[str, Any] | None = None, **fields: Any) -> Blueprint:
    """Narrow tables, one small hidden layer, and initial values large enough to be seen in a score."""
    described = {
        "features": features(),
        "table": {"kind": table, "embedding_dim": 4, "initial_scale": 0.3, **TABLES[table], **(table_fields or {})},
        "model": {"kind": model, **MODELS.get(model, {"hidden_sizes": [8]}), **NORMALISED.get(model, {})},
        "optimizer": {"kind": "adagrad", "learning_rate": 0.05},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.02},
        "seed": 3,
    }
    return Blueprint(**{**described, **fields})


@dataclass
class Films:
    """A trainer, its joiner, and how far their stream has come."""

    blueprint: Blueprint
    trainer: Trainer
    joiner: Joiner
    users: Sequence[Id]
    items: Sequence[Id]
    time_ms: int = START_MS
    num_requests: int = 0

    @property
    def recommender(self) -> Recommender:
        return self.trainer.recommender

    @property
    def state(self) -> FeatureState:
        return self.joiner.features

    def learn(self, num_impressions: int = 60, seed: int = 0) -> None:
        """Show random items, like those of the user's own parity, and train on what the joiner makes of it."""
        draw = np.random.default_rng(seed)
        examples: list[Example] = []
        for _ in range(num_impressions):
            user, item = int(draw.integers(len(self.users))), int(draw.integers(len(self.items)))
            self.time_ms += int(draw.integers(1000, 20_000))
            self.num_requests += 1
            request = f"r{self.num_requests}"
            shown = Impression(request, self.users[user], self.items[item], self.time_ms)
            examples += self.joiner.process(shown)
            if user % 2 == item % 2:
                examples += self.joiner.process(Action(request, self.users[user], "like", self.time_ms + 5))
        examples += self.joiner.advance(self.time_ms + 100_000)
        for start in range(0, len(examples), 20):
            self.trainer.step(self.batch(examples[start : start + 20]))

    def batch(self, examples: Sequence[Example]) -> LabelledBatch:
        """Examples as they reach a trainer: through Arrow."""
        schema = example_schema(self.blueprint.features)
        return to_batch(to_rows(examples, schema, 0).rows, self.blueprint.features)

    def expected_scores(self, user: Id, items: Sequence[Id], time_ms: int) -> Floats:
        """What training would have predicted: each item shown by a joiner of its own, scored by the trainer."""
        saved, examples = self.state.to_json(), []
        extractor = Extractor(self.blueprint.features)
        for item in items:
            joiner = Joiner(_JOIN, extractor, FeatureState.from_json(saved))
            joiner.process(Impression("asked", user, item, time_ms))
            examples += joiner.advance(_FOREVER_MS)
        return self.trainer.predict(self.batch(examples))

    def publisher(self, redis_url: str, layout: Layout) -> Publisher:
        """A publisher of this run, described but not yet served."""
        publisher = Publisher.connect(redis_url, self.trainer.store, [self.state], layout, time_ms=lambda: self.time_ms)
        publisher.describe(self.blueprint.to_json(), {"data": "films"})
        return publisher

    def serve(self, redis_url: str, model: str, run: str = "r1", **fields: Any) -> Publisher:
        """Published and switched to."""
        publisher = self.publisher(redis_url, Layout(model=model, run=run, **fields))
        publisher.publish()
        publisher.switch()
        return publisher


def films(
    table: str = "collisionless", model: str = "deepfm", *, strings: bool = False, learned: bool = True, **fields: Any
) -> Films:
    """A trained run; ``strings`` gives every other user and item a string for an id."""
    planned = blueprint(table, model, **fields)
    recommender = Recommender(planned)
    trainer = Trainer(recommender, LocalRows(recommender.groups))
    trainer.start()
    users: list[Id] = [f"user-{n}" if strings and n % 2 else n for n in range(NUM_USERS)]
    items: list[Id] = [f"tt{n}" if strings and n % 2 else n for n in range(NUM_ITEMS)]
    made = Films(planned, trainer, Joiner(_JOIN, Extractor(planned.features), FeatureState()), users, items)
    for at, user in enumerate(users):
        facts = {"age": 20.0 + at, "work": ("artist", "doctor", "thief")[at % 3]}
        made.state.put_facts("user", user, 0, facts)
    for at, item in enumerate(items):
        about: FactValues = {"title": f"Film {item}", "year": at / 10, "genres": list(GENRES[at % 3 : at % 3 + 2])}
        made.state.put_facts("item", item, 0, about)
    if learned:
        made.learn()
    return made
