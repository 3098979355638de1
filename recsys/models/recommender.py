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
from recsys.batches.batch import Bag, Batch
from recsys.errors import ConfigError, DataError, unknown
from recsys.features.declarations import Feature, build_features, features_to_json
from recsys.hashing import Floats, Keys
from recsys.models import MODELS, build_config
from recsys.models.computing import Computing
from recsys.models.fm import FM
from recsys.models.inputs import BagVectors, Inputs
from recsys.ps.dense import DENSE, STATISTICS, DenseParameters, Statistics
from recsys.rows.optimizers import build_optimizer
from recsys.rows.store import Gradients, RowGroup, RowReader, Snapshot
from recsys.tables import plan_tables
from recsys.tables.embeddings import Addressed, Embeddings, Looked
from recsys.tables.table import TableConfig


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

    The dense parameters live in the store too (row group ``dense``), and what batch normalisation remembers (group
    ``statistics``): ``start_state`` is what a new store begins with; ``forward`` loads what was pulled, and
    ``gradients`` is what a step pushes back.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self.blueprint = blueprint
        self.features = blueprint.features
        self._sparse = [feature.name for feature in self.features if feature.kind != "number"]
        if not self._sparse:
            raise ConfigError("no feature of kind id or bag is declared; a recommender needs at least one")
        config = build_config(blueprint.model)
        tables = _planned_tables(blueprint, blueprint.table, config.needs_first_order)
        inputs = _inputs(self.features, tables[0].embedding_dim)
        wide = _widened(blueprint, tables, config.row_dim(inputs), config.needs_first_order)
        narrow_optimizer = build_optimizer(blueprint.first_order_optimizer or blueprint.optimizer)
        narrow = [table.narrowed(narrow_optimizer) for table in wide or tables] if config.needs_first_order else []
        self.embeddings = Embeddings([*wide, *narrow])
        self._has_parameters = {name: any(True for _ in t.parameters()) for name, t in self.embeddings.tables.items()}
        self._wide = {name: table.name for table in wide for name in table.feature_names}
        self._narrow = {name: table.name for table in narrow for name in table.feature_names}
        generator = torch.Generator().manual_seed(hashing.seed_of(blueprint.seed, "model"))
        self.model: nn.Module = MODELS[config.kind](config, inputs, generator=generator)
        self._bags = list(inputs.targets) if config.needs_bag_vectors else []
        self.dense = DenseParameters(self)
        self.statistics = Statistics(self)
        self._dense_optimizer = build_optimizer(blueprint.dense_optimizer)
        self.computing = Computing()

    def compute(self, computing: Computing) -> "Recommender":
        """Have the model computed so from now on; returns this recommender."""
        self.computing = computing
        self.model.to(computing.device)
        return self

    @property
    def groups(self) -> list[RowGroup]:
        """Every row group that a store must hold."""
        groups = [*self.embeddings.groups.values(), self.dense.group(self._dense_optimizer)]
        return [*groups, self.statistics.group(Statistics.optimizer)] if self.statistics else groups

    @property
    def dense_keys(self) -> dict[str, Keys]:
        """The rows that belong to no table, by group: every step and every reader takes all of them."""
        keys = {DENSE: self.dense.keys}
        return {**keys, STATISTICS: self.statistics.keys} if self.statistics else keys

    def start_state(self) -> Snapshot:
        """The rows that belong to no table as initialised; rows of tables begin by themselves."""
        groups = {DENSE: self.dense.initial_snapshot(self._dense_optimizer)}
        if self.statistics:
            groups[STATISTICS] = self.statistics.initial_snapshot(Statistics.optimizer)
        return Snapshot((0,), groups)

    def load_dense(self, rows: Mapping[str, Floats]) -> None:
        """Take over what was pulled of ``dense_keys``."""
        if DENSE in rows:
            self.dense.load(rows[DENSE])
        if STATISTICS in rows:
            self.statistics.load(rows[STATISTICS])

    def gradients(self, looked: Looked) -> dict[str, Gradients]:
        """What a step pushes, after backward: of every row that was pulled."""
        gradients = {**looked.gradients(), DENSE: self.dense.gradients()}
        return {**gradients, STATISTICS: self.statistics.gradients()} if self.statistics else gradients

    def table_of(self, feature: str) -> str:
        """The table that a sparse feature reads (a linear model's weights); ConfigError for another name."""
        tables = self._wide or self._narrow
        if feature not in tables:
            raise unknown("feature", feature, tables)
        return tables[feature]

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

    @property
    def is_factorised(self) -> bool:
        """Whether its logits are products of what users and items bring, each by itself: see ``side``."""
        return isinstance(self.model, FM)

    @torch.no_grad()
    def side(self, names: Sequence[str], batch: Batch, store: RowReader) -> tuple[Floats, Floats]:
        """Vectors (B, D) and own logits (B,) of some features, which alone are in the batch: see FM.side.

        The dense parameters are those loaded before. ConfigError for a model that is no FM.
        """
        if not isinstance(self.model, FM):
            raise ConfigError(f"model.kind={self.blueprint.model['kind']} does not score by products; use model=fm")
        nothing = Bag.of_lists([[]] * batch.num_examples)
        bags, _ = self.embeddings.known_bags({name: batch.bags.get(name, nothing) for name in self._sparse})
        addressed = self.embeddings.address(bags)
        pooled = self.embeddings.pool(self.embeddings.look(addressed, store.pull(addressed.keys)))
        sparse = [name for name in self._sparse if name in names]
        numbers = [feature.name for feature in self.features if feature.kind == "number"]
        absent_BP0 = torch.zeros(batch.num_examples, 0)
        wide = [pooled[self._wide[name], name] for name in sparse]
        narrow = [pooled[self._narrow[name], name] for name in sparse] if self._narrow else []
        width = self.embeddings.tables[next(iter(self._wide.values()))].config.embedding_dim
        vectors_BD, own_B = self.model.side(
            torch.stack(wide, dim=1) if wide else absent_BP0[:, :, None].expand(-1, -1, width),
            torch.cat(narrow, dim=1) if narrow else absent_BP0,
            torch.from_numpy(batch.numbers_BM),
            [at for at, name in enumerate(numbers) if name in names],
        )
        return vectors_BD.numpy(), own_B.numpy()

    @property
    def bias(self) -> float:
        """The logit of nothing at all, of a factorised model."""
        assert isinstance(self.model, FM) and self.model.first_order.bias is not None
        return float(self.model.first_order.bias.detach())

    def plan(self, batch: Batch) -> Planned:
        """Which rows a batch needs; ids that a table does not know are left out, in training and serving alike."""
        bags, num_unknown = self.embeddings.known_bags(batch.bags)
        addressed = self.embeddings.address(bags)
        return Planned(batch, addressed, {**addressed.keys, **self.dense_keys}, num_unknown)

    def forward(self, planned: Planned, rows: Mapping[str, Floats]) -> tuple[Tensor, Looked]:
        """Logits (B,), and the rows they came from: leaves that gradients gather in."""
        self.load_dense(rows)
        looked = self.embeddings.look(planned.addressed, rows)
        pooled = self.embeddings.pool(looked)
        numbers_BM = torch.from_numpy(planned.batch.numbers_BM)
        absent_BF0 = numbers_BM.new_zeros(len(numbers_BM), len(self._sparse), 0)
        wide = [pooled[self._wide[name], name] for name in self._sparse] if self._wide else []
        narrow = [pooled[self._narrow[name], name] for name in self._sparse] if self._narrow else []
        embeddings_BFD = torch.stack(wide, dim=1) if wide else absent_BF0
        first_BF = torch.cat(narrow, dim=1) if narrow else absent_BF0[:, 0]
        more = [self._bag_vectors(looked)] if self._bags else []
        given = [self.computing.moved(one) for one in (embeddings_BFD, first_BF, numbers_BM, *more)]
        with self.computing.autocast(training=self.training):
            logits_B: Tensor = self.model(*given)
        return logits_B.to("cpu", torch.float32), looked

    def _bag_vectors(self, looked: Looked) -> dict[str, BagVectors]:
        """What a model takes that asks for bags before they are pooled."""
        vectors = {}
        for name in self._bags:
            lengths_B = torch.from_numpy(np.diff(looked.addressed.bags[name].offsets))
            examples_N = torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)
            vectors[name] = BagVectors(self.embeddings.vectors(name, self._wide[name], looked), examples_N)
        return vectors

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


