"""Which ids of each table are frequent, counted before training: a flag an id.

Shape suffix: N ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recsys.hashing import Keys
from recsys.tables.id_map import IdMap
from recsys.tables.kept_map import KeptIds


@dataclass(frozen=True, kw_only=True)
class FrequentMap(IdMap):
    """The frequent ids of several tables, each as those of ``KeptIds``."""

    of_table: ClassVar[type[Any]] = KeptIds
    made_by: ClassVar[str] = "python -m jobs.train table=mgqe"

    tables: Mapping[str, KeptIds]


def most_frequent(counts_N: Keys, share: float) -> KeptIds:
    """The ``share`` of all ids that occurred most often, of those that occurred as often the lower.

    >>> most_frequent(np.array([1, 5, 0, 5, 2]), share=0.4).holds(np.arange(5)).tolist()
    [False, True, False, True, False]
    """
    is_frequent_N = np.zeros(len(counts_N), np.bool_)
    is_frequent_N[np.argsort(-counts_N, kind="stable")[: num_frequent(len(counts_N), share)]] = True
    return KeptIds.of(is_frequent_N, width=1)


def num_frequent(num_ids: int, share: float) -> int:
    """How many ids are the ``share`` that is frequent."""
    return round(share * num_ids)
