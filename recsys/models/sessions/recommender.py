"""A model of sessions and the table of its tracks, as one module over a row store: trained, published and served.

Built from a ``SessionBlueprint`` (plain values) over a log: the one that is learned, or one user's, who is answered.

Shape suffixes: V tracks of the catalogue, D embedding width, Q questions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.hashing import Floats
from recsys.models.sessions import LEARNED, build_session_config
from recsys.models.sessions.catalogue import Catalogue
from recsys.models.sessions.learned import Items
from recsys.models.sessions.questions import Questions
from recsys.ps.dense import DENSE, DenseParameters
from recsys.rows.optimizers import build_optimizer
from recsys.rows.store import RowGroup, RowReader
from recsys.sessions.log import SessionLog
from recsys.tables import plan_tables
from recsys.tables.embeddings import Embeddings

TRACK = "track"


@dataclass(frozen=True, kw_only=True)
class SessionBlueprint:
    """What a recommender of sessions is built from, in plain values: it goes with every checkpoint and publication."""

    table: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    dense_optimizer: Mapping[str, Any]
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``SessionBlueprint(**…)`` of them is this one again."""
        return asdict(self)


class TrackRecommender(nn.Module):
    """Scores of every track of a catalogue, out of rows and dense parameters that a store holds."""

    def __init__(self, blueprint: SessionBlueprint, log: SessionLog) -> None:
        super().__init__()
        self.blueprint, self._num_tracks = blueprint, log.num_tracks
        feature = Feature(name=TRACK, kind="id", source="item.id", num_embeddings=log.num_tracks)
        tables = plan_tables(
            blueprint.table, [feature], optimizer=build_optimizer(blueprint.optimizer), seed=blueprint.seed
        )
        self.embeddings = Embeddings(tables)
        self.table = tables[0].name
        config = build_session_config(blueprint.model)
        if config.kind not in LEARNED:
            raise ConfigError(f"session_model.kind={config.kind} learns nothing by gradients; it is asked as it is")
        self.model = LEARNED[config.kind](
            config,
            log=log,
            embedding_dim=tables[0].embedding_dim,
            generator=torch.Generator().manual_seed(hashing.seed_of(blueprint.seed, "session_model")),
        )
        self.dense = DenseParameters(self)
        self.dense_optimizer = build_optimizer(blueprint.dense_optimizer)

    @classmethod
    def of_catalogue(cls, blueprint: SessionBlueprint, catalogue: Catalogue) -> "TrackRecommender":
        """One that only answers; ``model.know`` tells it of whom."""
        found = cls(blueprint, catalogue.nobody())
        found.model.together = catalogue.together
        return found

    @property
    def groups(self) -> list[RowGroup]:
        """Every row group that a store must hold."""
        return [*self.embeddings.groups.values(), self.dense.group(self.dense_optimizer)]

    @torch.no_grad()
    def read(self, store: RowReader) -> Items:
        """Take over the dense parameters that a store holds; the vectors of the whole catalogue."""
        self.dense.load(store.pull({DENSE: self.dense.keys})[DENSE])
        everything_V = np.arange(self._num_tracks)
        return Items(everything_V, self.embeddings.embed(self.table, TRACK, everything_V, store))

    @torch.no_grad()
    def answer(self, catalogue: Items, questions: Questions) -> Floats:
        """A score of every track, (Q, V), out of what ``read`` gave."""
        scores_QV: Floats = self.model.eval().scores(catalogue, questions).numpy()
        return scores_QV