def _planned_tables(blueprint: Blueprint, fields: Mapping[str, Any], with_first_order: bool) -> list[TableConfig]:
    optimizer = build_optimizer(blueprint.optimizer)
    return plan_tables(
        fields, blueprint.features, optimizer=optimizer, seed=blueprint.seed, with_first_order=with_first_order
    )


def _widened(
    blueprint: Blueprint, tables: list[TableConfig], row_dim: int, with_first_order: bool
) -> list[TableConfig]:
    """The tables with embeddings as wide as the model asks, planned anew for it; none where it asks for none."""
    if row_dim == 0:
        return []
    if row_dim == tables[0].embedding_dim:
        return tables
    return _planned_tables(blueprint, {**blueprint.table, "embedding_dim": row_dim}, with_first_order)


def _inputs(features: Sequence[Feature], embedding_dim: int) -> Inputs:
    """What the model is given: bags and sequences have the first id feature of their table for a target."""
    sparse = [feature for feature in features if feature.kind != "number"]
    ids = {f.table_name: f.name for f in reversed(sparse) if f.kind == "id"}
    return Inputs(
        feature_names=tuple(f.name for f in sparse),
        embedding_dim=embedding_dim,
        num_numbers=len(features) - len(sparse),
        targets={f.name: ids.get(f.table_name) for f in sparse if f.kind != "id"},
    )
