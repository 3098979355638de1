"""Every table kind, small: the YAML fields beside kind and embedding_dim (a multiple of 4)."""

from typing import Any

import numpy as np

from recsys.tables.bucket_map import BucketMap, Buckets
from recsys.tables.code_map import CodeMap, IdCodes
from recsys.tables.frequent_map import FrequentMap
from recsys.tables.kept_map import KeptIds, KeptMap
from recsys.tables.sparse_map import SparseIds, SparseMap

_USERS, _ITEMS = np.arange(100), np.arange(80)
_OF_ITEMS = Buckets.of(np.where(_ITEMS < 2, _ITEMS, np.where(_ITEMS < 70, 2 + _ITEMS % 19, -1)), 21, num_own=2)
# items 0 and 1 have rows of their own; every seventh user and items from 70 on have no bucket
MAP = BucketMap(
    method="graphhash",
    data="small",
    fingerprint="none",
    seed=0,
    tables={
        "user": Buckets.of(np.where(_USERS % 7 != 6, _USERS % 23, -1), 23),
        "item": _OF_ITEMS,
        "track": _OF_ITEMS,
    },
).to_json()
# of ids 0 … 99 every thirteenth has gone; users' rows are narrower than any embedding
KEPT = KeptMap(
    method="optembed",
    data="small",
    tables={"user": KeptIds.of(_USERS % 13 != 2, 3), "item": KeptIds.of(_USERS % 13 != 2, 8)},
).to_json()
_DRAWN = np.random.default_rng(0).integers(0, 16, (2, 100, 2))
CODES = CodeMap(
    method="dpq",
    data="small",
    tables={"user": IdCodes.of(_DRAWN[0], 16), "item": IdCodes.of(_DRAWN[1], 16)},
).to_json()
FREQUENT = FrequentMap(
    method="counts",
    data="small",
    tables={"user": KeptIds.of(_USERS % 5 == 0, 1), "item": KeptIds.of(_USERS % 4 == 3, 1)},
).to_json()
# of the same ids between one and all of the numbers of a row, the first among them
_LEFT = (np.random.default_rng(1).random((2, 100, 8)) < 0.6) & (_USERS % 13 != 2)[:, None]
_LEFT[:, _USERS % 13 != 2, 0] = True
WEIGHTS = SparseMap(
    method="deeplight",
    data="small",
    tables={"user": SparseIds.of(_LEFT[0]), "item": SparseIds.of(_LEFT[1])},
).to_json()
SMALL: dict[str, dict[str, Any]] = {
    "full": {},
    "hash": {"num_buckets": 20},
    "unified": {"num_rows": 60, "num_chunks": 2},
    "collisionless": {},
    "double_hash": {"num_buckets": 20},
    "hash_embedding": {"num_buckets": 20},
    "compositional": {"num_remainders": 12},
    "robe": {"num_rows": 30, "block_size": 4},
    "tt_rec": {"rank": 3},
    "dhe": {"num_hashes": 8, "hidden_size": 6},
    "mde": {"alpha": 0.2},
    "frequency": {"hot_rows": 8, "num_buckets": 20, "occurrences": 2},
    "cafe": {"hot_rows": 8, "num_buckets": 20, "sketch_bytes": 512},
    "adaembed": {"max_rows": 60, "sketch_bytes": 512},
    "int8": {},
    "int16": {},
    "alpt": {},
    "graphhash": {"map": MAP},
    "double_graphhash": {"map": MAP},
    "optembed": {},
    "pruned": {"map": KEPT},
    "dpq": {"num_subspaces": 2, "num_centroids": 16},
    "mgqe": {"num_subspaces": 2, "num_centroids": 16, "map": FREQUENT},
    "codes": {"map": CODES},
    "deeplight": {},
    "pep": {},
    "autosrh": {},
    "sparse": {"map": WEIGHTS},
    "autodim": {},
    "cce": {"num_clusters": 16, "num_chunks": 2, "map": CODES, "round": 1},
    "dedup": {"block_rows": 4, "num_blocks": 6},
}
# those that take none but 0 … num_embeddings − 1
OF_KNOWN_IDS = (
    "full",
    "mde",
    "int8",
    "int16",
    "alpt",
    "optembed",
    "pruned",
    "dpq",
    "mgqe",
    "codes",
    "deeplight",
    "pep",
    "autosrh",
    "sparse",
    "autodim",
    "dedup",
)
