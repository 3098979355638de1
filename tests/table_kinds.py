"""Every table kind, small: the YAML fields beside kind and embedding_dim (a multiple of 4)."""

from typing import Any

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
    "int8": {},
}
OF_KNOWN_IDS = ("full", "mde", "int8")  # those that take 0 … num_embeddings − 1
