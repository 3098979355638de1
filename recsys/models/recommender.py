"""A recommender: features, their tables and a model, as one module over a row store.

Built from a ``Blueprint`` (plain values), by trainer, worker and ranker alike.

Shape suffixes: B examples, F sparse features, D embedding dimension, M numeric features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys import hashing
from recsys.batches.batch import Batch
from recsys.errors import ConfigError, DataError, unknown
from recsys.features.declarations import Feature, build_features, features_to_json
from recsys.hashing import Floats, Keys
from recsys.models import MODELS, build_config
from recsys.ps.dense import DENSE, DenseParameters
from recsys.rows.optimizers import build_optimizer
from recsys.rows.store import RowGroup, RowReader, Snapshot
from recsys.tables import plan_tables
from recsys.tables.embeddings import Addressed, Embeddings, Looked


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """Everything that a recommender is built from, in plain values: it goes with every checkpoint and publication.

    ``table``, ``model`` and the optimizers are the fields of the YAML groups: ``optimizer`` is that of the embedding
    rows, ``first_order_optimizer`` that of the model's width-1 rows (the same where it is None).
    """

    features: tuple[Feature, ...]
    table: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    dense_optimizer: Mapping[str, Any]
    first_order_optimizer: Mapping[str, Any] | None = None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "features": features_to_json(self.features)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Blueprint":
        """The blueprint that ``to_json`` described."""
        for name in saved:
            if name not in cls.__dataclass_fields__:
                raise unknown("field of blueprint", name, cls.__dataclass_fields__)
        return cls(**{**saved, "features": build_features(saved["features"])})


@dataclass(frozen=True)
class Planned:
    """What a batch needs from the store: row keys, the dense parameters' among them."""

    batch: Batch
    addressed: Addressed
    keys: dict[str, Keys]
    num_unknown: int  # ids left out of their bags, because a table can not hold them


