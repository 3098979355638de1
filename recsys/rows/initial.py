"""Initial rows: a function of (seed, key, column) and nothing else.

So a row starts the same on any number of shards, in whatever order ids arrive, in training and in serving, and
OptEmbed's "retrain from the initial rows" needs no snapshot.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from recsys import hashing
from recsys.fields import AtLeast
from recsys.hashing import Floats, Keys


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Uniform in [-scale, scale); ``scale=0`` is zeros.

    >>> Initial(scale=0.0).rows(np.array([1, 2]), width=3, seed=0).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    scale: Annotated[float, AtLeast(0)] = 0.05

    def rows(self, keys_N: Keys, width: int, seed: int) -> Floats:
        """The initial rows of ``keys_N``, float32 of shape (N, width)."""
        if self.scale == 0:
            return np.zeros((len(keys_N), width), np.float32)
        return hashing.uniform(keys_N, width, seed) * np.float32(self.scale)
