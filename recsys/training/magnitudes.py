"""Single weights by how large they are: thresholds that rise in training, and which weights stay when it is over.

Shape suffixes: I ids of a table, D embedding dimension, M numbers of all tables.
"""

from collections.abc import Callable, Mapping

import numpy as np

from recsys.errors import ConfigError, DataError
from recsys.hashing import Floats, Keys
from recsys.models.recommender import Recommender
from recsys.rows.store import RowReader
from recsys.tables.deeplight import DeepLight
from recsys.tables.kept_map import Bools
from recsys.tables.weights import PrunedWeights

_IDS_PER_PULL = 1 << 16


def weight_tables(recommender: Recommender) -> dict[str, PrunedWeights]:
    """The tables that are pruned weight by weight, by name."""
    return {
        name: table
        for name, table in recommender.embeddings.tables.items()
        if isinstance(table, PrunedWeights) and table.prunes
    }


def alive_share(recommender: Recommender, store: RowReader) -> dict[str, float]:
    """The part of all weights that do not read zero: a point of the pruning curve, ``kept``."""
    vectors = {name: vectors_of(recommender, name, store) for name in weight_tables(recommender)}
    if not vectors:
        return {}
    num_alive = sum(int(np.count_nonzero(vectors_ID)) for vectors_ID in vectors.values())
    return {"kept": num_alive / sum(vectors_ID.size for vectors_ID in vectors.values())}


def rising_tables(recommender: Recommender) -> list[DeepLight]:
    """The tables whose threshold rises in training."""
    return [table for table in weight_tables(recommender).values() if isinstance(table, DeepLight)]


def raise_thresholds(recommender: Recommender, store: RowReader, step: int) -> None:
    """Where ``step`` is due: the threshold of all tables, below which is as much as their schedule says (DeepLight)."""
    tables = rising_tables(recommender)
    if not tables or step % tables[0].pruning.every_steps:
        return
    magnitudes_M = np.concatenate([np.abs(_rows_of(table, store)).reshape(-1) for table in tables])
    num_pruned = int(tables[0].pruning.rate(step) * len(magnitudes_M))
    threshold = float(np.partition(magnitudes_M, num_pruned - 1)[num_pruned - 1]) if num_pruned else 0.0
    for table in tables:
        table.threshold.fill_(threshold)


def vectors_of(recommender: Recommender, name: str, store: RowReader) -> Floats:
    """The vectors of all ids of a table, float32 (I, D), as it makes them now; DataError for numbers that are none."""
    table = recommender.embeddings.tables[name]
    assert isinstance(table, PrunedWeights)
    embed, feature = recommender.embeddings.embed, table.config.feature_names[0]
    parts = [embed(name, feature, ids_N, store).detach().numpy() for ids_N in _all_ids(table)]
    vectors_ID = np.concatenate(parts)
    check_finite(name, vectors_ID)
    return vectors_ID


def check_finite(name: str, rows: Floats) -> None:
    """DataError where rows of a table, or vectors made of them, have numbers that are none."""
    if not np.isfinite(rows).all():
        raise DataError(
            f"the rows of table {name!r} have numbers that are none: training diverged; lower the learning rates, and "
            "train anew"
        )


class Ranked:
    """The numbers of some tables' vectors, the largest of which stay."""

    def __init__(self, vectors: Mapping[str, Floats]) -> None:
        self._magnitudes = {name: np.abs(vectors_ID) for name, vectors_ID in vectors.items()}
        self._rising_M = np.sort(np.concatenate([each.reshape(-1) for each in self._magnitudes.values()]))

    @property
    def num_numbers(self) -> int:
        """All of them."""
        return len(self._rising_M)

    @property
    def num_alive(self) -> int:
        """Those that are not zero."""
        return int((self._rising_M > 0).sum())

    def largest(self, num: int) -> dict[str, Bools]:
        """Which are among the ``num`` largest of all tables: bool (I, D) by table. No zeros; of equal ones all or none.

        >>> ranked = Ranked({"item": np.array([[0.0, -3.0], [1.0, 2.0]], np.float32)})
        >>> ranked.largest(2)["item"].tolist()
        [[False, True], [False, True]]
        """
        cut = self._rising_M[-num - 1] if num < self.num_numbers else 0.0
        return {name: magnitudes_ID > max(cut, 0.0) for name, magnitudes_ID in self._magnitudes.items()}

    def most_within(self, num_bytes: float, bytes_at: Callable[[int], int], asked: str) -> int:
        """How many may stay such that ``bytes_at`` that is no more than ``num_bytes``; ConfigError where none may."""
        if (least := bytes_at(0)) > num_bytes:
            raise ConfigError(
                f"table.{asked} allows {int(num_bytes):,} bytes, and to say that no weight is left takes {least:,}; "
                f"give budget={least} or more"
            )
        num, above = 0, self.num_alive + 1
        while above - num > 1:
            middle = (num + above) // 2
            num, above = (middle, above) if bytes_at(middle) <= num_bytes else (num, middle)
        return num


def _rows_of(table: DeepLight, store: RowReader) -> Floats:
    name = table.groups[0].name
    return np.concatenate([store.pull({name: ids_N})[name] for ids_N in _all_ids(table)])


def _all_ids(table: PrunedWeights) -> list[Keys]:
    """Every id of a table, some at a time."""
    num_ids = table.num_embeddings
    return [np.arange(start, min(num_ids, start + _IDS_PER_PULL)) for start in range(0, num_ids, _IDS_PER_PULL)]
