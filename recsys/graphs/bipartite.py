"""The user-item graph: which user had to do with which item, each pair once.

Shape suffixes: E edges, U users, I items.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse

from recsys.errors import DataError
from recsys.hashing import Keys


@dataclass(frozen=True)
class Bipartite:
    """Edges in order of (user, item), all of weight 1; ids are 0 … num_users − 1 and 0 … num_items − 1."""

    users_E: Keys
    items_E: Keys
    num_users: int
    num_items: int

    @classmethod
    def of(cls, users_E: Keys, items_E: Keys, num_users: int, num_items: int) -> "Bipartite":
        """The graph of some pairs, repeated ones once; DataError for an id outside, or no pair at all.

        >>> Bipartite.of(np.array([1, 0, 1]), np.array([0, 1, 0]), 2, 2).users_E.tolist()
        [0, 1]
        """
        for name, ids_E, size in (("user", users_E, num_users), ("item", items_E, num_items)):
            if len(ids_E) and not (ids_E.min() >= 0 and ids_E.max() < size):
                outside = ids_E[(ids_E < 0) | (ids_E >= size)][0]
                raise DataError(f"{name} id {outside} is outside [0, {size}); raise num_{name}s")
        if not len(users_E):
            raise DataError("there is no pair of a user and an item; nothing can be learned from that")
        pairs_E = np.unique(users_E.astype(np.int64) * num_items + items_E)
        return cls(pairs_E // num_items, pairs_E % num_items, num_users, num_items)

    @property
    def num_edges(self) -> int:
        """Pairs."""
        return len(self.users_E)

    @cached_property
    def matrix_UI(self) -> scipy.sparse.csr_matrix:
        """1 for each edge, float32 (U, I)."""
        ones_E = np.ones(self.num_edges, np.float32)
        return scipy.sparse.csr_matrix((ones_E, (self.users_E, self.items_E)), shape=(self.num_users, self.num_items))

    @cached_property
    def user_degrees_U(self) -> Keys:
        """Items of each user."""
        return np.bincount(self.users_E, minlength=self.num_users)

    @cached_property
    def item_degrees_I(self) -> Keys:
        """Users of each item."""
        return np.bincount(self.items_E, minlength=self.num_items)

    @cached_property
    def fingerprint(self) -> str:
        """A checksum of sizes and edges."""
        digest = hashlib.sha256(f"{self.num_users},{self.num_items};".encode())
        digest.update(self.users_E.tobytes())
        digest.update(self.items_E.tobytes())
        return digest.hexdigest()[:16]
