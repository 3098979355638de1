"""Embeddings by feature and ids, out of Redis."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recsys.errors import ConfigError, DataError
from recsys.hashing import Floats, Keys
from recsys.models.recommender import Recommender
from recsys.rows.store import RowReader
from recsys.serving.published import Published, PublishedRun, Versions, checked_ids
from recsys.serving.rows import CacheConfig


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
    def connect(cls, url: str, model: str = "recsys", cache: CacheConfig | None = None) -> "Lookup":
        """A lookup over the Redis at ``url``; ServiceError at the first call where none answers.

        ``cache`` keeps rows in this process, and states how old they may be.
        """
        return cls(Published(url, model, cache))

    def embeddings(self, feature: str, ids: Sequence[int | str] | Keys) -> Floats:
        """Embeddings of ids of a feature; ConfigError for an unknown feature, listing the known ones."""
        return self.embed(feature, ids).vectors_ND

    @torch.no_grad()
    def embed(self, feature: str, ids: Sequence[int | str] | Keys) -> Embedded:
        """``embeddings``, with the versions they come from."""
        while True:
            run = self.published.last_seen()
            try:
                found = self._embedded(run, feature, ids)
            except (ConfigError, DataError):
                if self.published.current()[0] is run:
                    raise
                continue  # it was wrong of a run that is not served any more
            if found is not None:
                return found

    def _embedded(self, run: PublishedRun, feature: str, ids: Sequence[int | str] | Keys) -> Embedded | None:
        """Embeddings out of one run; None where another is served by now. Rows and versions in one round trip."""
        ids_N = encoded(run.recommender, feature, ids)
        if run.tables_have_parameters:
            run, versions = self.published.current()
            recommender, versions = run.at(versions)
            return Embedded(recommender.embed(feature, ids_N, run.rows), versions)
        rows = _RowsAndVersions(self.published, run)
        vectors_ND = run.recommender.embed(feature, ids_N, rows)
        return None if rows.versions is None else Embedded(vectors_ND, rows.versions)


class _RowsAndVersions(RowReader):
    """A run's rows, for one pull, which also looks whether the run is served; ``versions`` are None where not."""

    def __init__(self, published: Published, run: PublishedRun) -> None:
        self._published, self._run = published, run
        self.versions: Versions | None = None

    def pull(self, keys: Mapping[str, Keys]) -> dict[str, Floats]:
        """See RowReader.pull."""
        rows, values = self._run.rows.pull_beside(keys, self._published.keys_of(self._run))
        self.versions = self._published.versions_of(self._run, values)
        return rows


def encoded(recommender: Recommender, feature: str, ids: Sequence[int | str] | Keys) -> Keys:
    """Raw ids as the int64 ids that a feature's table takes; integers without a look at each."""
    recommender.table_of(feature)
    if not any(f.name == feature and f.vocabulary for f in recommender.features):
        ids_N = integers(ids)
        if ids_N is not None:
            return ids_N
    return recommender.encode_ids(feature, checked_ids(ids))


def integers(ids: Sequence[int | str] | Keys) -> Keys | None:
    """Ids as an array, where all are plain integers of 64 bits; else None.

    >>> integers([1, 2]), integers([1, "2"]), integers([1, True]), integers([2**63])
    (array([1, 2]), None, None, None)
    """
    if isinstance(ids, np.ndarray):
        return ids if ids.ndim == 1 and ids.dtype == np.int64 else None
    if isinstance(ids, list | tuple) and set(map(type, ids)) == {int}:
        with contextlib.suppress(OverflowError):
            return np.array(ids, np.int64)
    return None
