"""``mgqe``: ``dpq`` where rare ids choose among fewer centroids (MGQE, Kang et al. 2020, section 3.3).

The frequent ids have all K centroids of a sub-space, the others the first K' of the same codebook: their codes are
shorter, and what they have in common is learned together. Which are frequent is counted before training, and goes with
the blueprint; ``codes`` serves both sorts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.fields import Above, AtLeast, Below
from recsys.hashing import Keys
from recsys.tables.bucket_map import PackedCodes
from recsys.tables.code_map import IdCodes, MixedCodes, bits_of
from recsys.tables.dpq import DPQ, DPQConfig, DPQPlan
from recsys.tables.frequent_map import FrequentMap, num_frequent
from recsys.tables.kept_map import KeptIds
from recsys.tables.plan import num_ids
from recsys.tables.table import Bytes, Form


@dataclass(frozen=True, kw_only=True)
class MGQEConfig(DPQConfig):
    """``rare_centroids`` K'; ``frequent`` ids, ``frequent_share`` of all; None before they are counted."""

    kind: ClassVar[str] = "mgqe"
    rare_centroids: int = 64
    frequent_share: float = 0.1
    frequent: KeptIds | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rare_centroids > self.num_centroids:
            raise ConfigError(
                f"table {self.name!r}: rare_centroids {self.rare_centroids} are more than num_centroids "
                f"{self.num_centroids}; give as many or fewer"
            )


@dataclass(frozen=True, kw_only=True)
class MGQEPlan(DPQPlan):
    """As DPQPlan; rare ids have ``rare_centroids``, or a quarter of the others.

    ``map``: which ids are frequent, where that is known: a file, or the map itself as JSON.
    """

    frequent_share: Annotated[float, Above(0), Below(1)] = 0.1
    rare_centroids: Annotated[int, AtLeast(2)] | None = None
    map: Path | Mapping[str, Any] | None = None

    def table(self, features: Sequence[Feature], size: int | None, **shared: Any) -> MGQEConfig:
        """See TablePlan.table: ``size`` is the number of bits of a frequent id's code."""
        num_centroids = self.num_centroids or (2**size if size else 256)
        rare_centroids = self.rare_centroids or max(2, num_centroids // 4)
        if self.num_centroids is None:  # the budget's word
            rare_centroids = min(rare_centroids, num_centroids)
        return MGQEConfig(
            num_embeddings=num_ids(features),
            num_subspaces=self.num_subspaces,
            num_centroids=num_centroids,
            rare_centroids=rare_centroids,
            commitment=self.commitment,
            frequent_share=self.frequent_share,
            frequent=self._frequent(shared["name"], num_ids(features)),
            **shared,
        )

    def _frequent(self, name: str, num_ids: int | None) -> KeptIds | None:
        """Of a table that the map does not speak of all ids; None without a map."""
        if self._frequent_map is None or num_ids is None:
            return None
        ids_N = np.arange(num_ids)
        frequent = self._frequent_map.tables.get(name)
        return KeptIds.of(np.ones(num_ids, np.bool_) if frequent is None else frequent.holds(ids_N), width=1)

    @cached_property
    def _frequent_map(self) -> FrequentMap | None:
        return None if self.map is None else FrequentMap.given(self.map)


class MGQE(DPQ):
    """As DPQ."""

    stages = ("frequencies", "queries", "codes", "finetune")

    def __init__(self, config: MGQEConfig) -> None:
        super().__init__(config)
        self._frequent, self._rare_centroids = config.frequent, config.rare_centroids
        self._num_frequent = num_frequent(self.num_embeddings, config.frequent_share)
        if self._frequent is not None:
            self._num_frequent = self._frequent.num_kept

    def nbytes(self, form: Form, num_rows: Mapping[str, int] | None = None) -> Bytes:
        """See Table.nbytes; what is served are the codes of both sorts, a flag an id, and the codebooks."""
        if form == "training" or not self.quantizes:
            return super().nbytes(form, num_rows)
        num_subspaces, num_centroids, _ = self.codebooks.shape
        flags = PackedCodes.bytes_of(self.num_embeddings, 1) + 4 * -(-PackedCodes.bytes_of(self.num_embeddings, 1) // 8)
        codes = sum(
            PackedCodes.bytes_of(num * num_subspaces, bits_of(centroids))
            for num, centroids in (
                (self._num_frequent, num_centroids),
                (self.num_embeddings - self._num_frequent, self._rare_centroids),
            )
        )
        return Bytes(rows=0, dense=4 * self.codebooks.numel(), maps=flags + codes)

    def map_bytes(self, form: Form) -> int:
        """See Table.map_bytes: the flags, in training."""
        return self._frequent.nbytes if self.quantizes and self._frequent is not None else 0

    @torch.no_grad()
    def codes(self, queries_ND: Tensor, ids_N: Tensor | None = None) -> Tensor:
        """See DPQ.codes; rare ids have the first centroids alone. ConfigError where nobody has counted them."""
        if self._frequent is None or ids_N is None:
            raise ConfigError(
                f"table {self.config.name!r} (kind=mgqe) has no map of frequent ids; python -m jobs.train table=mgqe "
                "counts them first, or give one as table.map"
            )
        num_subspaces, num_centroids, width = self.codebooks.shape
        queries_MNS = queries_ND.view(-1, num_subspaces, width).transpose(0, 1)
        distances_MNK = torch.cdist(queries_MNS, self.codebooks)
        is_rare_N = ~torch.from_numpy(self._frequent.holds(ids_N.numpy()))
        is_out_NK = is_rare_N[:, None] & (torch.arange(num_centroids) >= self._rare_centroids)
        return distances_MNK.masked_fill(is_out_NK, torch.inf).argmin(2).T

    def packed(self, codes_NM: Keys) -> IdCodes | MixedCodes:
        """See DPQ.packed."""
        assert self._frequent is not None
        return MixedCodes.of(
            codes_NM,
            self._frequent,
            num_centroids=self.codebooks.shape[1],
            rare_centroids=self._rare_centroids,
        )
