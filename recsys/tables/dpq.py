"""``dpq``: rows that are learned as codes into codebooks (DPQ-VQ, Chen, Li and Sun 2020).

An id's query row is cut into M pieces; each reads the nearest of the K centroids of its sub-space, so that an id's
vector is M codes. The gradient passes the choice by (straight-through) to the query; centroids follow the queries that
chose them, by a term of the loss. When training is over the codes are written down for every id, seen or not, and the
query rows go: the kind ``codes`` has M · log₂ K bits an id and the codebooks, which are dense parameters.

Shape suffixes: N ids, M sub-spaces, K centroids, S width of a sub-space, D = M · S embedding dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recsys import hashing
from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.fields import AtLeast
from recsys.hashing import Keys
from recsys.rows.optimizers import Optimizer
from recsys.tables.code_map import IdCodes, MixedCodes, bits_of
from recsys.tables.plan import Count, TablePlan, num_ids
from recsys.tables.table import Bytes, Form, Shrinks, Table, TableConfig, identity, require

_DEFAULT_CENTROIDS = 256
PADDING_BYTES = 8  # of packed codes, to read them eight bytes at once


@dataclass(frozen=True, kw_only=True)
class DPQConfig(TableConfig):
    """``num_embeddings`` query rows; ``quantizes`` is False of a companion, whose rows of one number stay."""

    kind: ClassVar[str] = "dpq"
    num_embeddings: int | None = None
    num_subspaces: int = 4
    num_centroids: int = _DEFAULT_CENTROIDS
    commitment: float = 0.25
    quantizes: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantizes and self.embedding_dim % self.num_subspaces:
            raise ConfigError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} must be a multiple of num_subspaces "
                f"{self.num_subspaces}"
            )

    def narrowed(self, optimizer: Optimizer, **changes: Any) -> TableConfig:
        """See TableConfig.narrowed."""
        return super().narrowed(optimizer, quantizes=False, **changes)


@dataclass(frozen=True, kw_only=True)
class DPQPlan(TablePlan):
    """``num_subspaces`` M; ``num_centroids`` K, or what a budget allows, or 256.

    ``commitment``: how strongly queries are drawn to their centroids, the weight β of the loss's second term.
    """

    num_subspaces: Count = 4
    num_centroids: Annotated[int, AtLeast(2)] | None = None
    commitment: Annotated[float, AtLeast(0)] = 0.25

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> DPQConfig:
        """See TablePlan.table: ``size`` is the number of bits of a code."""
        return DPQConfig(
            num_embeddings=num_ids(features),
            num_subspaces=self.num_subspaces,
            num_centroids=self.num_centroids or (2**size if size else _DEFAULT_CENTROIDS),
            commitment=self.commitment,
            **shared,
        )

    @property
    def is_sized(self) -> bool:
        """See TablePlan.is_sized."""
        return self.num_centroids is not None

    def largest_size(self, features: Sequence[Feature]) -> int:
        """See TablePlan.largest_size."""
        return 12


class DPQ(Table):
    """The id is the key of its query row."""

    shrinks: ClassVar[Shrinks] = "serving"
    streams = False
    stages: ClassVar[tuple[str, ...]] = ("queries", "codes", "finetune")
    composes_once = True

    def __init__(self, config: DPQConfig) -> None:
        super().__init__(config)
        self.num_embeddings = require(config, "num_embeddings", "set the feature's num_embeddings or vocabulary")
        self.id_range = f"[0, {self.num_embeddings})"
        self.quantizes, self._commitment = config.quantizes, config.commitment
        self.groups = (config.row_group(width=config.embedding_dim, num_rows=self.num_embeddings),)
        self._losses: list[Tensor] = []
        if self.quantizes:
            self.codebooks = nn.Parameter(first_codebooks(config, config.num_subspaces, config.num_centroids))

    def nbytes(self, form: Form, num_rows: Mapping[str, int] | None = None) -> Bytes:
        """See Table.nbytes; what is served are the codes, of all ids, and the codebooks."""
        if form == "training" or not self.quantizes:
            return super().nbytes(form, num_rows)
        num_subspaces, num_centroids, width = self.codebooks.shape
        bits = self.num_embeddings * num_subspaces * bits_of(num_centroids)
        return Bytes(rows=0, dense=4 * num_subspaces * num_centroids * width, maps=(bits + 7) // 8 + PADDING_BYTES)

    def begin_step(self, seed: int) -> None:
        """See Table.begin_step."""
        self._losses = []

    def address(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """See Table.address."""
        return {self.config.name: ids_N[:, None]}

    def compose(self, feature: str, ids_N: Tensor, rows_NKW: Mapping[str, Tensor]) -> Tensor:
        """See Table.compose: centroids forward, the query's gradient backward."""
        queries_ND = identity(rows_NKW)
        if not self.quantizes:
            return queries_ND
        chosen_ND = read_codes(self.codebooks, self.codes(queries_ND, ids_N))
        if self.training and torch.is_grad_enabled() and len(ids_N):
            to_queries = (chosen_ND - queries_ND.detach()).square().mean()
            to_centroids = (queries_ND - chosen_ND.detach()).square().mean()
            self._losses.append(to_queries + self._commitment * to_centroids)
        return queries_ND + (chosen_ND - queries_ND).detach()

    def penalty(self) -> Tensor:
        """See Table.penalty: mean of ‖sg(q) − c‖² + β ‖q − sg(c)‖², of what this step has composed."""
        return torch.stack(self._losses).sum() if self._losses else torch.zeros(())

    @torch.no_grad()
    def codes(self, queries_ND: Tensor, ids_N: Tensor | None = None) -> Tensor:
        """The nearest centroid in each sub-space, int64 (N, M); ``ids_N`` are those that the queries are of."""
        num_subspaces, _, width = self.codebooks.shape
        queries_MNS = queries_ND.view(-1, num_subspaces, width).transpose(0, 1)
        return torch.cdist(queries_MNS, self.codebooks).argmin(2).T

    def packed(self, codes_NM: Keys) -> IdCodes | MixedCodes:
        """The codes of all ids as they are served."""
        return IdCodes.of(codes_NM, self.codebooks.shape[1])

    def known(self, feature: str, ids_N: Tensor) -> Tensor:
        """See Table.known."""
        return (ids_N >= 0) & (ids_N < self.num_embeddings)


def read_codes(codebooks_MKS: Tensor, codes_NM: Tensor) -> Tensor:
    """The centroids of codes side by side, (N, D)."""
    num_subspaces, num_centroids, width = codebooks_MKS.shape
    places_NM = codes_NM + num_centroids * torch.arange(num_subspaces)
    chosen = codebooks_MKS.reshape(-1, width).index_select(0, places_NM.reshape(-1))
    return chosen.view(len(codes_NM), num_subspaces * width)


def first_codebooks(config: TableConfig, num_subspaces: int, num_centroids: int) -> Tensor:
    """(M, K, S), drawn as rows are, by the table's seed."""
    seed = hashing.seed_of(config.seed, config.name, "codebooks")
    drawn = hashing.uniform(np.arange(num_subspaces * num_centroids), config.embedding_dim // num_subspaces, seed)
    return torch.from_numpy(drawn * np.float32(config.initial.scale)).view(num_subspaces, num_centroids, -1)