class Recommender(nn.Module):
    """Logits of batches, from rows pulled out of a store.

    The dense parameters live in the store too (row group ``dense``): ``start_state`` is what a new store begins
    with; ``forward`` loads what was pulled.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self.blueprint = blueprint
        self.features = blueprint.features
        self._sparse = [feature.name for feature in self.features if feature.kind != "number"]
        if not self._sparse:
            raise ConfigError("no feature of kind id or bag is declared; a recommender needs at least one")
        config = build_config(blueprint.model)
        tables = plan_tables(
            blueprint.table,
            self.features,
            optimizer=build_optimizer(blueprint.optimizer),
            seed=blueprint.seed,
            with_first_order=config.needs_first_order,
        )
        narrow_optimizer = build_optimizer(blueprint.first_order_optimizer or blueprint.optimizer)
        narrow = [table.narrowed(narrow_optimizer) for table in tables] if config.needs_first_order else []
        self.embeddings = Embeddings([*tables, *narrow])
        self._has_parameters = {name: any(True for _ in t.parameters()) for name, t in self.embeddings.tables.items()}
        self._wide = {name: table.name for table in tables for name in table.feature_names}
        self._narrow = {name: table.name for table in narrow for name in table.feature_names}
        generator = torch.Generator().manual_seed(hashing.seed_of(blueprint.seed, "model"))
        self.model: nn.Module = MODELS[config.kind](
            config,
            num_features=len(self._sparse),
            embedding_dim=tables[0].embedding_dim,
            num_numbers=len(self.features) - len(self._sparse),
            generator=generator,
        )
        if kept := [name for name, _ in self.named_buffers()]:
            raise ConfigError(
                f"model {config.kind} keeps statistics ({kept[0]}) that no row store holds; set batch_norm: false"
            )
        self.dense = DenseParameters(self)
        self._dense_optimizer = build_optimizer(blueprint.dense_optimizer)

    @property
    def groups(self) -> list[RowGroup]:
        """Every row group that a store must hold."""
        return [*self.embeddings.groups.values(), self.dense.group(self._dense_optimizer)]

    def start_state(self) -> Snapshot:
        """The dense parameters as initialised; rows of tables begin by themselves."""
        return Snapshot((0,), {DENSE: self.dense.initial_snapshot(self._dense_optimizer)})

    def table_of(self, feature: str) -> str:
        """The table that a sparse feature reads; ConfigError for another name."""
        if feature not in self._wide:
            raise unknown("feature", feature, self._wide)
        return self._wide[feature]

    def encode_ids(self, feature: str, ids: Sequence[int | str]) -> Keys:
        """Raw ids as the int64 ids that this feature's table takes; DataError for a word outside its vocabulary."""
        self.table_of(feature)
        declared = next(f for f in self.features if f.name == feature)
        if declared.vocabulary is None:
            return np.array([hashing.to_id(id_) for id_ in ids], np.int64)
        for id_ in ids:
            if id_ not in declared.vocabulary:
                message = f"{id_!r} is not in the vocabulary of feature {feature!r}"
                raise DataError(f"{message}: {', '.join(declared.vocabulary)}")
        return np.array([declared.vocabulary.index(id_) for id_ in ids], np.int64)

    def known_ids(self, feature: str, ids: Sequence[int | str]) -> list[int | str]:
        """Those of raw ids that this feature's table can hold."""
        known_N = self.embeddings.tables[self.table_of(feature)].known(
            feature, torch.from_numpy(self.encode_ids(feature, ids))
        )
        return list(ids) if known_N is None else [id_ for id_, known in zip(ids, known_N, strict=True) if known]

    @torch.no_grad()
    def embed(self, feature: str, ids_N: Keys, store: RowReader) -> Floats:
        """Embeddings (N, D) of single ids of a feature; DataError for an id that its table does not know."""
        if self._has_parameters[self.table_of(feature)]:
            self.dense.load(store.pull({DENSE: self.dense.keys})[DENSE])
        vectors_ND: Floats = self.embeddings.embed(self.table_of(feature), feature, ids_N, store).numpy()
        return vectors_ND

    def plan(self, batch: Batch) -> Planned:
        """Which rows a batch needs; ids that a table does not know are left out, in training and serving alike."""
        bags, num_unknown = self.embeddings.known_bags(batch.bags)
        addressed = self.embeddings.address(bags)
        return Planned(batch, addressed, {**addressed.keys, DENSE: self.dense.keys}, num_unknown)

    def forward(self, planned: Planned, rows: Mapping[str, Floats]) -> tuple[Tensor, Looked]:
        """Logits (B,), and the rows they came from: leaves that gradients gather in."""
        if DENSE in rows:
            self.dense.load(rows[DENSE])
        looked = self.embeddings.look(planned.addressed, rows)
        pooled = self.embeddings.pool(looked)
        embeddings_BFD = torch.stack([pooled[self._wide[name], name] for name in self._sparse], dim=1)
        numbers_BM = torch.from_numpy(planned.batch.numbers_BM)
        if self._narrow:
            first_BF = torch.cat([pooled[self._narrow[name], name] for name in self._sparse], dim=1)
        else:
            first_BF = embeddings_BFD.new_zeros(len(embeddings_BFD), 0)
        logits_B: Tensor = self.model(embeddings_BFD, first_BF, numbers_BM)
        return logits_B, looked

    @torch.no_grad()
    def predict(self, batch: Batch, store: RowReader, *, dense: bool = True) -> Floats:
        """Probabilities (B,), learning nothing; ``dense=False`` keeps the dense parameters loaded before."""
        planned = self.plan(batch)
        rows = store.pull(planned.keys if dense else planned.addressed.keys)
        learning = self.training
        logits_B, _ = self.eval()(planned, rows)  # no dropout
        self.train(learning)
        probabilities_B: Floats = torch.sigmoid(logits_B).numpy()
        return probabilities_B
