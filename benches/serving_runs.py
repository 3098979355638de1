"""What every measure of serving is made of: a Redis with films in it, how much of everything, and rounds in turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benches.result import Values
from benches.serving_data import Films
from recsys.embedded.redis import EmbeddedRedis
from recsys.embedded.redis_url import open_client

FEAST = "Feast's Redis online store"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    rows: int = 1_000_000
    items: int = 5_000
    calls: int = 200  # a round
    rounds: int = 7
    rankings: int = 300


QUICK = Sizes(rows=2_000, items=600, calls=5, rounds=2, rankings=10)


@dataclass(frozen=True)
class Served:
    """A Redis with films in it."""

    redis: EmbeddedRedis
    films: Films
    sizes: Sizes

    @property
    def client(self) -> Any:
        """A client of its own."""
        return open_client(self.redis.url)


def in_turns(rounds: int, *contenders: Callable[[], object]) -> list[Values]:
    """Seconds by round of each contender; a first round that warms things is left out."""
    seconds = np.zeros((len(contenders), rounds))
    for at in range(-1, rounds):
        for number, contender in enumerate(contenders):
            taken = seconds_of(contender)
            if at >= 0:
                seconds[number, at] = taken
    return [*seconds]


def seconds_of(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def some_ids(served: Served, num: int) -> list[Any]:
    """Ids of as many calls as a round has; those of 1000 ids are a tenth as many."""
    draw = np.random.default_rng(2)
    calls = max(2, served.sizes.calls * 100 // num)
    return [draw.choice(served.films.item_ids, num) for _ in range(calls)]
