"""Embeddings by feature and ids, out of Redis."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recsys.hashing import Floats
from recsys.serving.published import Published, Versions, checked_ids


@dataclass(frozen=True)
class Embedded:
    """Embeddings, float32 (N, D), in the order of the ids, and the versions they come from."""

    vectors_ND: Floats
    versions: Versions


class Lookup:
    """``Lookup.connect(url).embeddings("item", [1, 2])``: float32 (2, embedding_dim).

    The table's own ``address`` and ``compose`` run here over rows from Redis. An id that has no row reads what the
    table's configuration says (``absent``), as it does in training.
    """

    def __init__(self, published: Published) -> None:
        self.published = published

    @classmethod
    def connect(cls, url: str, model: str = "recsys") -> "Lookup":
        """A lookup over the Redis at ``url``; ServiceError at the first call where none answers."""
        return cls(Published(url, model))

    def embeddings(self, feature: str, ids: Sequence[int | str]) -> Floats:
        """Embeddings of ids of a feature; ConfigError for an unknown feature, listing the known ones."""
        return self.embed(feature, ids).vectors_ND

    @torch.no_grad()
    def embed(self, feature: str, ids: Sequence[int | str]) -> Embedded:
        """``embeddings``, with the versions they come from."""
        run, versions = self.published.current()
        ids_N = run.recommender.encode_ids(feature, checked_ids(ids))
        vectors_ND = run.recommender.embed(feature, ids_N, run.rows)
        return Embedded(vectors_ND, versions)
