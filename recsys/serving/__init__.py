"""Look up embeddings and rank candidates from Redis alone: needs torch, redis and numpy, nothing else.

>>> from recsys.serving import Lookup, Ranker          # Lookup.connect(url).embeddings("item", [1, 2])
"""

from recsys.serving.concurrent import AsyncLookup, AsyncRanker, AsyncRetriever
from recsys.serving.lookup import Lookup
from recsys.serving.ranker import Ranker, Ranking
from recsys.serving.retriever import Recommendation, RetrievalConfig, Retriever
from recsys.serving.rows import CacheConfig

__all__ = [
    "AsyncLookup",
    "AsyncRanker",
    "AsyncRetriever",
    "CacheConfig",
    "Lookup",
    "Ranker",
    "Ranking",
    "Recommendation",
    "RetrievalConfig",
    "Retriever",
]
